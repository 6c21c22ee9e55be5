"""Whatever the README shows can be pasted and works."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from support.markdown import ROOT, Block, blocks
from support.programs import cpp_compiler, run_ok

import pagedkv

README = ROOT / "README.md"
INSTALL_AND_RUN = "python3 -m venv .venv && .venv/bin/pip install . && .venv/bin/pagedkv demo"
INSTALL_AND_TEST = "python3 -m venv .venv && .venv/bin/pip install '.[test]' && .venv/bin/pytest"


def name(block: Block) -> str:
    return block.name


def commands_of_the_readme() -> list[str]:
    """The parts of the shell blocks that call `pagedkv`, without the folder of the environment."""
    lines = "\n".join(block.text for block in blocks(README, "sh")).splitlines()
    parts = (part.strip() for line in lines for part in re.split(r"&&|#", line))
    return [part.removeprefix(".venv/bin/") for part in parts if re.match(r"(\S*/)?pagedkv ", part)]


def test_the_readme_has_a_block_of_each_language() -> None:
    assert {block.language for block in blocks(README)} >= {"sh", "python", "cpp", "cmake"}


@pytest.mark.parametrize("block", blocks(README, "python"), ids=name)
def test_a_python_block_runs_as_pasted(block: Block, tmp_path: Path) -> None:
    for package in re.findall(r"^(?:from|import) (torch|transformers)\b", block.text, re.MULTILINE):
        pytest.importorskip(package)
    run_ok([sys.executable, "-W", "error", "-c", block.text], tmp_path)


@pytest.mark.parametrize("block", blocks(README, "cpp"), ids=name)
def test_a_cpp_block_compiles_without_a_warning_and_runs(block: Block, tmp_path: Path) -> None:
    compiler = cpp_compiler()
    source, program = tmp_path / "main.cpp", tmp_path / "main"
    source.write_text(block.text, encoding="utf-8")
    include = Path(pagedkv.__file__).parent / "include"
    flags = ["-std=c++20", "-O1", "-Wall", "-Wextra", "-Werror", f"-I{include}"]
    run_ok([compiler, *flags, str(source), "-o", str(program)], tmp_path)
    assert run_ok([str(program)], tmp_path)


@pytest.mark.packaging
@pytest.mark.parametrize("block", blocks(README, "cmake"), ids=name)
def test_a_cmake_block_builds_the_cpp_block(block: Block, tmp_path: Path) -> None:
    if shutil.which("cmake") is None:
        pytest.skip("cmake is missing")
    compiler = cpp_compiler()
    # A block that begins no project adds to the first one.
    before = "" if "project(" in block.text else blocks(README, "cmake")[0].text
    (tmp_path / "CMakeLists.txt").write_text(before + block.text, encoding="utf-8")
    (tmp_path / "main.cpp").write_text(blocks(README, "cpp")[0].text, encoding="utf-8")
    cmakedir = run_ok([sys.executable, "-m", "pagedkv", "config", "--cmakedir"], tmp_path).strip()
    configure = ["cmake", "-S", ".", "-B", "build", f"-DCMAKE_CXX_COMPILER={compiler}"]
    run_ok([*configure, f"-Dpagedkv_DIR={cmakedir}"], tmp_path)
    run_ok(["cmake", "--build", "build"], tmp_path)


@pytest.mark.parametrize("command", sorted(set(commands_of_the_readme())))
def test_a_command_line_of_the_readme_runs(command: str, tmp_path: Path) -> None:
    arguments = shlex.split(command)[1:]
    assert run_ok([sys.executable, "-m", "pagedkv", *arguments], tmp_path)


def test_the_replay_prints_what_the_readme_shows(tmp_path: Path) -> None:
    printed = run_ok([sys.executable, "-m", "pagedkv", "replay"], tmp_path).splitlines()
    (table,) = (block for block in blocks(README, "text") if "running at once" in block.text)
    for line in table.text.splitlines():
        assert line in printed


def test_the_demo_prints_what_the_readme_shows(tmp_path: Path) -> None:
    printed = run_ok([sys.executable, "-m", "pagedkv", "demo"], tmp_path)
    (shown,) = (block for block in blocks(README, "text") if "identical" in block.text)
    for line in shown.text.splitlines():
        assert line in printed or line.startswith("speed")


@pytest.mark.parametrize("command", [INSTALL_AND_RUN, INSTALL_AND_TEST])
def test_each_set_up_is_one_command(command: str) -> None:
    assert [block for block in blocks(README, "sh") if block.text.strip() == command]


def test_the_set_up_stands_on_the_first_screen() -> None:
    head = README.read_text(encoding="utf-8").splitlines()[:30]
    assert {INSTALL_AND_RUN, INSTALL_AND_TEST} <= set(head)
