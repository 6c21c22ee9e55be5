"""Blocks and the prefix index over them: what `manager_model` stands on."""

from __future__ import annotations

import math
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field

SIBLINGS_TRIED = 16
Extra = tuple[int, int, bytes]
Key = tuple[tuple[int, ...], tuple[Extra, ...]]


@dataclass(eq=False)
class Node:
    """A block of the prefix index."""

    parent: Node | None
    key: Key  # its tokens and the extras that overlap it
    block: int = -1
    children: list[Node] = field(default_factory=list)  # the most recently used first


def overlapping(extras: Seq[Extra], first: int, last: int) -> tuple[Extra, ...]:
    return tuple(
        (start - first, length, digest)
        for start, length, digest in extras
        if start < last and start + length > first
    )


class IndexModel:
    """The blocks, who holds them, and the index over them."""

    def __init__(
        self,
        num_blocks: int,
        block_size: int,
        *,
        prefix_caching: bool = True,
        partial_reuse: bool = True,
        watermark: float = 0.0,
        null_block: bool = False,
    ) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.prefix_caching = prefix_caching
        self.partial_reuse = partial_reuse
        self.first_id = int(null_block)
        self.watermark = math.ceil(watermark * (num_blocks - self.first_id)) if watermark else 0
        self.fresh = self.first_id  # blocks from here on were never taken
        self.freed: list[int] = []  # the next one last
        self.refs: dict[int, int] = {}
        self.node_of: dict[int, Node] = {}  # of indexed blocks
        self.priority: dict[int, int] = {}
        self.released_at: dict[int, int] = {}  # of indexed blocks that nobody holds
        self.due: dict[int, int] = {}  # and the step at which their time to live ends
        self.clock = 0
        self.steps = 0
        self.evictions = 0
        self.roots: dict[bytes, Node] = {}

    # --- the pool ---

    @property
    def num_free_blocks(self) -> int:
        return self.num_blocks - self.fresh + len(self.freed) + len(self.released_at)

    def take(self) -> int:
        if self.freed:
            block = self.freed.pop()
        elif self.fresh < self.num_blocks:
            block = self.fresh
            self.fresh += 1
        else:
            block = self.next_victim()
            self.forget(block)
        self.refs[block] = 1
        return block

    def ref(self, block: int) -> None:
        self.refs[block] += 1
        self.released_at.pop(block, None)
        self.due.pop(block, None)

    def unref(self, block: int, ttl: int = 0) -> None:
        self.refs[block] -= 1
        if self.refs[block]:
            return
        if block not in self.node_of:
            self.freed.append(block)
            return
        self.clock += 1
        self.released_at[block] = self.clock
        if ttl:
            self.due[block] = self.steps + ttl

    def is_leaf(self, block: int) -> bool:
        return not self.node_of[block].children

    def next_victim(self) -> int:
        """Lowest priority first, then least recently used; a parent after its children."""
        leaves = [b for b in self.released_at if self.is_leaf(b)]
        return min(leaves, key=lambda b: (self.priority[b], self.released_at[b]))

    def forget(self, block: int) -> None:
        node = self.node_of.pop(block)
        assert node.parent is not None
        node.parent.children.remove(node)
        del self.released_at[block]
        self.due.pop(block, None)
        self.evictions += 1

    def advance_step(self) -> None:
        """A block whose time comes while others hang on it goes with the last of them."""
        self.steps += 1
        while due := [b for b, step in self.due.items() if step <= self.steps and self.is_leaf(b)]:
            block = min(due, key=lambda b: (self.due[b], self.released_at[b]))
            self.forget(block)
            self.freed.append(block)

    # --- the index ---

    def root(self, salt: bytes) -> Node:
        return self.roots.setdefault(salt, Node(None, ((), ())))

    def key_at(self, tokens: list[int], extras: Seq[Extra], depth: int) -> Key:
        first, last = depth * self.block_size, (depth + 1) * self.block_size
        return tuple(tokens[first:last]), overlapping(extras, first, last)

    def match(
        self, tokens: list[int], salt: bytes, extras: Seq[Extra]
    ) -> tuple[list[Node], Node | None, int]:
        """Whole blocks, and the block whose first tokens are the next ones, and how many."""
        limit = max(len(tokens) - 1, 0)
        path: list[Node] = []
        node = self.roots.get(salt) or Node(None, ((), ()))
        while (len(path) + 1) * self.block_size <= limit:
            key = self.key_at(tokens, extras, len(path))
            found = [child for child in node.children if child.key == key]
            if not found:
                break
            node = found[0]
            path.append(node)
        first = len(path) * self.block_size
        if not self.partial_reuse or overlapping(extras, first, first + self.block_size):
            return path, None, 0
        rest = tokens[first : min(limit, first + self.block_size)]
        best, longest = None, 0
        for child in node.children[:SIBLINGS_TRIED]:
            if child.key[1]:
                continue
            common = 0
            while common < len(rest) and child.key[0][common] == rest[common]:
                common += 1
            if common > longest:
                best, longest = child, common
        return path, best, longest

    def replace(self, node: Node, block: int, priority: int) -> None:
        """`block` holds the same as the node's, which nobody uses, and takes its place."""
        old = node.block
        self.ref(old)
        self.refs[old] = 0
        self.freed.append(old)
        node.block = block
        self.node_of[block] = self.node_of.pop(old)
        self.priority[block] = max(self.priority[old], priority)

    def hit(self, node: Node, priority: int) -> None:
        assert node.parent is not None
        node.parent.children.remove(node)
        node.parent.children.insert(0, node)
        self.ref(node.block)
        self.priority[node.block] = max(self.priority[node.block], priority)
