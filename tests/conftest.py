"""Settings of the random tests, and what more than one file needs."""

import os
import random
import sysconfig
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from support.devices import DEVICES, Device, run_on

# Without an activated environment, too, the tools that the extra `test` installs are found.
os.environ["PATH"] = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])

COMMON = {
    "deadline": None,  # machines are shared: a slow example is no failure
    "print_blob": True,  # a failure prints what repeats it
    "suppress_health_check": [HealthCheck.too_slow],
}
settings.register_profile("default", max_examples=30, stateful_step_count=30, **COMMON)
settings.register_profile("ci", max_examples=150, stateful_step_count=50, **COMMON)
settings.register_profile("long", max_examples=3000, stateful_step_count=100, **COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


@pytest.fixture
def rng() -> Iterator[np.random.Generator]:
    """Random numbers of a seed that a failure shows; PAGEDKV_TEST_SEED repeats it."""
    seed = int(os.environ.get("PAGEDKV_TEST_SEED") or random.randrange(2**32))
    print(f"PAGEDKV_TEST_SEED={seed}")
    return np.random.default_rng(seed)


@pytest.fixture(scope="module", params=DEVICES, ids=lambda device: device.name)
def device(request: pytest.FixtureRequest) -> Iterator[Device]:
    """The operations of pagedkv.ops run on each device in turn, on arrays of NumPy."""
    with run_on(request.param):
        yield request.param


def pytest_report_header() -> str:
    return f"operations run on: {', '.join(device.name for device in DEVICES)}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Drops what is not for a device: elements it does not take, and tests of the CPU alone."""

    def is_for_its_device(item: pytest.Item) -> bool:
        device = item.callspec.params.get("device") if hasattr(item, "callspec") else None
        return not isinstance(device, Device) or device.takes(item)

    dropped = [item for item in items if not is_for_its_device(item)]
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if is_for_its_device(item)]
