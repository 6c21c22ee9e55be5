"""The planned pool, allocated: the arrays that the bytes of a plan are the bytes of.

Each place of a block is one array `[num_blocks, place_bytes]`; a layer's scales, keys and values
are views of it, and so are those of the layers of other groups in the same place: a block id is
one group's at a time.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pagedkv import KVCacheManager, SsmStatePool
from pagedkv.plan.accounting import row_values, scale_bytes
from pagedkv.plan.errors import PlanError
from pagedkv.plan.groups import Group
from pagedkv.plan.job import Plan
from pagedkv.plan.layers import Attention
from pagedkv.replay.shape import DTYPE_BITS

__all__ = ["LayerArrays", "PlannedPool", "allocate"]

# What NumPy keeps a dtype in; `pagedkv.ops` is told the name by `dtype=`.
STORED: dict[str, Any] = {
    "float64": np.float64,
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": np.uint16,
    "float8_e4m3": np.uint8,
    "float8_e5m2": np.uint8,
    "int8": np.int8,
    "int4": np.uint8,
}


class LayerArrays:
    """One layer's caches, as `pagedkv.ops` takes them.

    Attributes:
        group: the layer's group; its index is that of `Batch` and of `KVCacheManager.block_ids`.
        keys: ``[num_blocks, num_kv_heads, block_size, head_dim]``, or of latent attention
            ``[num_blocks, block_size, kv_lora_rank]``. int4 has two values a byte.
        values: likewise, with ``v_head_dim``; or ``[num_blocks, block_size, rope_dim]``.
        k_scale: float32 ``[num_blocks, num_kv_heads]``, or with ``block_size`` behind; None where
            the scale is one number a tensor.
        v_scale: likewise.
    """

    def __init__(self, plan: Plan, group: int, place: NDArray[np.uint8]) -> None:
        spec = plan.layout.groups[group]
        self.group = group
        self.k_scale, self.v_scale = _scales(plan, spec, place)
        start = scale_bytes(spec.cache, plan.layout.scales, spec.block_size)
        bits = DTYPE_BITS[plan.layout.kv_dtype]
        parts = []
        for count, shape in zip(row_values(spec.cache), _shapes(spec), strict=True):
            stop = start + count * spec.block_size * bits // 8
            part = place[:, start:stop].view(STORED[plan.layout.kv_dtype])
            parts.append(part.reshape(len(place), *shape[:-1], shape[-1] * min(bits, 8) // 8))
            start = stop
        self.keys, self.values = parts


class PlannedPool:
    """A plan's manager, arrays and states.

    Attributes:
        manager: of all groups; None for a model of states alone.
        layers: the arrays of each layer that keeps keys and values, by its number.
        states: a pool for each kind of recurrent state, in the order of ``plan.layout.states``.
    """

    def __init__(self, plan: Plan) -> None:
        layout = plan.layout
        self.manager: KVCacheManager | None = plan.manager() if layout.groups else None
        self.states = [SsmStatePool(plan.state_slots, states.spec) for states in layout.states]
        self._places = [
            np.zeros((plan.num_blocks, layout.place_bytes), np.uint8) for _ in range(layout.places)
        ]
        self.layers = {
            layer: LayerArrays(plan, index, self._places[place])
            for index, group in enumerate(layout.groups)
            for place, layer in enumerate(group.layers)
        }

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays: of blocks, and of states."""
        states = sum(pool.capacity * pool.spec.slot_bytes for pool in self.states)
        return sum(place.nbytes for place in self._places) + states


def allocate(plan: Plan) -> PlannedPool:
    """The pool in host memory, zeroed. O(bytes) of address space; pages come with their first
    write. Raises `PlanError` where the machine refuses so much."""
    try:
        return PlannedPool(plan)
    except MemoryError as error:
        raise PlanError(
            f"[plan.allocate] {plan.pool.nbytes:,} bytes; expected a plan that this machine's "
            "memory holds"
        ) from error


def _shapes(group: Group) -> tuple[tuple[int, ...], tuple[int, ...]]:
    cache, size = group.cache, group.block_size
    if isinstance(cache, Attention):
        heads = cache.num_kv_heads
        return (heads, size, cache.head_dim), (heads, size, cache.v_head_dim)
    return (size, cache.kv_lora_rank), (size, cache.rope_dim)


def _scales(
    plan: Plan, group: Group, place: NDArray[np.uint8]
) -> tuple[NDArray[np.float32] | None, NDArray[np.float32] | None]:
    total = scale_bytes(group.cache, plan.layout.scales, group.block_size)
    if not total or not isinstance(group.cache, Attention):
        return None, None
    shape: tuple[int, ...] = (len(place), group.cache.num_kv_heads)
    if plan.layout.scales == "token":
        shape = (*shape, group.block_size)
    half = total // 2
    k_scale, v_scale = (
        place[:, start : start + half].view(np.float32).reshape(shape) for start in (0, half)
    )
    return k_scale, v_scale
