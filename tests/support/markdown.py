"""Code blocks of the project's Markdown pages, for the tests that run them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
# A directive of the site, ```{toctree} for instance, is a block whose language has braces.
FENCE = re.compile(
    r"^```(?P<language>[\w{}+-]*)[^\n]*\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str
    text: str

    @property
    def name(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path, *languages: str) -> list[Block]:
    """The fenced blocks of a page in order, of some languages if any are named."""
    source = page.read_text(encoding="utf-8")
    found = [
        Block(
            page, source.count("\n", 0, match.start("text")) + 1, match["language"], match["text"]
        )
        for match in FENCE.finditer(source)
    ]
    return [block for block in found if not languages or block.language in languages]


def pages() -> list[Path]:
    """Every page that a reader of the repository is meant to read."""
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
