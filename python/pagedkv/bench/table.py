"""The table, in Markdown, and the machine that it was measured on."""

from __future__ import annotations

import datetime
import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import pagedkv
from pagedkv.bench.figure import Figure, Measured, duration

__all__ = ["machine", "rival_table", "table"]

_HEADER = (
    "| what | time | floor, timed in turns | its time | share of its speed | target | reached |",
    "|---|---:|---|---:|---:|---|---|",
)


_RIVAL_HEADER = (
    "| what | time | what the rival does for it | its time | times as fast | target | reached |",
    "|---|---:|---|---:|---:|---|---|",
)


def table(results: Sequence[tuple[Figure, Measured]], *, judged: bool) -> str:
    """One line a figure; `judged` says whether targets are reached. The share is floor's time / our
    time: above 100 % is faster than it."""
    lines = (
        _line(figure, measured, f"{measured.share:.0%}", figure.target, judged)
        for figure, measured in results
    )
    return "\n".join((*_HEADER, *lines))


def rival_table(results: Sequence[tuple[Figure, Measured]], *, judged: bool) -> str:
    """The same beside a rival; the ratio is its time / our time."""
    lines = (
        _line(
            figure,
            measured,
            f"{measured.share:.1f}" if measured.share < 99.95 else f"{measured.share:.0f}",
            "-" if figure.least_share is None else f"≥ {figure.least_share:g}",
            judged,
        )
        for figure, measured in results
    )
    return "\n".join((*_RIVAL_HEADER, *lines))


def _line(figure: Figure, measured: Measured, ratio: str, target: str, judged: bool) -> str:
    reached = "-"
    if judged and figure.has_target:
        reached = "yes" if measured.reaches(figure) else "**no**"
    cells = (
        figure.title,
        duration(measured.ns),
        figure.floor,
        duration(measured.floor_ns),
        ratio,
        target,
        reached,
    )
    return f"| {' | '.join(cells)} |"


def machine(others: Sequence[float], *, kept: bool) -> str:
    """What was measured on, in a few lines. `others`: shares of the machine that other processes
    took; `kept`: whether the process was kept on one processor where that can be done."""
    build = pagedkv.build_info()
    others = others or [0.0]
    where = "kept" if kept and hasattr(os, "sched_setaffinity") else "not kept"
    lines = (
        f"date: {datetime.datetime.now(datetime.UTC):%Y-%m-%d}",
        f"processor: {_processor()}, {os.cpu_count()} cores here, {where} on one of them",
        f"last-level cache: {_last_level_cache()}",
        f"system: {platform.system()} {platform.machine()}, {' '.join(platform.libc_ver())}",
        f"software: pagedkv {build['version']} ({build['compiler']}, {build['build_type']}), "
        f"Python {platform.python_version()}, NumPy {np.__version__}",
        f"other processes: {statistics.median(others):.0%} of the machine (median over figures), "
        f"{max(others):.0%} at most",
    )
    return "\n".join(f"- {line}" for line in lines)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        fields = {
            key.strip(): value.strip()
            for key, _, value in (line.partition(":") for line in info.read_text().splitlines())
        }
        if "model name" in fields:
            family, model = fields.get("cpu family", "?"), fields.get("model", "?")
            return f"{fields['model name']} (family {family}, model {model})"
    return platform.processor() or platform.machine()


def _last_level_cache() -> str:
    sizes = sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"))
    return sizes[-1].read_text().strip().replace("K", " KiB") if sizes else "unknown"
