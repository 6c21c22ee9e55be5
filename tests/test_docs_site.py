"""The pages of the site hang together: tables of contents, links, drawings, and the reference."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from support.markdown import FENCE, ROOT, blocks, pages

DOCS = ROOT / "docs"
CPP = ROOT / "cpp" / "include"
LINK = re.compile(r"\[[^\]]*\]\((?P<target>[^)\s]+)\)")
HEADING = re.compile(r"^#+ +(?P<title>.+)$", re.MULTILINE)
DOC_ROLE = re.compile(r":doc:`(?:[^`<]*<)?(?P<target>[^`>]+)>?`")
RST_TOCTREE = re.compile(r"^\.\. toctree::\n(?P<text>(?:(?: {3}.*)?\n)+)", re.MULTILINE)
# Headers whose contents no page shows: parts that no program includes by itself.
PRIVATE = ("detail/", "core/eviction/", "core/manager/", "cpu/simd/", "cpu/kernels/")
PUBLIC_MODULES = [
    "pagedkv",
    "pagedkv.demo",
    "pagedkv.errors",
    "pagedkv.integrations.torch",
    "pagedkv.integrations.transformers",
    "pagedkv.metal",
    "pagedkv.models",
    "pagedkv.ops",
    "pagedkv.plan",
    "pagedkv.replay",
    "pagedkv.show",
]


def relative(page: Path) -> str:
    return str(page.relative_to(ROOT))


def site_pages() -> list[Path]:
    return sorted([*DOCS.rglob("*.md"), *DOCS.rglob("*.rst")])


def listed(page: Path) -> set[Path]:
    """The pages that the tables of contents of a page name."""
    if page.suffix == ".md":
        trees = [block.text for block in blocks(page, "{toctree}")]
    else:
        trees = [match["text"] for match in RST_TOCTREE.finditer(page.read_text(encoding="utf-8"))]
    found = set[Path]()
    for entry in (line.strip() for tree in trees for line in tree.splitlines()):
        if entry and not entry.startswith(":"):
            folder, _, pattern = entry.rpartition("/")
            for suffix in (".md", ".rst"):
                found |= {f.resolve() for f in (page.parent / folder).glob(pattern + suffix)}
    return found


def test_every_page_is_in_a_table_of_contents() -> None:
    seen, ahead = set[Path](), [DOCS / "index.md"]
    while ahead:
        page = ahead.pop()
        if page not in seen:
            seen.add(page)
            ahead += listed(page)
    assert [relative(page) for page in site_pages() if page not in seen] == []


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as Markdown viewers name them."""
    prose = FENCE.sub("", page.read_text(encoding="utf-8"))
    titles = (match["title"].lower() for match in HEADING.finditer(prose))
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in titles}


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


@pytest.mark.parametrize("page", sorted(DOCS.rglob("*.rst")), ids=relative)
def test_every_link_of_a_reference_page_resolves(page: Path) -> None:
    for match in DOC_ROLE.finditer(page.read_text(encoding="utf-8")):
        target = page.parent / match["target"]
        assert any(target.with_suffix(suffix).exists() for suffix in (".md", ".rst")), (
            f"{relative(page)} links to {match['target']}: no such page"
        )


def test_every_decision_stands_in_the_list_of_decisions() -> None:
    folder = DOCS / "decisions"
    named = (folder / "README.md").read_text(encoding="utf-8")
    pages_of_decisions = sorted(folder.glob("[0-9]*.md"))
    assert pages_of_decisions
    for page in pages_of_decisions:
        assert f"({page.name})" in named, f"{page.name} is not in {relative(folder)}/README.md"


def test_the_drawings_are_what_the_script_draws() -> None:
    command = [sys.executable, str(ROOT / "tools" / "drawings.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_drawing_has_a_title_and_a_page() -> None:
    drawings = sorted(DOCS.rglob("*.svg"))
    assert drawings
    text = "".join(page.read_text(encoding="utf-8") for page in DOCS.rglob("*.md"))
    for drawing in drawings:
        assert "<title>" in drawing.read_text(encoding="utf-8"), drawing.name
        assert f"/{drawing.name})" in text, f"no page shows {drawing.name}"


def public(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:  # the integrations want packages of their own, and name them
        pytest.skip(str(error))


def documented_objects(of: str) -> list[object]:
    """What the directives of the Python reference name; of integrations, those of one module."""
    found = []
    for page in sorted((DOCS / "reference" / "python").glob("*.rst")):
        module = ""
        for line in page.read_text(encoding="utf-8").splitlines():
            if line.startswith(".. currentmodule:: "):
                module = line.split()[-1]
            if module != of and "integrations" in module:
                continue
            if match := re.match(
                r"\.\. (?:auto|py:)(class|function|exception|data):: (\w+)$", line
            ):
                found.append(getattr(importlib.import_module(module), match[2]))
    return found


@pytest.mark.parametrize("module", PUBLIC_MODULES)
def test_every_public_name_is_in_the_reference(module: str) -> None:
    names = public(module)
    documented = {id(thing) for thing in documented_objects(module)}
    modules = {"ops", "__version__"}  # a page of its own; told in words
    missing = [
        name
        for name in names.__all__
        if name not in modules and id(getattr(names, name)) not in documented
    ]
    assert missing == []


def test_the_version_is_in_the_reference() -> None:
    page = DOCS / "reference" / "python" / "process.rst"
    assert "``pagedkv.__version__``" in page.read_text(encoding="utf-8")


def test_every_public_header_is_in_the_reference() -> None:
    text = "".join(p.read_text(encoding="utf-8") for p in (DOCS / "reference/cpp").glob("*.rst"))
    shown = re.findall(r"^\.\. cpp-header:: (\S+)$", text, re.MULTILINE)
    assert len(shown) == len(set(shown))
    for header in shown:
        assert (CPP / header).exists(), f"the reference shows {header}: no such header"
    public = {str(header.relative_to(CPP)) for header in CPP.rglob("*.hpp")}
    public = {h for h in public if not h.removeprefix("pagedkv/").startswith(PRIVATE)}
    public -= {"pagedkv/pagedkv.hpp", "pagedkv/cpu.hpp"}  # they include the others
    assert sorted(public - set(shown)) == []
