"""The stub of the extension is what is built, and type checkers are content with it."""

import ast
import importlib.util
import inspect
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import pagedkv

ROOT = Path(__file__).parent.parent
STUB = ROOT / "python" / "pagedkv" / "_core.pyi"


def load_tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("stubs", ROOT / "tools" / "stubs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def meaning(stub: str) -> str:
    """The stub without its layout."""
    tree = ast.parse(stub)
    for node in ast.walk(tree):
        match node:
            case ast.Expr(value=ast.Constant(value=str(text)) as constant):
                constant.value = inspect.cleandoc(text)
            case ast.Expr(value=ast.Constant(value=constant)) if constant is not ...:
                raise AssertionError(f"{constant!r} in a stub")
    return ast.unparse(tree)


def test_the_committed_stub_is_what_the_extension_gives() -> None:
    pytest.importorskip("pybind11_stubgen", reason="pybind11-stubgen is not installed")
    given = meaning(load_tool().generate())
    assert meaning(STUB.read_text(encoding="utf-8")) == given, "run python tools/stubs.py"


def test_the_stub_names_every_public_class_and_function() -> None:
    tree = ast.parse(STUB.read_text(encoding="utf-8"))
    named = {node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    extension = {
        name
        for name in pagedkv.__all__
        if getattr(getattr(pagedkv, name), "__module__", None) == "pagedkv._core"
    }
    assert extension <= named


def test_no_argument_of_the_stub_is_left_untyped() -> None:
    for node in ast.walk(ast.parse(STUB.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            arguments = [*node.args.args, *node.args.kwonlyargs]
            assert all(each.annotation for each in arguments if each.arg != "self"), node.name
            assert node.returns is not None, node.name
            assert node.args.vararg is None, node.name
            assert not any(each.arg.startswith("arg") for each in arguments[:1]), node.name


def test_the_stub_holds_no_version() -> None:
    assert pagedkv.__version__ not in STUB.read_text(encoding="utf-8")


def test_mypy_strict_is_content_with_typed_usage(tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="mypy is not installed")
    checked = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--warn-unreachable"),
            *("--config-file", "", "--cache-dir", tmp_path, ROOT / "tests" / "typed_usage.py"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_typed_usage_runs_where_it_is_right() -> None:
    """What mypy accepts is not refused at run time."""
    alloc = pagedkv.BlockAllocator(8)
    ids = alloc.allocate_n(3)
    for held in (ids, ids.astype("uint64"), [1, 2], range(2), 2):
        alloc.acquire(held)
        alloc.free(held)
