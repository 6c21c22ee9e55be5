"""The plan: from a configuration and a memory budget to what fits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pagedkv import KVCacheManager
from pagedkv.plan.accounting import QUANTISED, SCALES, default_scales
from pagedkv.plan.architectures import read_architecture
from pagedkv.plan.budget import Budget, make_budget
from pagedkv.plan.errors import PlanError
from pagedkv.plan.fit import LengthFit, Pool, divide, fit_length
from pagedkv.plan.groups import Layout, make_layout
from pagedkv.plan.layers import Architecture, Attention, Latent, State
from pagedkv.plan.trace_fit import TraceFit, fit_trace
from pagedkv.replay.shape import DTYPE_BITS
from pagedkv.replay.trace import Trace

__all__ = ["DEFAULT_LENGTHS", "Plan", "plan"]

DEFAULT_LENGTHS = (2048, 8192, 32768)
DEFAULT_CHUNK = 512
DEFAULT_STEP_MS = 25.0
MOST = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Plan:
    """What fits on one device. Bytes are those that the arrays of the pool take."""

    model: Architecture
    """The whole model's caches."""
    rank: Architecture
    """One rank's part of them."""
    tensor_parallel: int
    budget: Budget
    block_size: int
    """Tokens a block that was asked for; a group of small layers has a multiple."""
    pool: Pool
    fits: tuple[LengthFit, ...]
    trace: TraceFit | None = None

    @property
    def layout(self) -> Layout:
        """Groups, blocks and states."""
        return self.pool.layout

    @property
    def num_blocks(self) -> int:
        """Blocks of the pool."""
        return self.pool.num_blocks

    @property
    def state_slots(self) -> int:
        """Slots of recurrent states, one for each sequence that runs; 0 without states."""
        return self.pool.state_slots

    @property
    def bytes_per_token(self) -> int:
        """What a new token adds, in all layers of this rank."""
        return self.layout.bytes_per_token

    @property
    def max_tokens(self) -> int | None:
        """Tokens of the longest sequence that fits alone; None: of any length."""
        return self.pool.max_tokens

    def sequences(self, length: int) -> int:
        """Sequences of `length` tokens that the pool holds at once. O(groups)."""
        _check_count("length", length, "Plan.sequences")
        return self.pool.sequences(length)

    def manager(self, **options: Any) -> KVCacheManager:
        """A manager of the pool's blocks with the plan's groups; `options` are its own.

        Raises `PlanError` for a model without attention, which has no blocks to manage.
        """
        if not self.layout.groups:
            raise PlanError("[Plan.manager] a model of states alone; expected layers that attend")
        groups = [group.spec() for group in self.layout.groups]
        return KVCacheManager(self.num_blocks, self.block_size, groups, **options)


