"""SsmStatePool and SequencePool beside a dictionary of states."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from support.values import same_bits, tokens

from pagedkv import (
    InvalidSlotError,
    PoolExhaustedError,
    SequencePool,
    SsmSlot,
    SsmSnapshot,
    SsmStatePool,
    SsmStateSpec,
)

SSM, CONV = (2, 2, 3, 2), (2, 3, 3)
SLOTS = st.integers(-1, 5)
SEEDS = st.integers(0, 2**32 - 1)


def zeros(*shape: int) -> npt.NDArray[Any]:
    return np.zeros(shape, np.float32)


@dataclass
class Model:
    request_id: int
    position: int = 0
    ssm: npt.NDArray[Any] = field(default_factory=lambda: zeros(*SSM))
    conv: npt.NDArray[Any] = field(default_factory=lambda: zeros(*CONV))


class SsmStatePoolMachine(RuleBasedStateMachine):
    """Old handles are kept: they must refuse for ever, also when their slot is handed out again."""

    @initialize(capacity=st.integers(0, 4))
    def make(self, capacity: int) -> None:
        self.pool = SsmStatePool(capacity, SsmStateSpec(2, 2, 3, 2, 3, 4))
        self.live: dict[int, Model] = {}
        self.free = list(reversed(range(capacity)))
        self.stale: list[SsmSlot] = []
        self.snapshots: list[tuple[SsmSnapshot, Model]] = []

    def alloc_one(self, request_id: int) -> int:
        return self.pool.alloc(request_id)

    def release_one(self, slot: int) -> None:
        self.pool.release(slot)

    def find(self, slot: int) -> SsmSlot | None:
        return self.pool.slot(slot)

    @rule(request_id=st.integers(0, 2**64 - 1))
    def alloc(self, request_id: int) -> None:
        if not self.free:
            with pytest.raises(PoolExhaustedError):
                self.alloc_one(request_id)
            return
        slot = self.alloc_one(request_id)
        assert slot == self.free.pop()
        self.live[slot] = Model(request_id)

    @rule(slot=SLOTS)
    def release(self, slot: int) -> None:
        handle = self.find(slot)
        if slot in self.live:
            assert handle is not None
            self.release_one(slot)
            del self.live[slot]
            self.free.append(slot)
            self.stale.append(handle)
        else:
            assert handle is None
            with pytest.raises(InvalidSlotError):
                self.release_one(slot)

    @rule(slot=SLOTS, seed=SEEDS)
    def write(self, slot: int, seed: int) -> None:
        handle = self.find(slot)
        if handle is None:
            return
        rng, model = np.random.default_rng(seed), self.live[slot]
        model.ssm, model.conv = tokens(rng, "float32", *SSM), tokens(rng, "float32", *CONV)
        handle.ssm_state[:] = model.ssm
        handle.conv_state[:] = model.conv

    @rule(slot=SLOTS, n=st.integers(0, 1000))
    def advance(self, slot: int, n: int) -> None:
        handle = self.find(slot)
        if handle is not None:
            handle.advance(n)
            self.live[slot].position += n

    @rule(slot=SLOTS, as_bytes=st.booleans())
    def take_a_snapshot(self, slot: int, as_bytes: bool) -> None:
        handle = self.find(slot)
        if handle is None:
            return
        snapshot, model = handle.snapshot(), self.live[slot]
        if as_bytes:
            snapshot = SsmSnapshot.from_bytes(snapshot.to_bytes())
        self.snapshots.append((snapshot, Model(0, model.position, model.ssm, model.conv)))

    @rule(slot=SLOTS, data=st.data())
    def restore(self, slot: int, data: st.DataObject) -> None:
        handle = self.find(slot)
        if handle is None or not self.snapshots:
            return
        snapshot, saved = data.draw(st.sampled_from(self.snapshots))
        handle.restore(snapshot)
        model = self.live[slot]
        model.position, model.ssm, model.conv = saved.position, saved.ssm, saved.conv

    @invariant()
    def agrees(self) -> None:
        assert self.pool.used_count == len(self.live)
        assert self.pool.free_count == len(self.free)
        for slot, model in self.live.items():
            for handle in self.pool.slot(slot), self.pool.slot_view(slot):
                assert handle is not None
                assert (handle.request_id, handle.position) == (model.request_id, model.position)
                assert same_bits(handle.ssm_state, model.ssm)
                assert same_bits(handle.conv_state, model.conv)
        for stale in self.stale:
            assert not stale.is_live
            with pytest.raises(InvalidSlotError):
                _ = stale.ssm_state


class SequencePoolOfSlotsMachine(SsmStatePoolMachine):
    @initialize(capacity=st.integers(0, 4))
    def make(self, capacity: int) -> None:
        super().make(capacity)
        self.sequences = SequencePool(self.pool)

    def alloc_one(self, request_id: int) -> int:
        return self.sequences.alloc_ssm(request_id)

    def release_one(self, slot: int) -> None:
        self.sequences.release_ssm(slot)

    def find(self, slot: int) -> SsmSlot | None:
        reader, writer = self.sequences.ssm_slot(slot), self.sequences.ssm_slot_mut(slot)
        assert (reader is None) == (writer is None)
        return writer

    @rule(page=SLOTS)
    def call_of_the_wrong_kind(self, page: int) -> None:
        with pytest.raises(InvalidSlotError) as raised:
            self.sequences.free_kv(page)
        assert raised.value.slot == page
        with pytest.raises(InvalidSlotError) as raised:
            self.sequences.alloc_kv()
        assert raised.value.slot == 2**64 - 1


TestSsmStatePool = SsmStatePoolMachine.TestCase
TestSequencePoolOfSlots = SequencePoolOfSlotsMachine.TestCase
