"""The C++ suite passes: unit tests, headers that compile alone, replays of the fuzz corpora."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.packaging

ROOT = Path(__file__).parent.parent
NO_GOOGLETEST = "the C++ tests need GoogleTest (Debian: libgtest-dev)"


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module")
def cmake() -> str:
    if not (ROOT / "cpp" / "tests").is_dir():
        pytest.skip("the C++ tests are missing: not a source checkout")
    found = shutil.which("cmake")
    if found is None or shutil.which("ctest") is None:
        pytest.skip("cmake is missing (the extra 'test' installs it)")
    compilers = [os.environ.get("CXX", "c++"), "g++", "clang++"]
    # On Windows the build tools find Visual Studio by themselves.
    if sys.platform != "win32" and not any(map(shutil.which, compilers)):
        pytest.skip("a C++ compiler (CXX, c++, g++ or clang++) is missing")
    return found


def configure(cmake: str, build: Path, *settings: str) -> subprocess.CompletedProcess[str]:
    options = ["-DCMAKE_BUILD_TYPE=Debug", "-DPAGEDKV_BUILD_EXAMPLES=OFF", *settings]
    if sys.platform != "win32":
        options.append("-DCMAKE_CXX_FLAGS_DEBUG=-O0")  # a quick build, not a quick program
        if shutil.which("ninja"):
            options += ["-G", "Ninja"]
    return run(cmake, "-S", ROOT, "-B", build, *options)


def test_the_cpp_suite_builds_and_passes(cmake: str) -> None:
    # A folder for each environment and compiler, so that a second run compiles only what changed.
    made_by = hashlib.sha256(f"{sys.prefix} {os.environ.get('CXX')}".encode()).hexdigest()[:12]
    build = ROOT / "build" / "cpp-suite" / made_by
    (build / "CMakeCache.txt").unlink(missing_ok=True)  # it may name tools that have moved
    configured = configure(cmake, build)
    if NO_GOOGLETEST in " ".join(configured.stdout.split()):
        pytest.skip("GoogleTest is missing (Debian: libgtest-dev)")
    assert configured.returncode == 0, configured.stdout

    jobs = str(os.cpu_count() or 2)
    built = run(cmake, "--build", build, "--config", "Debug", "--parallel", jobs)
    assert built.returncode == 0, built.stdout[-20_000:]

    tested = run(
        *("ctest", "--test-dir", str(build), "--build-config", "Debug", "--parallel", jobs),
        *("--output-on-failure", "--no-tests=error"),
    )
    assert tested.returncode == 0, tested.stdout[-20_000:]
    total = re.search(r"100% tests passed.* out of (\d+)", tested.stdout)
    assert total
    assert int(total[1]) > 300, "some of the C++ suite was not built"


def test_without_googletest_the_configuration_names_what_is_missing(
    cmake: str, tmp_path: Path
) -> None:
    done = configure(cmake, tmp_path, "-DCMAKE_DISABLE_FIND_PACKAGE_GTest=ON")
    assert done.returncode != 0
    assert NO_GOOGLETEST in " ".join(done.stdout.split())
