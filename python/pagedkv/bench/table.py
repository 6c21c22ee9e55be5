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

__all__ = ["machine", "table"]

_HEADER = (
    "| what | time | floor, timed in turns | its time | share of its speed | target | reached |",
    "|---|---:|---|---:|---:|---|---|",
)


def table(results: Sequence[tuple[Figure, Measured]], *, judged: bool) -> str:
    """One line a figure; `judged` says whether targets are reached. The share is floor's time / our
    time: above 100 % is faster than it."""
    lines = (_line(figure, measured, judged) for figure, measured in results)
    return "\n".join((*_HEADER, *lines))


def _line(figure: Figure, measured: Measured, judged: bool) -> str:
    reached = "-"
    if judged and figure.has_target:
        reached = "yes" if measured.reaches(figure) else "**no**"
    cells = (
        figure.title,
        duration(measured.ns),
        figure.floor,
        duration(measured.floor_ns),
        f"{measured.share:.0%}",
        figure.target,
        reached,
    )
    return f"| {' | '.join(cells)} |"


def machine(processor: int | None, results: Sequence[tuple[Figure, Measured]]) -> str:
    """What was measured on, in a few lines."""
    build = pagedkv.build_info()
    others = [measured.others for _, measured in results] or [0.0]
    kept = "kept on one of them" if processor is not None else "not kept on one of them"
    lines = (
        f"date: {datetime.datetime.now(datetime.UTC):%Y-%m-%d}",
        f"processor: {_processor()}, {os.cpu_count()} cores here, {kept}",
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
