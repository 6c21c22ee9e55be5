"""An operation runs where its arrays lie."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from support.devices import DEVICES, missing_cuda, run_on
from support.errors import refuses
from support.paged_cases import Sizes, make_case

import pagedkv
from pagedkv import ShapeError, UnsupportedError, metal, ops
from pagedkv.ops import devices

EMULATED = [device for device in DEVICES if device.name.endswith("emulated")]


class On:
    """An array that says which device of DLPack's it is on."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.number, 0


@pytest.fixture
def modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names stand for the modules of devices."""
    monkeypatch.setattr(devices, "device_module", lambda _, name: name)


@pytest.mark.usefixtures("modules")
@pytest.mark.parametrize(
    ("array", "module"),
    [
        (On(2), "cuda"),
        (On(13), "cuda"),
        (On(8), "metal"),
        (SimpleNamespace(is_cuda=True), "cuda"),
        (SimpleNamespace(is_cuda=False, is_mps=True), "metal"),
    ],
    ids=["CUDA", "CUDA, managed", "Metal", "torch on CUDA", "torch on mps"],
)
def test_arrays_choose_the_module_of_their_device(array: Any, module: str) -> None:
    host = np.zeros(3)
    assert devices.module_for("write_kv", array) == module
    assert devices.module_for("swap_blocks", host, array) == module
    assert devices.module_for("swap_blocks", array, host) == module


@pytest.mark.usefixtures("modules")
@pytest.mark.parametrize(
    "array",
    [np.zeros(3), On(1), On(3), On(99), SimpleNamespace(is_cuda=False, is_cpu=True), None, 3, "x"],
    ids=["NumPy", "the CPU", "pinned", "unknown", "torch", "None", "an integer", "text"],
)
def test_all_else_goes_to_the_cpu_which_says_what_it_takes(array: Any) -> None:
    assert devices.module_for("write_kv", array) is pagedkv._core


def test_a_device_that_cannot_be_asked_is_none() -> None:
    class Failing:
        def __dlpack_device__(self) -> tuple[int, int]:
            raise RuntimeError("no device")

    assert devices.device_type(Failing()) == 1


def test_arrays_of_metal_need_a_build_that_has_it() -> None:
    reason = pagedkv.build_info()["backends"]["metal"]
    if reason is True:
        made = metal.array([[1, 2], [3, 4]], np.float16)
        assert isinstance(made[0], metal.Array)
        assert made.__dlpack_device__() == (8, 0)
        assert np.array(made).tolist() == [[1, 2], [3, 4]]
        return
    for make in (metal.empty, metal.zeros, metal.array):
        with refuses(UnsupportedError, "metal", reason, "a build with Metal"):
            make((2, 3))


def test_the_kernels_of_cuda_run_on_a_device() -> None:
    # The other tests of operations run there too; this one says why they do not.
    if missing_cuda():
        pytest.skip(f"no CUDA device is tested: {missing_cuda()}")
    case = make_case(np.random.default_rng(0), Sizes([40, 3]))
    with run_on(DEVICES[-1]):
        case.check(*ops.paged_attention(**case.arrays, **case.keywords, return_lse=True))


# What a device takes from the CPU


@pytest.mark.parametrize("device", EMULATED, ids=lambda device: device.name)
def test_lists_and_other_integers_are_copied_to_the_device(device: Any) -> None:
    case = make_case(np.random.default_rng(0), Sizes([40, 3], [5, 1]))
    with run_on(device):
        expected = ops.paged_attention(**case.arrays, **case.keywords)
        arrays = case.arrays | {
            "block_tables": case.arrays["block_tables"].tolist(),
            "seq_lens": case.arrays["seq_lens"].astype(np.int64),
        }
        keywords = case.keywords | {"query_start_loc": [0, 5, 6]}
        assert ops.paged_attention(**arrays, **keywords).tobytes() == expected.tobytes()
        with refuses(ShapeError, "ops.paged_attention", "beyond int32"):
            ops.paged_attention(**arrays | {"seq_lens": [2**31, 3]}, **keywords)
        with refuses(ShapeError, "ops.paged_attention", "query_start_loc of 2 entries"):
            ops.paged_attention(**arrays, query_start_loc=[0, 6])


@pytest.mark.parametrize("device", EMULATED, ids=lambda device: device.name)
def test_elements_that_a_device_does_not_take_are_refused_by_name(device: Any) -> None:
    for dtype in ("float64", "int4"):
        case = make_case(np.random.default_rng(0), Sizes([5]), dtype)
        with run_on(device), pytest.raises(UnsupportedError, match=f"{dtype}.*; expected"):
            ops.paged_attention(**case.arrays, **case.keywords)
