"""The figures of `python -m pagedkv.bench`: right results always, targets where times are taken."""

import pytest

from pagedkv.bench import BENCHES, Bench, Scale, measure

TRIES = 4  # other processes may take the machine in one of them


@pytest.mark.parametrize(
    "bench", BENCHES, ids=[f"{b.figure.title} against {b.figure.floor}" for b in BENCHES]
)
def test_a_figure_reaches_its_target(bench: Bench, scale: Scale, timed: bool) -> None:
    if not timed:
        measure(bench, scale, turns=1)
        return
    tries = []
    for _ in range(TRIES):
        tries.append(measure(bench, scale, turns=9))
        if tries[-1].reaches(bench.figure):
            return
    pytest.fail(f"{bench.figure.target}; measured {tries}")
