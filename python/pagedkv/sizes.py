"""Sizes as people write them: bytes (`40GiB`, `1.5GB`) and tokens (`8k`), read and shown."""

from __future__ import annotations

import re

__all__ = ["format_bytes", "format_count", "format_tokens", "parse_bytes", "parse_tokens"]

UNITS = {
    "": 1, "b": 1,
    "k": 2**10, "kib": 2**10, "kb": 10**3,
    "m": 2**20, "mib": 2**20, "mb": 10**6,
    "g": 2**30, "gib": 2**30, "gb": 10**9,
    "t": 2**40, "tib": 2**40, "tb": 10**12,
}  # fmt: skip

# Of a context length, k is 1,024: a model of 8k takes 8,192 tokens.
TOKEN_UNITS = {"": 1, "k": 2**10, "m": 2**20}

NUMBER = re.compile(r"(\d+(?:\.\d*)?)\s*([a-z]*)", re.ASCII)
MOST_DIGITS = 20


def parse_bytes(text: str) -> int | None:
    """Bytes of `8GiB`, `512MiB`, `1.5GB`, `65536`, in upper or lower case; None for another."""
    return _parse(text, UNITS)


def parse_tokens(text: str) -> int | None:
    """Tokens of `8k` (8,192), `1m`, `1000`, in upper or lower case; None for another."""
    return _parse(text, TOKEN_UNITS)


def format_bytes(number: float) -> str:
    """`2 MiB`, `39.96 GiB`: four digits, binary units."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.4g} {unit}"
        number /= 1024
    return f"{number:.4g} TiB"


def format_count(number: int, noun: str) -> str:
    """`1 request`, `2,000 requests`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def format_tokens(number: int) -> str:
    """`8k` for 8,192, `1m` for 2^20, `1,000` where neither goes into it."""
    for unit, size in (("m", 2**20), ("k", 2**10)):
        if number >= size and number % size == 0:
            return f"{number // size}{unit}"
    return f"{number:,}"


def _parse(text: str, units: dict[str, int]) -> int | None:
    match = NUMBER.fullmatch(text.strip().lower())
    if match is None or match[2] not in units or len(match[1]) > MOST_DIGITS:
        return None
    number, unit = match[1], units[match[2]]
    return int(float(number) * unit) if "." in number else int(number) * unit
