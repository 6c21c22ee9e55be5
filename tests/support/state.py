"""All that can be seen of an object, as plain values that compare."""

from functools import singledispatch
from typing import Any

import numpy as np

import pagedkv


@singledispatch
def state_of(value: object) -> Any:
    raise AssertionError(f"no state known for {type(value).__name__}")


@state_of.register
def _(value: pagedkv.BlockAllocator) -> Any:
    held = [value.ref_count(block) for block in range(value.capacity)]
    return held, value.in_use, value.free_count, value.peak_in_use


@state_of.register
def _(value: pagedkv.BlockPool) -> Any:
    return value.free_count, value.total_count, value.utilization()


@state_of.register
def _(value: pagedkv.BlockTable) -> Any:
    return [row.tolist() for row in value], value.block_size


@state_of.register
def _(value: pagedkv.PagedSeqState) -> Any:
    return value.len, value.blocks, value.block_table_buf.tolist(), value.context_lens_buf.tolist()


@state_of.register
def _(value: pagedkv.KvCache) -> Any:
    storage = value.len, value.k.tobytes(), value.v.tobytes()
    if value.allocator is None:
        return storage
    assert value.block_table is not None
    assert value.context_lens is not None
    tables = value.block_table.tolist(), value.context_lens.tolist(), value.paged_block_indices
    return storage, tables, state_of(value.allocator)


@state_of.register
def _(value: pagedkv.PagedKvCache) -> Any:
    return repr(value), value.as_tensor().tobytes()


@state_of.register
def _(value: pagedkv.KvCachePool) -> Any:
    return value.free_count, value.used_count


@state_of.register
def _(value: pagedkv.SsmStatePool) -> Any:
    slots = [value.slot_view(slot) for slot in range(value.capacity)]
    return value.free_count, value.used_count, [slot and state_of(slot) for slot in slots]


@state_of.register
def _(value: pagedkv.SsmSlot | pagedkv.SsmSlotView) -> Any:
    arrays = value.ssm_state.tobytes(), value.conv_state.tobytes()
    return value.request_id, value.position, arrays


@state_of.register
def _(value: pagedkv.SequencePool) -> Any:
    return state_of(value.pool)


@state_of.register
def _(value: tuple) -> Any:
    return [state_of(each) for each in value]


@state_of.register
def _(value: np.ndarray) -> Any:
    return value.dtype, value.shape, value.tobytes()
