"""The devices that the tests of operations run on: each test once a device, from one text."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from .cuda_arrays import OnCuda
from .values import DTYPES

__all__ = ["DEVICES", "Device", "missing_cuda", "run_on"]

ROOT = Path(__file__).parent.parent.parent


@dataclass(frozen=True)
class Device:
    """Where operations run, and on which elements of caches."""

    name: str
    dtypes: frozenset[str]
    load: Callable[[], Any]
    refuses: frozenset[str] = frozenset()  # among the parameters of tests

    def takes(self, item: pytest.Function) -> bool:
        """Whether a test is for it: the elements that its parameters and markers name are."""
        values = list(item.callspec.params.values())
        for row in values:
            if isinstance(row, dict):
                values += row.values()
        values += [name for marker in item.iter_markers("elements") for name in marker.args]
        named = {value for value in values if isinstance(value, str)}
        only = item.get_closest_marker("only_on")
        if only is not None and self.name.split("-")[0] not in only.args:
            return False
        return named & set(DTYPES) <= self.dtypes and not named & self.refuses


@contextmanager
def run_on(device: Device) -> Iterator[None]:
    """Operations of pagedkv.ops run there, on arrays of NumPy."""
    module = device.load()
    if module is None:
        yield
        return
    with pytest.MonkeyPatch.context() as patch:
        for file in ("attention", "data"):
            patch.setattr(f"pagedkv.ops.{file}.module_for", lambda *_: module)
        yield


@cache
def emulated(name: str) -> ModuleType:
    """The module of an emulated backend, whose device memory is NumPy's.

    PAGEDKV_EMULATED names the folder where it was built; else it is built here.
    """
    given = os.environ.get("PAGEDKV_EMULATED")
    folder = Path(given) if given else build()
    found = sorted(folder.rglob(f"{name}.*.so"))
    assert found, f"no {name} in {folder}"
    spec = importlib.util.spec_from_file_location(name, found[0])
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.set_device_checks(True)
    return module


@cache
def build() -> Path:
    """Compiles the emulated backends, once for each environment and compiler."""
    if not (ROOT / "cpp" / "tests" / "emulation").is_dir():
        pytest.skip("the emulation is missing: not a source checkout")
    cmake = shutil.which("cmake")
    if cmake is None:
        pytest.skip("cmake is missing (the extra 'test' installs it)")
    if sys.platform != "linux":
        pytest.skip("the emulation is for Linux")
    made_by = hashlib.sha256(f"{sys.prefix} {os.environ.get('CXX')}".encode()).hexdigest()[:12]
    folder = ROOT / "build" / "emulated" / made_by
    (folder / "CMakeCache.txt").unlink(missing_ok=True)  # it may name tools that have moved
    # -O1: what compiles for long runs for short
    options = ["-DCMAKE_BUILD_TYPE=Release", "-DCMAKE_CXX_FLAGS_RELEASE=-O1"]
    options += ["-DPAGEDKV_BUILD_EMULATED=ON"]
    options += [f"-DPAGEDKV_BUILD_{what}=OFF" for what in ("TESTS", "EXAMPLES")]
    pybind11 = importlib.import_module("pybind11")
    options += [f"-DPython_EXECUTABLE={sys.executable}"]
    options += [f"-Dpybind11_DIR={pybind11.get_cmake_dir()}"]
    if shutil.which("ninja"):
        options += ["-G", "Ninja"]
    configured = run(cmake, "-S", str(ROOT), "-B", str(folder), *options)
    if "libboost-context-dev" in configured.stdout:
        pytest.skip("Boost.Context is missing (Debian: libboost-context-dev)")
    assert configured.returncode == 0, configured.stdout
    jobs = str(os.cpu_count() or 2)
    built = run(cmake, "--build", str(folder), "--parallel", jobs, "--target", "pagedkv_emulated")
    assert built.returncode == 0, built.stdout[-20_000:]
    return folder


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@cache
def missing_cuda() -> str:
    """Why the kernels of CUDA are not tested on a device; empty where they are."""
    if importlib.util.find_spec("pagedkv._cuda") is None:
        return "pagedkv was not built with CUDA"
    if importlib.util.find_spec("torch") is None:
        return "torch, which makes the arrays there, is not installed"
    if importlib.import_module("pagedkv._cuda").device_count() == 0:
        return "this machine has no CUDA device"
    return ""


def cuda() -> Any:
    """The real module on arrays that go there and back."""
    module = importlib.import_module("pagedkv._cuda")
    module.set_device_checks(True)
    return OnCuda(module)


FLOATS = frozenset({"float32", "float16", "bfloat16"})
ON_CUDA = FLOATS | {"float8_e4m3", "float8_e5m2", "int8"}
DEVICES = [
    Device("cpu", frozenset(DTYPES), lambda: None),
    Device("cuda-emulated", ON_CUDA, lambda: emulated("_cuda_emulated")),
    # Scales that are arrays belong to quantised elements, which it does not take.
    Device(
        "metal-emulated",
        FLOATS,
        lambda: emulated("_metal_emulated"),
        refuses=frozenset({"head", "token"}),
    ),
]
if not missing_cuda():
    DEVICES.append(Device("cuda", ON_CUDA, cuda))
