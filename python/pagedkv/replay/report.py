"""A replay's result as a table for people and as a dictionary for JSON."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pagedkv
from pagedkv.replay.figures import RunFigures
from pagedkv.replay.job import ReplayResult
from pagedkv.sizes import format_bytes

__all__ = ["as_dict", "as_text"]


def as_dict(result: ReplayResult) -> dict[str, Any]:
    """JSON values only; fractions that have no step to be averaged over are None."""
    config, paged, contiguous = result.config, result.paged, result.contiguous
    useful = paged.useful_fraction
    return {
        "pagedkv": pagedkv.__version__,
        "trace": result.trace.name,
        "format": result.trace.format,
        "requests": len(result.trace.requests),
        "rejected": len(result.rejections),
        "skipped_lines": len(result.trace.skipped),
        "completed": paged.completed,
        "preemptions": paged.preemptions,
        "steps": paged.steps,
        "tokens": paged.tokens,
        "tokens_per_second": paged.tokens_per_second,
        "peak_utilization": paged.peak_utilization,
        "mean_utilization": paged.mean_utilization,
        "prefix_hit_rate": paged.prefix_hit_rate if result.prefix_reuse else None,
        "tokens_saved": paged.tokens_saved,
        "wasted_fraction": None if useful is None else 1.0 - useful,
        "paged_useful_fraction": useful,
        "contiguous_useful_fraction": None if contiguous is None else contiguous.useful_fraction,
        "verified": result.verified,
        "mismatches": [str(mismatch) for mismatch in result.mismatches],
        "config": {
            "blocks": config.num_blocks,
            "block_size": config.block_size,
            "block_bytes": config.block_bytes,
            "layers": config.shape.num_layers,
            "kv_heads": config.shape.num_kv_heads,
            "head_dim": config.shape.head_dim,
            "dtype": config.shape.dtype,
            "max_batch": config.max_batch,
            "max_model_len": result.max_model_len,
            "step_ms": config.step_ms,
            "seed": config.seed,
            "prefix_caching": config.prefix_caching,
            "hash_tokens": config.hash_tokens,
        },
        "paged": _run_dict(paged),
        "contiguous": None if contiguous is None else _run_dict(contiguous),
    }


def _run_dict(run: RunFigures) -> dict[str, Any]:
    return {
        "completed": run.completed,
        "preemptions": run.preemptions,
        "steps": run.steps,
        "last_step": run.last_step,
        "prompt_tokens": run.prompt_tokens,
        "generated_tokens": run.generated_tokens,
        "recomputed_tokens": run.recomputed_tokens,
        "prompt_hits": run.prompt_hits,
        "resumed_hits": run.resumed_hits,
        "peak_utilization": run.peak_utilization,
        "mean_utilization": run.mean_utilization,
        "useful_fraction": run.useful_fraction,
        "peak_running": run.peak_running,
        "mean_running": run.mean_running,
        "mean_wait_steps": run.mean_wait_steps,
        "mean_latency_steps": run.mean_latency_steps,
        "seconds": run.seconds,
        "tokens_per_second": run.tokens_per_second,
    }


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.1f} %"


def _wasted(run: RunFigures) -> float | None:
    return None if run.useful_fraction is None else 1.0 - run.useful_fraction


ROWS: tuple[tuple[str, Callable[[RunFigures], str]], ...] = (
    ("requests completed", lambda run: f"{run.completed:,}"),
    ("preemptions", lambda run: f"{run.preemptions:,}"),
    ("peak utilization", lambda run: _percent(run.peak_utilization)),
    ("mean utilization", lambda run: _percent(run.mean_utilization)),
    ("useful: tokens held / slots reserved", lambda run: _percent(run.useful_fraction)),
    ("wasted: reserved slots without a token", lambda run: _percent(_wasted(run))),
    ("running at once, most", lambda run: f"{run.peak_running:,}"),
    ("running at once, mean", lambda run: f"{run.mean_running:,.1f}"),
    ("steps with something running", lambda run: f"{run.steps:,}"),
    ("last step", lambda run: f"{run.last_step:,}"),
    ("mean wait for a start, steps", lambda run: f"{run.mean_wait_steps:,.1f}"),
    ("tokens recomputed", lambda run: f"{run.recomputed_tokens:,}"),
    ("tokens saved by prefix reuse", lambda run: f"{run.tokens_saved:,}"),
    ("tokens a second of bookkeeping", lambda run: f"{run.tokens_per_second:,.0f}"),
)


def as_text(result: ReplayResult) -> str:
    """A report of about 25 lines, in ASCII."""
    config, shape, runs = result.config, result.config.shape, [result.paged]
    if result.contiguous is not None:
        runs.append(result.contiguous)
    batch = "any number" if config.max_batch is None else f"{config.max_batch:,}"
    pool = format_bytes(config.num_blocks * config.block_bytes)
    lines = [
        f"trace       {result.trace.name} ({result.trace.format}): "
        f"{len(result.trace.requests):,} requests, {len(result.rejections):,} rejected, "
        f"{len(result.trace.skipped):,} lines skipped",
        f"pool        {config.num_blocks:,} blocks of {config.block_size} tokens, {pool}: "
        f"{shape.num_layers} layers, {shape.num_kv_heads} KV heads, head_dim {shape.head_dim}, "
        f"{shape.dtype}",
        f"engine      step {config.step_ms:g} ms, batch of {batch}, seed {config.seed}",
        f"contiguous  reserves {result.max_model_len:,} tokens a request in the same memory",
        "",
        f"{'':40}" + "".join(f"{name:>14}" for name in ("paged", "contiguous")),
    ]
    for name, value in ROWS:
        cells = [value(run) for run in runs] + ["-"] * (2 - len(runs))
        lines.append(f"{name:40}" + "".join(f"{cell:>14}" for cell in cells))
    if result.verified is not None:
        lines.append("(paged: writing and checking the data included)")
    lines.append("")
    if result.contiguous is None:
        lines.append(
            f"contiguous: none runs, {result.max_model_len:,} tokens are more than the pool holds"
        )
    lines.append(
        "the PagedAttention paper (SOSP 2023, figure 2) has 20-38 % useful when contiguous, "
        "96 % when paged"
    )
    lines.append(f"prefixes    {_prefixes(result)}")
    lines.append(f"verified    {_verified(result)}")
    return "\n".join(lines)


def _prefixes(result: ReplayResult) -> str:
    if not result.config.prefix_caching:
        return "not reused, as asked for"
    if not result.prefix_reuse:
        return "not reused: the trace has no hash_ids, which say what is shared"
    run = result.paged
    return (
        f"{_percent(run.prefix_hit_rate)} of {run.prompt_tokens:,} prompt tokens were found; "
        f"{run.tokens_saved:,} tokens saved, those of resumed requests counted"
    )


def _verified(result: ReplayResult) -> str:
    if result.verified is None:
        return "no data written (--verify writes and checks real keys and values)"
    if result.verified:
        return f"yes: {result.paged.completed:,} requests read back bit for bit as written"
    return f"NO: {len(result.mismatches):,} of {result.accepted:,} requests differ"
