"""Types of command-line values."""

from __future__ import annotations

import argparse
import math
import re

__all__ = ["memory_size", "names", "positive_float", "positive_int", "positive_ints", "seed_int"]

# Block ids are 32-bit; no count that is given here needs more.
MAX_COUNT = 2**31 - 1

UNITS = {
    "": 1, "b": 1,
    "k": 2**10, "kib": 2**10, "kb": 10**3,
    "m": 2**20, "mib": 2**20, "mb": 10**6,
    "g": 2**30, "gib": 2**30, "gb": 10**9,
    "t": 2**40, "tib": 2**40, "tb": 10**12,
}  # fmt: skip


def positive_int(text: str) -> int:
    """A count in [1, 2^31 - 1]."""
    value = _integer(text)
    if value is None or not 1 <= value <= MAX_COUNT:
        raise argparse.ArgumentTypeError(f"'{text:.40}'; expected an integer, 1 or more")
    return value


def positive_ints(text: str) -> list[int]:
    """Counts with commas between them, each once, in their order."""
    return list(dict.fromkeys(positive_int(part) for part in text.split(",")))


def names(text: str) -> list[str]:
    """Names with commas between them, each once, in their order."""
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise argparse.ArgumentTypeError(f"'{text:.40}'; expected names with commas between them")
    return list(dict.fromkeys(parts))


def seed_int(text: str) -> int:
    """A seed: an integer of 0 or more."""
    value = _integer(text)
    if value is None or value < 0:
        raise argparse.ArgumentTypeError(f"'{text:.40}'; expected an integer, 0 or more")
    return value


def positive_float(text: str) -> float:
    """A finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"'{text:.40}'; expected a number above 0")
    return value


def memory_size(text: str) -> int:
    """Bytes: `8GiB`, `512MiB`, `1.5GB`, `65536`; upper or lower case."""
    match = re.fullmatch(r"(\d+(?:\.\d*)?)\s*([a-z]*)", text.strip().lower(), re.ASCII)
    if match is None or match[2] not in UNITS or len(match[1]) > 20:
        raise argparse.ArgumentTypeError(f"'{text:.40}'; expected a size such as 8GiB or 512MiB")
    number, unit = match[1], UNITS[match[2]]
    size = int(float(number) * unit) if "." in number else int(number) * unit
    if size < 1:
        raise argparse.ArgumentTypeError(f"'{text:.40}'; expected at least one byte")
    return size


def _integer(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None
