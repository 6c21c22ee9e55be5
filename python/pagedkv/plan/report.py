"""A plan as a table for people and as a dictionary for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pagedkv
from pagedkv.plan.groups import Group
from pagedkv.plan.job import Plan
from pagedkv.plan.layers import PagedCache
from pagedkv.plan.trace_fit import Batch
from pagedkv.sizes import format_bytes, format_count, format_tokens

__all__ = ["as_dict", "as_text", "kinds"]

Row = Sequence[str]


def kinds(plan: Plan) -> dict[PagedCache, list[Group]]:
    """The groups of each kind of layer, in the order of the model."""
    found: dict[PagedCache, list[Group]] = {}
    for group in plan.layout.groups:
        found.setdefault(group.cache, []).append(group)
    return found


def as_dict(plan: Plan) -> dict[str, Any]:
    """JSON values only. Sizes are bytes of one device."""
    layout, budget, trace = plan.layout, plan.budget, plan.trace
    return {
        "pagedkv": pagedkv.__version__,
        "model_type": plan.model.model_type,
        "num_layers": len(plan.model.layers),
        "max_length": plan.model.max_length,
        "assumptions": list(plan.model.assumptions),
        "tensor_parallel": plan.tensor_parallel,
        "kv_dtype": layout.kv_dtype,
        "scales": layout.scales,
        "memory": budget.cache,
        "gpu_memory": budget.gpu_memory,
        "weights": budget.weights,
        "utilization": budget.utilization,
        "bytes_per_token": layout.bytes_per_token,
        "bytes_per_token_kept": layout.bytes_per_token_kept,
        "block_size": plan.block_size,
        "block_bytes": layout.block_bytes,
        "last_block_waste": layout.last_block_waste,
        "num_blocks": plan.num_blocks,
        "state_slots": plan.state_slots,
        "slot_bytes": layout.slot_bytes,
        "allocated": plan.pool.nbytes,
        "prefill_chunk": plan.pool.prefill_chunk,
        "max_tokens": plan.max_tokens,
        "groups": [
            {
                "keeps": str(group.cache),
                "layers": list(group.layers),
                "window": group.cache.window,
                "block_size": group.block_size,
                "bytes_per_token": group.bytes_per_token,
                "bytes_used_of_block": group.page_bytes * len(group.layers),
            }
            for group in layout.groups
        ],
        "states": [
            {
                "keeps": str(states.state),
                "layers": list(states.layers),
                "dtype": states.spec.dtype,
                "slot_bytes": states.slot_bytes,
            }
            for states in layout.states
        ],
        "lengths": [
            {
                "length": fit.length,
                "blocks": fit.blocks,
                "bytes": fit.bytes_held,
                "useful_bytes": fit.useful_bytes,
                "waste": fit.waste,
                "sequences": fit.sequences,
                "tokens": fit.tokens,
                "sequences_in_pool": fit.in_pool,
            }
            for fit in plan.fits
        ],
        "trace": None
        if trace is None
        else {
            "name": trace.name,
            "requests": trace.requests,
            "rejected": trace.rejected,
            "prefix_reuse": trace.prefix_reuse,
            "packed": _batch_dict(trace.packed),
            "as_it_came": _batch_dict(trace.as_it_came),
        },
    }


def _batch_dict(batch: Batch) -> dict[str, Any]:
    return {
        "mean_running": batch.mean,
        "peak_running": batch.peak,
        "preemptions": batch.preemptions,
        "steps": batch.steps,
    }


def as_text(plan: Plan) -> str:
    """A report of about 20 lines, in ASCII but for names that come from files."""
    lines = [*_head(plan), "", *_kinds_table(plan), "", *_lengths_table(plan)]
    if plan.trace is not None:
        lines += ["", *_trace_table(plan)]
    return "\n".join(lines)


def _head(plan: Plan) -> list[str]:
    layout = plan.layout
    scales = "" if layout.scales == "tensor" else f" with a scale a {layout.scales} and head"
    kept = f"{layout.kv_dtype}{scales}: {layout.bytes_per_token:,} bytes a token"
    if not layout.groups:
        kept = "no keys or values"
    if layout.bytes_per_token_kept != layout.bytes_per_token:
        kept += f", of which {layout.bytes_per_token_kept:,} outside of windows"
    ranks = "" if plan.tensor_parallel == 1 else f", one of {plan.tensor_parallel} ranks"
    pool = []
    if layout.groups:
        pool.append(
            f"{format_count(plan.num_blocks, 'block')} of {format_bytes(layout.block_bytes)}"
        )
    if layout.states:
        pool.append(
            f"{format_count(plan.state_slots, 'state slot')} of {format_bytes(layout.slot_bytes)}"
        )
    name = _one_line(plan.model.model_type)
    most, positions = plan.max_tokens, plan.model.max_length
    longest = "of any length" if most is None else f"of {format_count(most, 'token')} at most"
    if positions is not None and (most is None or most > positions):
        longest += f"; the model takes {positions:,}"
    waste = f"{format_bytes(layout.last_block_waste)} of a sequence behind its last token"
    lines = [
        f"model       {name}, {format_count(len(plan.model.layers), 'layer')}{ranks}",
        f"cache       {kept}",
        f"memory      {plan.budget}",
        f"pool        {' and '.join(pool)}: {format_bytes(plan.pool.nbytes)}",
        f"alone       memory for one sequence {longest}",
    ]
    if layout.groups:
        lines.append(f"last block  {waste}, on average")
    return lines + [f"assumed     {sentence}" for sentence in plan.model.assumptions]


def _kinds_table(plan: Plan) -> list[str]:
    rows: list[Row] = [("layers keep", "layers", "groups", "block", "bytes a token")]
    for cache, groups in kinds(plan).items():
        rows.append(
            (
                str(cache),
                f"{sum(len(group.layers) for group in groups):,}",
                f"{len(groups):,}",
                f"{groups[0].block_size:,}",
                f"{sum(group.bytes_per_token for group in groups):,}",
            )
        )
    for states in plan.layout.states:
        slot = f"{format_bytes(states.slot_bytes)} a slot"
        rows.append(
            (f"{states.state}, {states.spec.dtype}", f"{len(states.layers):,}", "", "", slot)
        )
    return _table(rows)


def _lengths_table(plan: Plan) -> list[str]:
    hybrid = bool(plan.layout.states and plan.layout.groups)
    head = ["sequences of", "blocks each", "bytes each", "at once", "tokens", "waste"]
    rows: list[Row] = [[*head, "in this pool"] if hybrid else head]
    positions = plan.model.max_length
    longer = [fit.length for fit in plan.fits if positions is not None and fit.length > positions]
    for fit in plan.fits:
        row = [
            format_tokens(fit.length) + (" *" if fit.length in longer else ""),
            f"{fit.blocks:,}",
            format_bytes(fit.bytes_held),
            f"{fit.sequences:,}",
            f"{fit.tokens:,}",
            f"{100 * fit.waste:.1f} %",
        ]
        rows.append([*row, f"{fit.in_pool:,}"] if hybrid else row)
    lines = _table(rows)
    if hybrid:
        lines.append("at once: with memory divided into blocks and slots for this length")
    if longer:
        lines.append(f"*: more tokens than the model takes, {positions:,}")
    return lines


def _trace_table(plan: Plan) -> list[str]:
    trace = plan.trace
    if trace is None:
        return []
    shared = "prefixes reused" if trace.prefix_reuse else "nothing shared"
    lines = [
        f"trace       {_one_line(trace.name)}: {format_count(trace.requests, 'request')}, "
        f"{trace.rejected:,} too long; {shared}"
    ]
    rows: list[Row] = [("running at once", "mean", "most", "preempted", "steps")]
    for name, batch in (("packed", trace.packed), ("as it came", trace.as_it_came)):
        rows.append(
            (
                name,
                f"{batch.mean:,.1f}",
                f"{batch.peak:,}",
                f"{batch.preemptions:,}",
                f"{batch.steps:,}",
            )
        )
    return lines + _table(rows)


def _one_line(name: str) -> str:
    """A name as it is, or quoted where it would draw on the terminal or break the line."""
    return name if name.isprintable() else repr(name)


def _table(rows: list[Row]) -> list[str]:
    """The first column to the left, the others to the right, two spaces between."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [f"{cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join([f"{row[0]:{widths[0]}}", *cells]).rstrip())
    return lines
