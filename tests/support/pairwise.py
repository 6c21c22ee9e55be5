"""Few combinations of many values, in which each two values of two parameters meet."""

import itertools
import random
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["pairwise"]

Pair = frozenset[tuple[str, Any]]


def pairwise(parameters: Mapping[str, Sequence[Any]], seed: int = 0) -> list[dict[str, Any]]:
    """Combinations in which every value of each parameter meets every value of each other one."""
    rng = random.Random(seed)
    names = list(parameters)
    missing: set[Pair] = {
        frozenset({(a, x), (b, y)})
        for a, b in itertools.combinations(names, 2)
        for x in parameters[a]
        for y in parameters[b]
    }
    rows = []
    while missing:
        # Begun with a pair that is missing, each further value meets the most that are.
        row = dict(sorted(min(missing, key=lambda pair: sorted(map(repr, pair)))))
        for name in rng.sample(names, len(names)):
            if name in row:
                continue
            values = list(parameters[name])
            rng.shuffle(values)

            gains = [
                sum(frozenset({(name, value), old}) in missing for old in row.items())
                for value in values
            ]
            row[name] = values[gains.index(max(gains))]
        missing -= {frozenset(pair) for pair in itertools.combinations(row.items(), 2)}
        rows.append({name: row[name] for name in names})
    return rows
