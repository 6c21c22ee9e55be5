"""An engine that keeps what it would compute: a slot's content is the prefix that it stands for.

What it reads back for a new token through a batch must be exactly what that token may see.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pagedkv import KVCacheManager

Content = Any


@dataclass(frozen=True)
class Group:
    kind: str  # "full", "window", "ssm"
    block_size: int
    window: int = 0
    sinks: int = 0

    def sees(self, query: int, position: int) -> bool:
        """Whether the token at `query` looks at the one at `position`."""
        if self.kind == "window":
            return position < self.sinks or query - position < self.window
        return True


@dataclass
class Stream:
    """What a sequence stands for: a salt, and its tokens, those that will be sampled included."""

    salt: bytes
    tokens: list[int]

    def prefix(self, length: int) -> Content:
        return (self.salt, *self.tokens[:length])


class Engine:
    def __init__(self, manager: KVCacheManager, groups: list[Group]) -> None:
        self.manager = manager
        self.groups = groups
        self.blocks: dict[int, dict[int, Content]] = {}  # block: offset: content
        self.host: dict[int, dict[int, Content]] = {}

    def copy(self, pairs: Any, source: Any, target: Any) -> None:
        taken = [(dict(source.get(a, {})), b) for a, b in pairs.tolist()]
        for content, b in taken:
            target[b] = content

    def run(self, batch: Any, streams: list[Stream]) -> None:
        """One forward pass: the copies, then each new token reads what it sees and is written."""
        for g in range(len(self.groups)):
            for source, target in batch[g].copies.tolist():
                self.blocks[target] = dict(self.blocks.get(source, {}))
        starts = batch.query_start_loc.tolist()
        for row, stream in enumerate(streams):
            positions = batch.positions[starts[row] : starts[row + 1]].tolist()
            for g, group in enumerate(self.groups):
                if group.kind == "ssm":
                    self.run_states(int(batch[g].state_slots[row]), positions, stream)
                else:
                    slots = batch[g].slot_mapping[starts[row] : starts[row + 1]].tolist()
                    self.run_attention(batch[g], group, row, positions, slots, stream)

    def run_states(self, slot: int, positions: list[int], stream: Stream) -> None:
        if not positions:
            return
        first = positions[0]
        if first != 0:
            assert self.blocks[slot][0] == stream.prefix(first), "a state of other tokens"
        self.blocks[slot] = {0: stream.prefix(positions[-1] + 1)}

    def run_attention(
        self,
        part: Any,
        group: Group,
        row: int,
        positions: list[int],
        slots: list[int],
        stream: Stream,
    ) -> None:
        size = group.block_size
        table = part.block_tables[row].tolist()
        for position, slot in zip(positions, slots, strict=True):
            assert slot == table[position // size] * size + position % size
            self.blocks.setdefault(slot // size, {})[slot % size] = stream.prefix(position + 1)
        live = part.kv_indices[part.kv_indptr[row] : part.kv_indptr[row + 1]].tolist()
        for query in positions:
            for position in range(query + 1):
                if group.sees(query, position):
                    block = table[position // size]
                    assert block in live
                    found = self.blocks[block].get(position % size)
                    assert found == stream.prefix(position + 1), f"{group} at {position}"

    def compact(self) -> None:
        self.copy(self.manager.compact(), self.blocks, self.blocks)

    def swap_out(self, ids: list[int]) -> None:
        self.copy(self.manager.swap_out(ids), self.blocks, self.host)

    def swap_in(self, ids: list[int]) -> None:
        self.copy(self.manager.swap_in(ids), self.host, self.blocks)

    def accept(self, seq_id: int, path: list[int], stream: Stream) -> None:
        """The accepted drafts have computed what the stream goes on with, the others have not."""
        committed = self.manager.num_committed(seq_id)
        drafts = self.manager.num_scheduled(seq_id) - committed
        for g, group in enumerate(self.groups):
            table = self.manager.block_ids(seq_id, g).tolist()
            for offset in range(drafts):
                block, within = divmod(committed + offset, group.block_size)
                content = ("rejected", offset)
                if offset in path:
                    content = stream.prefix(committed + path.index(offset) + 1)
                self.blocks[table[block]][within] = content
        moves = self.manager.accept([seq_id], [path])
        for g, group in enumerate(self.groups):
            size = group.block_size
            for source, target in (moves if len(self.groups) > 1 else [moves])[g].tolist():
                content = self.blocks[source // size].get(source % size)
                self.blocks[target // size][target % size] = content
