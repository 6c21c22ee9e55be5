"""The examples run and say the same in both languages."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pagedkv.cli.config import library_dir

EXAMPLES = Path(__file__).parent.parent / "examples"

EXPECTED = {
    "shared_pool": """\
first: 23 tokens in blocks 0 1
second: 19 tokens in blocks 2 3
third: 40 tokens in blocks 0 1 4
3 of 8 blocks free
""",
    "scheduler_loop": """\
request 0: 0 of 24 tokens cached
request 1: 0 of 25 tokens cached
request 2: 0 of 26 tokens cached
request 3: 0 of 27 tokens cached
request 2: 24 of 26 tokens cached
request 3: 18 of 27 tokens cached
request 4: 18 of 28 tokens cached
request 5: 18 of 29 tokens cached
request 5: 18 of 32 tokens cached
96 of 235 tokens were cached
3 preemptions, 4 block copies
""",
    "decode_step": """\
step 0: lengths 9 2, next 62 2
step 1: lengths 10 3, next 62 62
step 2: lengths 11 4, next 62 2
step 3: lengths 12 5, next 62 62
step 4: lengths 13 6, next 0 2
step 5: lengths 14 7, next 62 20
""",
}

# Those that another package is needed for, and in Python alone.
WITH_PACKAGE = {
    "jax_arrays": (
        "jax",
        EXPECTED["decode_step"]
        + """\
the cache as JAX sees it: (32, 2, 4, 64) float32, the same memory: True
attention as JAX computes it: True
""",
    )
}


def output(*command: str | Path) -> str:
    done = subprocess.run(
        [str(part) for part in command], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# To be read in one language, and so not in the other.
TUTORIAL = """\
two blocks: 0 1
held once more: True - given back: True
needed 6, free 5, in use 1
table: [5 2 4] - room for 12 tokens
token 6 is in slot 10
positions:    [ 0  1  2  3  4  5  6  7  8  9 10 11 12]
slot mapping: [ 0  1  2  3  4  5  6  7  8  9 10 11 12]
block table:  [0 1 2 3]
paged attention is dense attention: True
10 of 11 tokens of the second prompt were cached
its table: [0 1 4] - to copy first: [[2, 4]]
attention over reused keys is the same: True
lengths after 20 steps: [33, 31]
64 tokens in 15 blocks: 60 slots, where 256 were reserved
blocks that both hold: [0, 1]
blocks free at the end: 64
"""


def test_the_tutorial_runs() -> None:
    assert output(sys.executable, "-W", "error", EXAMPLES / "tutorial.py") == TUTORIAL


@pytest.mark.parametrize("name", EXPECTED)
def test_the_python_example_runs(name: str) -> None:
    assert output(sys.executable, EXAMPLES / f"{name}.py") == EXPECTED[name]


@pytest.mark.parametrize("name", WITH_PACKAGE)
def test_the_example_with_another_package_runs(name: str) -> None:
    package, expected = WITH_PACKAGE[name]
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    assert output(sys.executable, "-W", "error", EXAMPLES / f"{name}.py") == expected


@pytest.mark.parametrize("name", EXPECTED)
def test_the_cpp_example_runs(name: str, tmp_path: Path) -> None:
    names = [os.environ.get("CXX", "c++"), "g++", "clang++"]
    compiler = next(filter(None, map(shutil.which, names)), None)
    if compiler is None:
        pytest.skip("a C++ compiler (CXX, c++, g++ or clang++) is missing")
    include, program = EXAMPLES.parent / "cpp" / "include", tmp_path / name
    # The kernels are of the package that is installed.
    library = [f"-L{library_dir()}", "-lpagedkv_kernels", "-pthread"]
    source = EXAMPLES / f"{name}.cpp"
    output(compiler, "-std=c++20", "-I", include, source, "-o", program, *library)
    assert output(program) == EXPECTED[name]
