"""The tables, in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from pagedkv.bench.attention.comparison import OUR_16_BIT, Row
from pagedkv.bench.attention.rivals import RIVALS

__all__ = ["as_json", "tables"]


def tables(rows: Sequence[Row], *, judged: bool) -> str:
    """Decode and prefill; `judged` says whether targets are reached."""
    parts = []
    for title, prefill in (("Decode", False), ("Prefill", True)):
        some = [row for row in rows if row.point.is_prefill == prefill]
        if some:
            parts.append(f"{title}, milliseconds\n\n{_table(some, prefill=prefill, judged=judged)}")
    return "\n\n".join(parts)


def _table(rows: Sequence[Row], *, prefill: bool, judged: bool) -> str:
    """Columns of rivals that have no time at all are left out."""
    rivals = [rival for rival in RIVALS if any(rival in row.rivals for row in rows)]
    has_16_bit = any(row.ours_16_bit is not None for row in rows)
    left = ["cache of", "threads", "pagedkv", "GFLOP/s" if prefill else "GB/s"]
    left += ["of matrix products"] if prefill else ["floor: a read"]
    left += [*rivals, *([OUR_16_BIT] if has_16_bit else []), "times as fast"]
    right = ["least", "goal", "reached"]
    lines = [
        f"| {' | '.join([*left, *right])} |",
        f"|---|{'---:|' * (len(left) - 1)}{'---|' * len(right)}",
    ]
    for row in rows:
        cells = [row.point.title, str(row.threads), _ms(row.ms), f"{row.speed / 1e9:.1f}"]
        share = "-" if row.peak_share is None else f"{row.peak_share:.0%}"
        cells += [share if prefill else _ms(row.read_ms)]
        cells += [_rival(row, rival) for rival in rivals]
        cells += [_ms(row.ours_16_bit)] if has_16_bit else []
        cells += ["-" if row.ratio is None else f"{row.ratio:.2f}"]
        cells += [*_targets(row), _reached(row) if judged else "-"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _ms(ms: float | None) -> str:
    if ms is None:
        return "-"
    return f"{ms:.2f}" if ms < 9.995 else f"{ms:.1f}" if ms < 99.95 else f"{ms:.0f}"


def _rival(row: Row, rival: str) -> str:
    """The fastest stands out; `~`: the best of a few calls."""
    text = _ms(row.rivals.get(rival))
    if rival in row.slow:
        return f"~{text}"
    return f"**{text}**" if rival == row.fastest else text


def _targets(row: Row) -> tuple[str, str]:
    point = row.point
    least = [f"{point.least:g}"]
    if point.least_peak is not None:
        least.append(f"{point.least_peak:.0%} of products")
    goal = [] if point.goal is None else [f"{point.goal:g}"]
    if row.ours_16_bit is not None:
        goal.append(f"ahead of {OUR_16_BIT}")
    return ", ".join(least), ", ".join(goal) or "-"


def _reached(row: Row) -> str:
    if row.ratio is None:
        return "-"
    if not row.reaches_least:
        return "**no**"
    if row.point.goal is None and row.ours_16_bit is None:
        return "yes"
    return "goal" if row.reaches_goal else "least"


def as_json(row: Row) -> dict[str, object]:
    """The row, and what follows from it."""
    return {
        "title": row.point.title,
        **asdict(row.point),
        "threads": row.threads,
        "ms": row.ms,
        "rivals_ms": dict(row.rivals),
        "slow": sorted(row.slow),
        "our_bfloat16_ms": row.ours_16_bit,
        "bytes_or_operations_per_s": row.speed,
        "read_ms": row.read_ms,
        "matrix_products_per_s": row.peak,
        "share_of_matrix_products": row.peak_share,
        "fastest": row.fastest,
        "ratio": row.ratio,
        "reaches_least": row.reaches_least,
        "reaches_goal": row.reaches_goal,
        "others": row.others,
    }
