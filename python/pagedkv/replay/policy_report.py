"""The policy replay's result as a table for people and as a dictionary for JSON."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pagedkv
from pagedkv.replay.belady import BELADY
from pagedkv.replay.policies import PolicyResult
from pagedkv.replay.trace import Trace

__all__ = ["policies_as_dict", "policies_as_text"]

NAME_WIDTH = 14
CELL_WIDTH = 10


def policies_as_dict(trace: Trace, result: PolicyResult) -> dict[str, Any]:
    """JSON values only: capacities are keys, and so strings; what has no value is None."""
    blocks = result.blocks

    def table(cell: Callable[[str, int], Any]) -> dict[str, dict[str, Any]]:
        return {
            policy: {str(capacity): cell(policy, capacity) for capacity in result.capacities}
            for policy in result.policies
        }

    return {
        "pagedkv": pagedkv.__version__,
        "trace": trace.name,
        "format": trace.format,
        "requests": len(blocks.prompts),
        "skipped_lines": len(trace.skipped) + len(blocks.skipped),
        "block_references": blocks.num_references,
        "distinct_blocks": blocks.num_distinct,
        "infinite_hit_rate": blocks.most_hits,
        "hits": table(lambda policy, capacity: result.hits[policy][capacity]),
        "hit_rates": table(result.hit_rate),
        "gap_closed": table(result.gap_closed),
        "seconds": dict(result.seconds),
        "config": {
            "policies": list(result.policies),
            "capacities": list(result.capacities),
            "order": "one request at a time",
        },
    }


def policies_as_text(trace: Trace, result: PolicyResult) -> str:
    """A table of hit rates and one of the gap closed, in ASCII."""
    blocks = result.blocks
    skipped = len(trace.skipped) + len(blocks.skipped)
    lines = [
        f"trace       {trace.name} ({trace.format}): {len(blocks.prompts):,} requests, "
        f"{skipped:,} lines skipped",
        f"blocks      {blocks.num_references:,} references to {blocks.num_distinct:,} blocks; "
        f"{blocks.most_hits:.3f} of them hit when nothing is evicted",
        "",
        *_table("hit rate", result, result.hit_rate, "{:.3f}"),
    ]
    others = [policy for policy in result.policies if policy not in ("lru", BELADY)]
    if others and {"lru", BELADY} <= set(result.policies):
        lines += ["", *_table("gap closed", result, _percent_closed(result), "{:.1f} %", others)]
        lines.append("(share of the way from lru to belady)")
    lines.append("")
    lines.append(f"{sum(result.seconds.values()):.1f} s")
    return "\n".join(lines)


def _percent_closed(result: PolicyResult) -> Callable[[str, int], float | None]:
    def percent(policy: str, capacity: int) -> float | None:
        closed = result.gap_closed(policy, capacity)
        return None if closed is None else 100 * closed

    return percent


def _table(
    title: str,
    result: PolicyResult,
    value: Callable[[str, int], float | None],
    layout: str,
    policies: list[str] | None = None,
) -> list[str]:
    rows = policies or result.policies
    width = max(NAME_WIDTH, *(len(name) + 2 for name in rows))
    capacities = (f"{capacity:,}" for capacity in result.capacities)
    lines = [f"{title:{width}}" + "".join(f"{text:>{CELL_WIDTH}}" for text in capacities)]
    for policy in rows:
        values = (value(policy, capacity) for capacity in result.capacities)
        cells = ("-" if number is None else layout.format(number) for number in values)
        lines.append(f"{policy:{width}}" + "".join(f"{cell:>{CELL_WIDTH}}" for cell in cells))
    return lines
