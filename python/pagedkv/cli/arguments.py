"""Types of command-line values."""

from __future__ import annotations

import argparse
import math

from pagedkv.sizes import parse_bytes, parse_tokens

__all__ = [
    "count_int",
    "fraction",
    "memory_size",
    "names",
    "positive_float",
    "positive_int",
    "positive_ints",
    "seed_int",
    "token_counts",
]

# Block ids are 32-bit; no count that is given here needs more.
MAX_COUNT = 2**31 - 1


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


def count_int(text: str) -> int:
    """A count in [0, 2^31 - 1]."""
    value = _integer(text)
    if value is None or not 0 <= value <= MAX_COUNT:
        raise argparse.ArgumentTypeError(f"'{text:.40}'; expected an integer, 0 or more")
    return value


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


def fraction(text: str) -> float:
    """A share in (0, 1]: `0.9` or `90%`."""
    try:
        value = float(text.removesuffix("%")) / (100.0 if text.endswith("%") else 1.0)
    except ValueError:
        value = math.nan
    if not 0.0 < value <= 1.0:
        raise argparse.ArgumentTypeError(f"'{text:.40}'; expected a share such as 0.9 or 90%")
    return value


def memory_size(text: str) -> int:
    """Bytes: `8GiB`, `512MiB`, `1.5GB`, `65536`; upper or lower case."""
    size = parse_bytes(text)
    if size is None:
        raise argparse.ArgumentTypeError(f"'{text:.40}'; expected a size such as 8GiB or 512MiB")
    if size < 1:
        raise argparse.ArgumentTypeError(f"'{text:.40}'; expected at least one byte")
    return size


def token_counts(text: str) -> list[int]:
    """Counts of tokens with commas between them, each once, in their order: `2k,8k,100000`."""
    counts = []
    for part in text.split(","):
        count = parse_tokens(part)
        if count is None or not 1 <= count <= MAX_COUNT:
            raise argparse.ArgumentTypeError(
                f"'{part:.40}'; expected tokens such as 2k or 1000, 1 or more"
            )
        counts.append(count)
    return list(dict.fromkeys(counts))


def _integer(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None
