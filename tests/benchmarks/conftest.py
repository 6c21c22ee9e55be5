"""Benchmarks run when they are named: `pytest tests/benchmarks`. With `--benchmark-disable` they
only show that they run and give right results, on small shapes."""

import pytest

from pagedkv.bench.__main__ import FULL, QUICK
from pagedkv.bench.figure import Scale


@pytest.fixture(scope="session")
def timed(pytestconfig: pytest.Config) -> bool:
    """Whether times are taken."""
    return not pytestconfig.getoption("benchmark_disable")


@pytest.fixture(scope="session")
def scale(timed: bool) -> Scale:
    """4,096 x 4,096 where times are taken."""
    return FULL if timed else QUICK
