"""Managers of others, timed in turns with ours in one process. Each is imported only when it is
asked for, and installed beside pagedkv by who asks: docs/performance.md says how."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pagedkv.bench.figure import Bench
from pagedkv.bench.memory import Memory

__all__ = ["RIVALS", "Rival", "load", "load_rival"]

RIVALS = ("vllm", "sglang")


@dataclass(frozen=True)
class Rival:
    name: str
    """With its version, and which of its cores is measured where it has several."""
    benches: tuple[Bench, ...]
    """The floor of each is the rival."""
    memory: Callable[[bool], Memory] | None = None
    """What a block costs it; `quick`: of a small pool."""


def load(module: str, name: str) -> Any:
    """What a rival calls `name`; untyped, because the rival need not be there."""
    return getattr(importlib.import_module(module), name)


def load_rival(rival: str) -> Rival:
    """Raises ImportError unless the rival and all that it imports are installed."""
    made: Rival = load(f"pagedkv.bench.rivals.{rival}", "rival")()
    return made
