"""Several PagedSeqStates over one small allocator, beside lists of blocks."""

from dataclasses import dataclass, field

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pagedkv import BlockAllocator, CapacityError, PagedSeqState, PoolExhaustedError

SEQUENCES = st.integers(0, 2)


@dataclass
class Model:
    """What the host holds, and what the device was last told."""

    blocks: list[int] = field(default_factory=list)
    length: int = 0
    table: list[int] = field(default_factory=list)
    written_length: int = 0


class PagedSeqStateMachine(RuleBasedStateMachine):
    @initialize(
        capacity=st.integers(0, 10), block_size=st.integers(1, 4), max_blocks=st.integers(0, 5)
    )
    def make(self, capacity: int, block_size: int, max_blocks: int) -> None:
        self.alloc = BlockAllocator(capacity)
        self.free = list(reversed(range(capacity)))
        self.block_size, self.max_blocks = block_size, max_blocks
        self.states = [PagedSeqState(block_size, max_blocks) for _ in range(3)]
        self.models = [Model(table=[-1] * max_blocks) for _ in range(3)]

    def upload(self, model: Model) -> None:
        model.table = model.blocks + [-1] * (self.max_blocks - len(model.blocks))

    def give_back(self, model: Model, keep: int) -> None:
        self.free += reversed(model.blocks[keep:])
        del model.blocks[keep:]

    @rule(index=SEQUENCES, target_len=st.integers(0, 24))
    def ensure_capacity(self, index: int, target_len: int) -> None:
        state, model = self.states[index], self.models[index]
        needed = -(-target_len // self.block_size)
        more = needed - len(model.blocks)
        if needed > self.max_blocks:
            with pytest.raises(CapacityError):
                state.ensure_capacity(self.alloc, target_len)
        elif more > len(self.free):
            with pytest.raises(PoolExhaustedError) as raised:
                state.ensure_capacity(self.alloc, target_len)
            assert (raised.value.needed, raised.value.free) == (more, len(self.free))
        else:
            state.ensure_capacity(self.alloc, target_len)
            model.blocks += [self.free.pop() for _ in range(max(more, 0))]
            self.upload(model)

    @rule(index=SEQUENCES, length=st.integers(0, 24))
    def sync_context_len(self, index: int, length: int) -> None:
        state, model = self.states[index], self.models[index]
        state.len = model.length = length
        if length > len(model.blocks) * self.block_size:
            with pytest.raises(CapacityError):
                state.sync_context_len()
        else:
            state.sync_context_len()
            model.written_length = length

    @rule(index=SEQUENCES)
    def release(self, index: int) -> None:
        self.states[index].release(self.alloc)
        self.give_back(self.models[index], 0)
        self.models[index].length = 0

    @rule(index=SEQUENCES, num_tokens=st.integers(0, 24))
    def truncate(self, index: int, num_tokens: int) -> None:
        self.states[index].truncate(self.alloc, num_tokens)
        model = self.models[index]
        self.give_back(model, -(-num_tokens // self.block_size))
        model.length = min(model.length, num_tokens)

    @invariant()
    def agrees(self) -> None:
        for state, model in zip(self.states, self.models, strict=True):
            assert state.blocks == model.blocks
            assert state.len == model.length
            assert state.block_table_buf.tolist() == model.table
            assert state.context_lens_buf.tolist() == [model.written_length]
        held = sorted(block for model in self.models for block in model.blocks)
        assert [block for block in range(self.alloc.capacity) if block in self.alloc] == held
        assert self.alloc.free_count == len(self.free)


TestPagedSeqState = PagedSeqStateMachine.TestCase