def plan(
    config: str | Path | Mapping[str, Any],
    memory: int | str | None = None,
    *,
    gpu_memory: int | str | None = None,
    weights: int | str | None = None,
    utilization: float | None = None,
    tensor_parallel: int = 1,
    kv_dtype: str | None = None,
    scales: str | None = None,
    state_dtype: str | None = None,
    block_size: int = 16,
    prefill_chunk: int = DEFAULT_CHUNK,
    lengths: Sequence[int] = DEFAULT_LENGTHS,
    max_seqs: int | None = None,
    trace: Trace | None = None,
    step_ms: float | None = None,
) -> Plan:
    """How many tokens and sequences fit.

    Args:
        config: a Hugging Face config.json, the folder that holds it, or its fields.
        memory: bytes for the cache on one device, or a text such as ``"40GiB"``.
        gpu_memory: in its place: bytes of one device, of which ``utilization`` is used, and
            ``weights`` are taken off.
        weights: bytes of the weights on one device; by default what the safetensors files beside
            the configuration hold, divided by ``tensor_parallel``.
        utilization: share of ``gpu_memory`` that may be used, in (0, 1]; by default 0.9.
        tensor_parallel: ranks that share a model: each has ``num_kv_heads / ranks`` heads of keys
            and values, at least one; latent rows are whole on each.
        kv_dtype: of keys and values, one of the library's dtypes; by default the model's.
        scales: of a quantised ``kv_dtype``: ``"tensor"`` (no bytes in the pool), ``"block"`` or
            ``"token"`` (float32, a head of a block or of a token); by default ``"token"`` for
            integers and ``"tensor"`` for 8-bit floats.
        state_dtype: of recurrent states; by default what the configuration says, else float32.
        block_size: tokens a block.
        prefill_chunk: tokens of a prompt that are computed at once: windows keep as many more.
        lengths: of sequences, in tokens. A model with states has its memory divided for the first.
        max_seqs: slots of states; by default as many as sequences of ``lengths[0]`` tokens fit.
        trace: requests, of which to tell the batch that fits.
        step_ms: duration of a step of the engine that the trace runs through; by default 25.

    Raises:
        PlanError: a field of the configuration or an argument is wrong or would have no effect, or
            nothing fits.
    """
    _check_count("tensor_parallel", tensor_parallel)
    _check_count("block_size", block_size)
    _check_count("prefill_chunk", prefill_chunk)
    if max_seqs is not None:
        _check_count("max_seqs", max_seqs)
    _check_lengths(lengths)
    _check_trace(trace, step_ms)
    model = read_architecture(config)
    rank = model.shard(tensor_parallel)
    dtype = _dtype("kv_dtype", kv_dtype or model.dtype)
    state = _dtype("state_dtype", state_dtype or model.state_dtype or "float32")
    if DTYPE_BITS[state] < 8:
        raise PlanError(f"[plan.plan] state_dtype is {state}; expected 8 bits or more")
    chosen = _scales(rank, dtype, scales)
    _check_states(model, max_seqs=max_seqs, state_dtype=state_dtype)
    budget = make_budget(memory, gpu_memory, weights, utilization, config, tensor_parallel)
    layout = make_layout(
        rank,
        block_size=block_size,
        kv_dtype=dtype,
        scales=chosen,
        state_dtype=state,
        length=max(lengths),
    )
    pool = divide(layout, budget.cache, max_seqs, lengths[0], prefill_chunk)
    fits = tuple(fit_length(pool, budget.cache, length) for length in lengths)
    batch = None if trace is None else fit_trace(pool, trace, step_ms or DEFAULT_STEP_MS)
    return Plan(model, rank, tensor_parallel, budget, block_size, pool, fits, batch)


def _dtype(name: str, dtype: object) -> str:
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        known = ", ".join(DTYPE_BITS)
        raise PlanError(f"[plan.plan] {name} is {dtype!r:.40}; expected one of {known}")
    return dtype


def _scales(rank: Architecture, dtype: str, scales: str | None) -> str:
    caches = [cache for layer in rank.layers for cache in layer]
    if scales is None:
        attends = any(isinstance(cache, Attention) for cache in caches)
        return default_scales(dtype) if attends else "tensor"
    if scales not in SCALES:
        raise PlanError(
            f"[plan.plan] scales is {scales!r:.40}; expected one of {', '.join(SCALES)}"
        )
    if scales != "tensor" and dtype not in QUANTISED:
        raise PlanError(
            f"[plan.plan] scales a {scales} of {dtype}; expected one of {', '.join(QUANTISED)}"
        )
    if scales != "tensor" and any(isinstance(cache, Latent) for cache in caches):
        raise PlanError(f"[plan.plan] scales a {scales} of latent rows; expected tensor")
    return scales


def _check_count(name: str, value: object, function: str = "plan.plan") -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= MOST:
        raise PlanError(f"[{function}] {name} is {value!r:.40}; expected an integer, 1 or more")


def _check_lengths(lengths: object) -> None:
    if not isinstance(lengths, Sequence) or isinstance(lengths, str | bytes):
        raise PlanError(f"[plan.plan] lengths is {lengths!r:.40}; expected a sequence of integers")
    if not lengths:
        raise PlanError("[plan.plan] no lengths; expected at least one")
    for length in lengths:
        _check_count("a length", length)


def _check_trace(trace: object, step_ms: object) -> None:
    if trace is not None and not isinstance(trace, Trace):
        raise PlanError(f"[plan.plan] trace is {trace!r:.40}; expected a Trace of read_trace")
    if step_ms is None:
        return
    if trace is None:
        raise PlanError("[plan.plan] step_ms without a trace; expected both or neither")
    number = step_ms if isinstance(step_ms, int | float) else math.nan
    if isinstance(step_ms, bool) or not 0.0 < number < math.inf:
        raise PlanError(f"[plan.plan] step_ms is {step_ms!r:.40}; expected a number above 0")


def _check_states(model: Architecture, **given: object) -> None:
    """What says something of states is an error where there are none."""
    if any(isinstance(cache, State) for layer in model.layers for cache in layer):
        return
    for name, value in given.items():
        if value is not None:
            raise PlanError(
                f"[plan.plan] {name} for a model without recurrent states; expected none"
            )
