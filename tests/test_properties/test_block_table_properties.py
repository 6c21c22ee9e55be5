"""BlockTable beside a list of lists."""

import copy

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pagedkv import BlockTable, InvalidSlotError

LAYERS = st.integers(-1, 4)


class BlockTableMachine(RuleBasedStateMachine):
    @initialize(num_layers=st.integers(0, 4), block_size=st.integers(1, 5))
    def make(self, num_layers: int, block_size: int) -> None:
        self.table = BlockTable(num_layers, block_size)
        self.rows: list[list[int]] = [[] for _ in range(num_layers)]
        self.block_size = block_size

    def is_layer(self, layer: int) -> bool:
        return 0 <= layer < len(self.rows)

    @rule(layer=LAYERS, block=st.integers(0, 2**31 - 1))
    def append_block(self, layer: int, block: int) -> None:
        if self.is_layer(layer):
            self.table.append_block(layer, block)
            self.rows[layer].append(block)
        else:
            with pytest.raises(InvalidSlotError):
                self.table.append_block(layer, block)

    @rule(layer=LAYERS, num_tokens=st.integers(0, 40))
    def truncate(self, layer: int, num_tokens: int) -> None:
        if self.is_layer(layer):
            keep = -(-num_tokens // self.block_size)
            assert self.table.truncate(layer, num_tokens).tolist() == self.rows[layer][keep:]
            del self.rows[layer][keep:]
        else:
            with pytest.raises(InvalidSlotError):
                self.table.truncate(layer, num_tokens)

    @rule(layer=LAYERS, logical=st.integers(0, 10))
    def get_block(self, layer: int, logical: int) -> None:
        if self.is_layer(layer):
            row = self.rows[layer]
            expected = row[logical] if logical < len(row) else None
            assert self.table.get_block(layer, logical) == expected
        else:
            with pytest.raises(InvalidSlotError):
                self.table.get_block(layer, logical)

    @rule()
    def go_on_with_a_copy(self) -> None:
        before, self.table = self.table, copy.copy(self.table)
        assert self.table == before
        if self.rows:
            before.append_block(0, 1)
            assert self.table != before

    @invariant()
    def agrees(self) -> None:
        assert [row.tolist() for row in self.table] == self.rows
        width = max(map(len, self.rows), default=0)
        padded = [row + [-1] * (width - len(row)) for row in self.rows]
        assert self.table.as_array().tolist() == padded
        assert self.table.as_array().shape == (len(self.rows), width)
        for layer, row in enumerate(self.rows):
            assert self.table.num_blocks(layer) == len(row)
            assert self.table.token_capacity(layer) == len(row) * self.block_size


TestBlockTable = BlockTableMachine.TestCase
