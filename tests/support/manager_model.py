"""KVCacheManager for one group of full attention and `lru`, slow and obvious.

Every rule of the manager stands here once, in plain Python, and the tests compare the two after
each call. An operation raises the manager's errors before it changes anything.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import Any

from pagedkv import CapacityError, PoolError, PoolExhaustedError, SequenceError, ShapeError

from .index_model import Extra, IndexModel, Node

Pair = tuple[int, int]


@dataclass(eq=False)
class Sequence:
    tokens: list[int]
    salt: bytes
    extras: tuple[Extra, ...]
    priority: int
    ttl: int
    reuse: bool
    store: bool
    status: str = "waiting"
    scheduled: int = 0
    committed: int = 0
    cached: int = 0
    blocks: list[int] = field(default_factory=list)
    path: list[Node] = field(default_factory=list)  # its blocks of the index
    shadows: dict[int, int] = field(default_factory=dict)  # depth: block of somebody else
    copy_sources: list[int] = field(default_factory=list)
    partial_source: int = -1
    owns_tail: bool = False
    index_again_at: int = 0  # a block could not enter the index: until so many tokens none does


@dataclass
class Batch:
    seq_lens: list[int]
    query_start_loc: list[int]
    positions: list[int]
    slot_mapping: list[int]
    tables: list[list[int]]
    copies: list[Pair]


class ManagerModel(IndexModel):
    def __init__(
        self, num_blocks: int, block_size: int, *, num_host_blocks: int = 0, **options: Any
    ) -> None:
        super().__init__(num_blocks, block_size, **options)
        self.sequences: dict[int, Sequence] = {}
        self.leases: dict[int, list[int]] = {}
        self.pins: dict[int, list[int]] = {}
        self.num_leases = 0
        self.host_fresh = 0
        self.host_freed: list[int] = []
        self.num_host_blocks = num_host_blocks

    # --- checks ---

    def find(self, ids: Seq[int], *statuses: str) -> list[Sequence]:
        if any(i not in self.sequences for i in ids) or len(set(ids)) != len(ids):
            raise SequenceError
        found = [self.sequences[i] for i in ids]
        if any(s.status not in (statuses or (s.status,)) for s in found):
            raise SequenceError
        return found

    def owns(self, block: int, copies: int = 0) -> bool:
        """May be written: what `copies` and pending copies read of it is read before that."""
        pending = sum(s.copy_sources.count(block) for s in self.sequences.values())
        return self.refs[block] - pending - copies == 1 and block not in self.node_of

    def shared_tail(self, s: Sequence) -> int:
        """The block that the next token goes into, if it may have to be copied."""
        tail, offset = divmod(s.scheduled, self.block_size)
        return s.blocks[tail] if offset and not s.owns_tail and tail < len(s.blocks) else -1

    def needed(self, sequences: Seq[Sequence], num_tokens: Seq[int]) -> list[int]:
        """Blocks that each takes, one after the other: the last that has a tail writes in it."""
        copies = Counter[int]()
        needed = []
        for s, n in zip(sequences, num_tokens, strict=True):
            blocks = max(-(-(s.scheduled + n) // self.block_size) - len(s.blocks), 0)
            tail = self.shared_tail(s)
            if n and tail != -1 and not self.owns(tail, copies[tail]):
                copies[tail] += 1
                blocks += 1
            needed.append(blocks)
        return needed

    def reserve(self, sequences: Seq[Sequence], needed: Seq[int]) -> int:
        """What must stay free beside blocks for sequences that have committed nothing yet."""
        asking = zip(sequences, needed, strict=True)
        return self.watermark if any(s.committed == 0 and n for s, n in asking) else 0

    # --- operations ---

    def may_enter(self, s: Sequence, block: int) -> bool:
        """It is not there under other tokens, which a fork of it was told; and nobody else holds
        it who does not hold what is above it in the index."""
        return block not in self.node_of and (not s.shadows or self.refs[block] == 1)

    def index_full(self, s: Sequence) -> None:
        limit = min(s.committed, len(s.tokens))
        if not self.prefix_caching or not s.store or s.status != "running":
            return
        if limit < s.index_again_at:
            return
        while (len(s.path) + 1) * self.block_size <= limit:
            depth = len(s.path)
            parent = s.path[-1] if s.path else self.root(s.salt)
            key = self.key_at(s.tokens, s.extras, depth)
            own = s.blocks[depth]
            found = [child for child in parent.children if child.key == key]
            if found:
                node = found[0]
                if node.block != own and self.refs[node.block] == 0 and self.may_enter(s, own):
                    self.replace(node, own, s.priority)
                elif node.block != own:
                    self.ref(node.block)
                    self.priority[node.block] = max(self.priority[node.block], s.priority)
                    s.shadows[depth] = node.block
            elif not self.may_enter(s, own):
                s.index_again_at = limit + self.block_size
                return
            else:
                node = Node(parent, key, own)
                parent.children.insert(0, node)
                self.node_of[own] = node
                self.priority[own] = s.priority
            s.path.append(node)

    def add(
        self,
        seq_id: int,
        tokens: list[int],
        *,
        salt: bytes = b"",
        extras: Seq[Extra] = (),
        priority: int = 0,
        ttl: int | None = None,
        reuse: bool = True,
        store: bool = True,
    ) -> None:
        if seq_id in self.sequences:
            raise SequenceError
        self.sequences[seq_id] = Sequence(
            list(tokens), salt, tuple(extras), priority, ttl or 0, reuse, store
        )

    def acquire(self, ids: Seq[int]) -> list[int]:
        for s in self.find(ids, "waiting"):
            s.status = "running"
            s.cached = s.index_again_at = 0
            if not (self.prefix_caching and s.reuse):
                continue
            s.path, partial, num_partial = self.match(s.tokens, s.salt, s.extras)
            for node in s.path:
                self.hit(node, s.priority)
                s.blocks.append(node.block)
            if partial is not None:
                self.hit(partial, s.priority)
                s.partial_source = partial.block
            s.cached = s.scheduled = s.committed = len(s.path) * self.block_size + num_partial
        return [self.sequences[i].cached for i in ids]

    def fit(self, ids: Seq[int], num_new_tokens: Seq[int]) -> int:
        found = self.find(ids, "running")
        for n in range(len(ids), 0, -1):
            needed = self.needed(found[:n], num_new_tokens[:n])
            if sum(needed) + self.reserve(found[:n], needed) <= self.num_free_blocks:
                return n
        return 0

    def schedule(self, ids: Seq[int], num_new_tokens: Seq[int], *, lookahead: int = 0) -> Batch:
        found = self.find(ids, "running")
        needed = self.needed(found, [n + lookahead for n in num_new_tokens])
        reserve = self.reserve(found, needed)
        if sum(needed) + reserve > self.num_free_blocks:
            raise PoolExhaustedError("", sum(needed), max(self.num_free_blocks - reserve, 0))
        self.advance_step()
        copies: list[Pair] = []
        for s, n in zip(found, num_new_tokens, strict=True):
            if n + lookahead:
                self.grow(s, n + lookahead, copies)
            s.scheduled += n
        return self.batch(found, num_new_tokens, copies)

    def grow(self, s: Sequence, more: int, copies: list[Pair]) -> None:
        source = -1
        if s.partial_source != -1:
            source, s.partial_source = s.partial_source, -1
            s.blocks.append(self.take())
            copies.append((source, s.blocks[-1]))
        elif (tail := self.shared_tail(s)) != -1 and not self.owns(tail):
            source, s.blocks[s.blocks.index(tail)] = tail, self.take()
            copies.append((source, s.blocks[s.scheduled // self.block_size]))
        if source != -1:
            s.copy_sources.append(source)
        s.owns_tail = True
        while len(s.blocks) * self.block_size < s.scheduled + more:
            s.blocks.append(self.take())

    def batch(self, found: Seq[Sequence], counts: Seq[int], copies: list[Pair]) -> Batch:
        out = Batch([], [0], [], [], [], copies)
        for s, n in zip(found, counts, strict=True):
            # A partial hit is in the table once it is copied, which the first new token does.
            pending = s.partial_source != -1
            length = len(s.blocks) * self.block_size if pending else s.scheduled
            new = range(length - n, length)
            out.seq_lens.append(length)
            out.query_start_loc.append(out.query_start_loc[-1] + n)
            out.positions.extend(new)
            size = self.block_size
            out.slot_mapping.extend(s.blocks[p // size] * size + p % size for p in new)
            out.tables.append(s.blocks[: -(-length // size)])
        return out

    def commit(self, ids: Seq[int], num_tokens: Seq[int]) -> None:
        found = self.find(ids, "running")
        if any(s.committed + n > s.scheduled for s, n in zip(found, num_tokens, strict=True)):
            raise CapacityError
        for s, n in zip(found, num_tokens, strict=True):
            s.committed += n
            if n:
                self.drop_copy_sources(s)
            self.index_full(s)

    def append(self, ids: Seq[int], tokens: list[int], counts: Seq[int]) -> None:
        found = self.find(ids)
        tokens = list(tokens)
        for s, n in zip(found, counts, strict=True):
            s.tokens += tokens[:n]
            del tokens[:n]
            self.index_full(s)

    def step(self, ids: Seq[int], tokens: list[int]) -> Batch:
        after = copy.deepcopy(self)
        after.commit(ids, [1] * len(ids))
        after.append(ids, tokens, [1] * len(ids))
        batch = after.schedule(ids, [1] * len(ids))
        self.__dict__ = after.__dict__
        return batch

    def truncate(self, ids: Seq[int], num_tokens: Seq[int]) -> list[int]:
        for s, n in zip(self.find(ids, "waiting", "running"), num_tokens, strict=True):
            del s.tokens[n:]
            s.index_again_at = 0
            if n < s.scheduled:
                self.drop_copy_sources(s)
                self.cut(s, n)
                s.owns_tail = False
        return [self.sequences[i].scheduled for i in ids]

    def cut(self, s: Sequence, length: int) -> None:
        if s.partial_source != -1 and length <= len(s.blocks) * self.block_size:
            self.unref(s.partial_source)
            s.partial_source = -1
        self.give_back(s, -(-length // self.block_size), length // self.block_size)
        s.scheduled = length
        s.committed = min(s.committed, length)

    def give_back(self, s: Sequence, first: int, indexed: int) -> None:
        """Blocks from `first` on, the tail before the head, and places in the index."""
        for depth in reversed(range(max(len(s.blocks), len(s.path)))):
            if depth >= indexed and depth in s.shadows:
                self.unref(s.shadows.pop(depth), s.ttl)
            if first <= depth < len(s.blocks):
                self.unref(s.blocks[depth], s.ttl)
        del s.blocks[first:]
        del s.path[indexed:]

    def drop_copy_sources(self, s: Sequence) -> None:
        for block in s.copy_sources:
            self.unref(block)
        s.copy_sources = []

    def accept(self, ids: Seq[int], paths: Seq[Seq[int]]) -> list[Pair]:
        found = self.find(ids, "running")
        for s, path in zip(found, paths, strict=True):
            drafts = s.scheduled - s.committed
            known = max(len(s.tokens) - s.committed, 0)
            if list(path) != sorted(set(path)) or any(not 0 <= o < drafts for o in path):
                raise ShapeError
            if any(o != i for i, o in enumerate(path[:known])):
                raise ShapeError
        moves = []
        for s, path in zip(found, paths, strict=True):

            def slot(offset: int, s: Sequence = s) -> int:
                block, within = divmod(s.committed + offset, self.block_size)
                return s.blocks[block] * self.block_size + within

            moves += [(slot(o), slot(i)) for i, o in enumerate(path) if o != i]
            if s.committed + len(path) < s.scheduled:
                self.cut(s, s.committed + len(path))
            self.commit([i for i, t in self.sequences.items() if t is s], [len(path)])
        return moves

    def fork(self, seq_id: int, new_id: int) -> None:
        (s,) = self.find([seq_id], "waiting", "running")
        if new_id in self.sequences:
            raise SequenceError
        t = copy.copy(s)
        t.tokens, t.path, t.shadows = list(s.tokens), list(s.path), dict(s.shadows)
        t.copy_sources = []
        t.scheduled = s.committed
        t.blocks = s.blocks[: -(-s.committed // self.block_size)]
        for block in [*t.blocks, *t.shadows.values()]:
            self.ref(block)
        if t.partial_source != -1:
            self.ref(t.partial_source)
        s.owns_tail = t.owns_tail = False
        self.sequences[new_id] = t

    def preempt(self, ids: Seq[int]) -> None:
        for s in self.find(ids, "running"):
            self.release_all(s)
            s.status = "waiting"

    def release_all(self, s: Sequence) -> None:
        self.drop_copy_sources(s)
        if s.partial_source != -1:
            self.unref(s.partial_source, s.ttl)
            s.partial_source = -1
        self.give_back(s, 0, 0)
        s.scheduled = s.committed = 0
        s.owns_tail = False

    def free(self, ids: Seq[int]) -> None:
        for s in self.find(ids):
            if s.status == "swapped":
                self.host_freed += s.blocks
            else:
                self.release_all(s)
        for i in ids:
            del self.sequences[i]

    # --- holding on ---

    def held_blocks(self, s: Sequence, num_tokens: int) -> list[int]:
        held = []
        if s.partial_source != -1 and num_tokens > len(s.blocks) * self.block_size:
            held.append(s.partial_source)
        for depth in reversed(range(min(-(-num_tokens // self.block_size), len(s.blocks)))):
            held += [s.shadows[depth]] if depth in s.shadows else []
            held.append(s.blocks[depth])
        return held

    def hold(self, seq_id: int, num_tokens: int) -> int:
        (s,) = self.find([seq_id], "running")
        if num_tokens > s.scheduled:
            raise CapacityError
        self.num_leases += 1
        self.leases[self.num_leases] = self.held_blocks(s, num_tokens)
        for block in self.leases[self.num_leases]:
            self.ref(block)
        return self.num_leases

    def release(self, lease: int) -> None:
        self.let_go(self.leases, lease)

    def pin(self, seq_id: int) -> None:
        (s,) = self.find([seq_id], "running")
        held = self.held_blocks(s, s.committed)
        for block in held:
            self.ref(block)
        for block in self.pins.get(seq_id, []):
            self.unref(block)
        self.pins[seq_id] = held

    def unpin(self, seq_id: int) -> None:
        self.let_go(self.pins, seq_id)

    def let_go(self, holds: dict[int, list[int]], key: int) -> None:
        if key not in holds:
            raise SequenceError
        for block in holds.pop(key):
            self.unref(block)

    # --- moving ---

    def swap_out(self, ids: Seq[int]) -> list[Pair]:
        found = self.find(ids, "running")
        if any(s.scheduled != s.committed for s in found):
            raise CapacityError
        needed = sum(len(s.blocks) + (s.partial_source != -1) for s in found)
        free = self.num_host_blocks - self.host_fresh + len(self.host_freed)
        if needed > free:
            raise PoolExhaustedError("", needed, free)
        pairs = []
        for s in found:
            self.drop_copy_sources(s)
            if s.partial_source != -1:
                s.blocks.append(s.partial_source)
                s.partial_source = -1
            on_host = []
            for block in s.blocks:
                if self.host_freed:
                    on_host.append(self.host_freed.pop())
                else:
                    on_host.append(self.host_fresh)
                    self.host_fresh += 1
                pairs.append((block, on_host[-1]))
            for block in reversed(s.blocks):
                self.unref(block, s.ttl)
            for depth in sorted(s.shadows, reverse=True):
                self.unref(s.shadows[depth], s.ttl)
            s.blocks, s.shadows, s.path = on_host, {}, []
            s.status = "swapped"
        return pairs

    def swap_in(self, ids: Seq[int]) -> list[Pair]:
        found = self.find(ids, "swapped")
        needed = sum(len(s.blocks) for s in found)
        if needed > self.num_free_blocks:
            raise PoolExhaustedError("", needed, self.num_free_blocks)
        pairs = []
        for s in found:
            blocks = []
            for on_host in s.blocks:
                blocks.append(self.take())
                pairs.append((on_host, blocks[-1]))
                self.host_freed.append(on_host)
            s.blocks = blocks
            s.owns_tail = True
            s.index_again_at = 0
            s.status = "running"
        for s in found:
            self.index_full(s)
        return pairs

    def compact(self) -> list[Pair]:
        fixed = {block for blocks in self.leases.values() for block in blocks}

        def live(block: int) -> bool:
            return bool(self.refs.get(block)) or block in self.node_of

        now_at = {b: b for b in range(self.fresh)}
        for block in reversed(range(self.first_id, self.fresh)):
            taken = {now_at[b] for b in range(self.fresh) if live(b)}
            holes = [b for b in range(self.first_id, block) if b not in taken]
            if live(block) and block not in fixed and holes:
                now_at[block] = holes[0]
        self.translate(now_at)
        taken = {b for b in range(self.fresh) if live(b)}
        self.fresh = max(taken, default=self.first_id - 1) + 1
        self.freed = [b for b in reversed(range(self.first_id, self.fresh)) if b not in taken]
        return [(b, at) for b, at in sorted(now_at.items()) if b != at]

    def translate(self, now_at: dict[int, int]) -> None:
        moved = {b: at for b, at in now_at.items() if self.refs.get(b) or b in self.node_of}
        books: list[dict[int, Any]] = [
            self.refs,
            self.node_of,
            self.priority,
            self.released_at,
            self.due,
        ]
        for book in books:
            entries = {moved[b]: value for b, value in book.items() if b in moved}
            book.clear()
            book.update(entries)
        for block, node in self.node_of.items():
            node.block = block
        for s in self.sequences.values():
            if s.status == "swapped":
                continue
            s.blocks = [moved[b] for b in s.blocks]
            s.shadows = {depth: moved[b] for depth, b in s.shadows.items()}
            s.copy_sources = [moved[b] for b in s.copy_sources]
            s.partial_source = moved.get(s.partial_source, -1)
        for held in (self.leases, self.pins):
            for key, blocks in held.items():
                held[key] = [moved[b] for b in blocks]

    # --- the pool as a whole ---

    def probe(self, tokens: list[int], *, salt: bytes = b"", extras: Seq[Extra] = ()) -> int:
        if not self.prefix_caching:
            return 0
        path, _, num_partial = self.match(tokens, salt, extras)
        return len(path) * self.block_size + num_partial

    def evict(self, n: int) -> int:
        evicted = 0
        while evicted < n and self.released_at:
            block = self.next_victim()
            self.forget(block)
            self.freed.append(block)
            evicted += 1
        return evicted

    def reset(self) -> None:
        if self.num_free_blocks != self.num_blocks - self.first_id:
            raise PoolError
        self.evict(len(self.released_at))
