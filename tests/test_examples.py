"""The examples run and say the same in both languages."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"

EXPECTED = """\
first: 23 tokens in blocks 0 1
second: 19 tokens in blocks 2 3
third: 40 tokens in blocks 0 1 4
3 of 8 blocks free
"""


def output(*command: str | Path) -> str:
    done = subprocess.run(
        [str(part) for part in command], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_python_example_shares_a_pool() -> None:
    assert output(sys.executable, EXAMPLES / "shared_pool.py") == EXPECTED


def test_the_cpp_example_shares_a_pool(tmp_path: Path) -> None:
    names = [os.environ.get("CXX", "c++"), "g++", "clang++"]
    compiler = next(filter(None, map(shutil.which, names)), None)
    if compiler is None:
        pytest.skip("a C++ compiler (CXX, c++, g++ or clang++) is missing")
    include, program = EXAMPLES.parent / "cpp" / "include", tmp_path / "shared_pool"
    output(compiler, "-std=c++20", "-I", include, EXAMPLES / "shared_pool.cpp", "-o", program)
    assert output(program) == EXPECTED
