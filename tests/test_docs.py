"""What the pages of docs/ show works, and what they link to exists."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.markdown import FENCE, ROOT, blocks, pages

LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")
HEADING = re.compile(r"^#+ +(?P<title>.+)$", re.MULTILINE)


def relative(page: Path) -> str:
    return str(page.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as Markdown viewers name them."""
    prose = FENCE.sub("", page.read_text(encoding="utf-8"))
    titles = (match["title"].lower() for match in HEADING.finditer(prose))
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in titles}


@pytest.mark.parametrize(
    "page", [p for p in pages() if "docs" in p.parts and blocks(p, "python")], ids=relative
)
def test_the_python_blocks_of_a_page_run_one_after_the_other(page: Path, tmp_path: Path) -> None:
    # Blank lines in between keep the line numbers of the page in a traceback.
    program = ""
    for block in blocks(page, "python"):
        program += "\n" * (block.line - 1 - program.count("\n")) + block.text
    for package in ("jax", "torch"):
        if f"import {package}" in program and importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, f"{relative(page)}:\n{done.stderr}"


@pytest.mark.parametrize("page", pages(), ids=relative)
def test_every_relative_link_of_a_page_resolves(page: Path) -> None:
    prose = FENCE.sub("", page.read_text(encoding="utf-8"))
    for match in LINK.finditer(prose):
        target, _, anchor = match["target"].partition("#")
        if "://" in target:
            continue
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), f"{relative(page)} links to {match['target']}: no such file"
        if anchor and file.suffix == ".md":
            assert anchor in anchors(file), (
                f"{relative(page)} links to {match['target']}: no such heading"
            )


def test_every_decision_stands_in_the_list_of_decisions() -> None:
    folder = ROOT / "docs" / "decisions"
    listed = (folder / "README.md").read_text(encoding="utf-8")
    pages_of_decisions = sorted(folder.glob("[0-9]*.md"))
    assert pages_of_decisions
    for page in pages_of_decisions:
        assert f"({page.name})" in listed, f"{page.name} is not in {relative(folder)}/README.md"
