"""What the pages of docs/ show works: Python and C++ as pasted, commands with what they print."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from support.markdown import ROOT, Block, blocks, pages
from support.programs import cpp_compiler, run, run_ok

import pagedkv
from pagedkv.cli.config import include_dir, library_dir

PAGES = [page for page in pages() if "docs" in page.relative_to(ROOT).parts[:1]]
DATA = ROOT / "tests" / "data"
SHOWN = re.compile(r"It prints:\n\n```text\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)

# Languages of blocks that nothing can run: layouts, messages, formulas, parts of the site.
PROSE = {"text"}
# Commands that a page tells and this file does not run, and where they are.
ELSEWHERE = {
    "python3 -m venv": "CI installs so",
    "pip install": "CI installs so",
    "pre-commit": "CI's linters",
    "c++": "the C++ blocks are compiled with these flags",
    "cmake": "tests/test_consumers.py configures and builds",
    "python -m pagedkv.bench": "tests/test_bench_command.py",
    "python tools/": "tests of its own, where it takes less than an hour",
}
# A word that the reader replaces, or a folder that only the reader has: the command shows a form.
PLACEHOLDER = re.compile(r"(?<![\w-])[A-Z][A-Z_]+(?![\w=.-])|[<>]|\.\.\.|\s(~/|build/|\S+/(\s|$))")


def name(block: Block) -> str:
    return block.name


def relative(page: Path) -> str:
    return str(page.relative_to(ROOT))


# Python


def missing_packages(program: str) -> list[str]:
    """Packages that the program imports, itself or by an integration, and that are not here."""
    names = set()
    for node in ast.walk(ast.parse(program)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module or "")
    wanted = {part.removeprefix("pagedkv.integrations.").split(".")[0] for part in names}
    return sorted(part for part in wanted if part and importlib.util.find_spec(part) is None)


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=relative)
def test_the_python_blocks_of_a_page_run_one_after_the_other(page: Path, tmp_path: Path) -> None:
    # Blank lines in between keep the line numbers of the page in a traceback.
    program = ""
    for block in blocks(page, "python"):
        program += "\n" * (block.line - 1 - program.count("\n")) + block.text
    if missing := missing_packages(program):
        pytest.skip(f"missing: {', '.join(missing)}")
    done = run([sys.executable, "-W", "error", "-c", program], tmp_path)
    assert done.returncode == 0, f"{relative(page)}:\n{done.stderr}"
    printed = done.stdout
    for shown in SHOWN.finditer(page.read_text(encoding="utf-8")):
        before, found, printed = printed.partition(shown["text"])
        assert found, f"{relative(page)} shows\n{shown['text']}but this came:\n{before}{printed}"


# C++


def one_program(parts: list[Block]) -> str:
    """A program of several: headers once, each `main` in a namespace, run one after the other."""
    includes, bodies, calls = set[str](), [], []
    for number, block in enumerate(parts):
        assert "int main() {" in block.text, f"{block.name} is not a whole program"
        lines = block.text.splitlines()
        includes |= {line for line in lines if line.startswith("#include")}
        body = "\n".join("" if line.startswith("#include") else line for line in lines)
        body = body.replace("int main() {", "void run() {")
        where = f'#line {block.line} "{relative(block.page)}"'
        bodies.append(f"namespace block_{number} {{\n{where}\n{body}\n}}")
        calls.append(f'std::puts("{block.name}"); block_{number}::run();')
    includes.add("#include <cstdio>")
    return "\n".join([*sorted(includes), *bodies, "int main() {", *calls, "}", ""])


def test_the_cpp_blocks_of_all_pages_compile_without_a_warning_and_run(tmp_path: Path) -> None:
    parts = [block for page in PAGES for block in blocks(page, "cpp")]
    assert parts
    compiler = cpp_compiler()
    source, program = tmp_path / "main.cpp", tmp_path / "main"
    source.write_text(one_program(parts), encoding="utf-8")
    try:
        paths = [f"-I{include_dir()}", f"-L{library_dir()}"]
    except pagedkv.PagedKvError:
        pytest.skip("an installed pagedkv, with headers and library, is missing")
    flags = ["-std=c++20", "-O0", "-UNDEBUG", "-Wall", "-Wextra", "-Werror", *paths]
    libraries = ["-lpagedkv_kernels", "-pthread"]
    run_ok([compiler, *flags, str(source), "-o", str(program), *libraries], tmp_path)
    printed = run_ok([str(program)], tmp_path)
    for block in parts:
        assert block.name in printed


@pytest.mark.packaging
@pytest.mark.parametrize(
    "block", [block for page in PAGES for block in blocks(page, "cmake")], ids=name
)
def test_a_cmake_block_builds_the_first_program_of_its_page(block: Block, tmp_path: Path) -> None:
    if shutil.which("cmake") is None:
        pytest.skip("cmake is missing")
    (tmp_path / "CMakeLists.txt").write_text(block.text, encoding="utf-8")
    (tmp_path / "main.cpp").write_text(blocks(block.page, "cpp")[0].text, encoding="utf-8")
    cmakedir = run_ok([sys.executable, "-m", "pagedkv", "config", "--cmakedir"], tmp_path).strip()
    settings = [f"-Dpagedkv_DIR={cmakedir}", f"-DCMAKE_CXX_COMPILER={cpp_compiler()}"]
    run_ok(["cmake", "-S", ".", "-B", "build", *settings], tmp_path)
    run_ok(["cmake", "--build", "build"], tmp_path)


# The command line


def commands(block: Block) -> list[tuple[str, str]]:
    """The commands of a block, each with the output that is shown for it."""
    text = re.sub(r"\\\n\s*", "", block.text)
    found: list[tuple[str, str]] = []
    for line in text.splitlines():
        if block.language == "console" and not line.startswith("$ "):
            command, output = found.pop()
            found.append((command, output + line + "\n"))
            continue
        line = re.sub(r"\s#.*", "", line.removeprefix("$ "))
        for part in filter(None, (part.strip() for part in line.split("&&"))):
            found.append((part.removeprefix(".venv/bin/"), ""))
    return found


def shape(output: str) -> list[str]:
    """What each line begins with: figures and paths differ from machine to machine."""
    lines = (line.strip() for line in output.splitlines())
    return [re.sub(r"\d[\d,.]*", "0", line.split()[0]) for line in lines if line]


SHELL = [
    (block, command, output)
    for page in [*PAGES, ROOT / "CONTRIBUTING.md"]
    for block in blocks(page, "sh", "bash", "console")
    for command, output in commands(block)
]


# config.json of the commands: the form of Hugging Face, a small Llama.
MODEL = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "max_position_embeddings": 4096,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "torch_dtype": "bfloat16",
    "vocab_size": 256,
}


def is_run_here(command: str) -> bool:
    return command.startswith(("pagedkv ", "python examples/")) and not PLACEHOLDER.search(command)


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        pytest.param(command, output, id=f"{block.name}: {command}")
        for block, command, output in SHELL
        if is_run_here(command)
    ],
)
def test_a_command_of_a_page_runs_and_prints_what_is_shown(
    command: str, shown: str, tmp_path: Path
) -> None:
    words = shlex.split(command)
    if words[0] == "python":
        words[1:2] = [str(ROOT / words[1])]
    else:
        words[:1] = ["python", "-m", "pagedkv"]
    if "--plot" in words:
        pytest.importorskip("matplotlib", reason="matplotlib is missing")
    shutil.copy(DATA / "azure_sample.csv", tmp_path / "trace.csv")
    shutil.copy(DATA / "mooncake_sample.jsonl", tmp_path / "trace.jsonl")
    (tmp_path / "config.json").write_text(json.dumps(MODEL), encoding="utf-8")
    printed = run_ok([sys.executable, *words[1:]], tmp_path)
    if shown:
        assert shape(printed) == shape(shown), f"{command} printed\n{printed}"


def test_every_command_of_a_page_is_run_here_or_elsewhere() -> None:
    for block, command, _ in SHELL:
        form = command.startswith("pagedkv ") and PLACEHOLDER.search(command)
        assert is_run_here(command) or form or command.startswith(tuple(ELSEWHERE)), (
            f"{block.name}: nothing says how {command!r} is tested"
        )


@pytest.mark.parametrize("page", [*PAGES, *ROOT.glob("*.md")], ids=relative)
def test_every_block_of_a_page_is_of_a_kind_that_a_test_knows(page: Path) -> None:
    known = PROSE | {"python", "cpp", "cmake", "sh", "bash", "console"}
    for block in blocks(page):
        assert block.language in known or block.language.startswith("{"), (
            f"{block.name}: language {block.language!r}; expected {', '.join(sorted(known))}"
        )
        if block.language == "text":
            assert not block.text.startswith(("pagedkv ", "$ ")), f"{block.name}: expected sh"


def test_an_optional_package_that_is_missing_is_named() -> None:
    program = "import numpy\nfrom pagedkv.integrations.no_such_package import Cache\n"
    assert missing_packages(program) == ["no_such_package"]
    assert missing_packages("import numpy, sys, pagedkv\nfrom pagedkv import ops\n") == []


def test_a_placeholder_is_told_from_a_command() -> None:
    assert PLACEHOLDER.search("pagedkv demo --model DIR")
    assert PLACEHOLDER.search("pagedkv replay TRACE --blocks N")
    assert PLACEHOLDER.search("pagedkv demo --model ~/models/llama --requests 4")
    assert PLACEHOLDER.search("pagedkv plan Llama-3.1-8B/ --memory 80GiB")
    assert not PLACEHOLDER.search("pagedkv replay trace.jsonl --memory 8GiB")


def test_the_tutorial_is_on_its_page() -> None:
    page = (ROOT / "docs" / "start" / "tutorial.md").read_text(encoding="utf-8")
    assert "{literalinclude} ../../examples/tutorial.py" in page
