"""Programs that tests start: what a page shows, compilers, the command line."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

__all__ = ["cpp_compiler", "run", "run_ok"]


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)


def run_ok(command: list[str], folder: Path) -> str:
    """What it prints; it must succeed."""
    done = run(command, folder)
    assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def cpp_compiler() -> str:
    candidates = [os.environ.get("CXX"), "g++", "clang++", "c++"]
    for candidate in filter(None, candidates):
        if shutil.which(candidate):
            return candidate
    pytest.skip("a C++ compiler (g++ or clang++) is missing")
