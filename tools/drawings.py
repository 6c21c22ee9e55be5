"""Writes the drawings of docs/concepts: python tools/drawings.py [--check] [--dark FOLDER].

Plain SVG, light or dark as the reader's system is, on a ground of its own, so that it can be read
on any page. Colours are those of Okabe and Ito, which the colour-blind can tell apart; what a
colour says, a letter or a line says too.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from html import escape
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "docs" / "concepts" / "drawings"

# Per class: fill and line in light, fill and line in dark.
COLOURS = {
    "a": ("#cfe6f5", "#0072b2", "#123f5a", "#56b4e9"),
    "b": ("#fbe3b3", "#b87900", "#57400c", "#e69f00"),
    "c": ("#c9ecdf", "#008a64", "#0c4738", "#2fc796"),
    "free": ("#ffffff", "#9a9a9a", "#24262b", "#767a82"),
    "hole": ("none", "#9a9a9a", "none", "#767a82"),
}
TEXT, FAINT, GROUND = ("#1c1c1c", "#ededed"), ("#5a5a5a", "#b3b6bc"), ("#fafafa", "#1a1c20")


def style(dark: bool) -> str:
    """The rules of one scheme."""
    i = int(dark)
    rules = [
        f".ground{{fill:{GROUND[i]};stroke:{COLOURS['free'][2 * i + 1]}}}",
        f"text{{fill:{TEXT[i]}}}",
        f"text.faint{{fill:{FAINT[i]}}}",
        f".arrow{{stroke:{FAINT[i]}}}",
        f".tip{{fill:{FAINT[i]}}}",
    ]
    for name, colours in COLOURS.items():
        rules.append(f".{name}{{fill:{colours[2 * i]};stroke:{colours[2 * i + 1]}}}")
    return "".join(rules)


class Drawing:
    """Shapes with a title, which screen readers say."""

    def __init__(self, title: str, width: int, height: int) -> None:
        self.title, self.width, self.height = title, width, height
        self.parts: list[str] = []

    def text(
        self, x: float, y: float, said: str, *, size: int = 14, anchor: str = "middle",
        faint: bool = False, bold: bool = False, mono: bool = False,
    ) -> None:  # fmt: skip
        kind = ' class="faint"' if faint else ""
        weight = ' font-weight="600"' if bold else ""
        family = ' font-family="monospace"' if mono else ""
        self.parts.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size}" text-anchor="{anchor}"{kind}{weight}'
            f"{family}>{escape(said)}</text>"
        )

    def box(
        self, x: float, y: float, w: float, h: float, kind: str, said: str = "", *, size: int = 13
    ) -> None:
        dashes = ' stroke-dasharray="4 3"' if kind == "hole" else ""
        self.parts.append(
            f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{w:g}" height="{h:g}" rx="3" '
            f'stroke-width="1.5"{dashes}/>'
        )
        if said:
            self.text(x + w / 2, y + h / 2 + size * 0.36, said, size=size, mono=True)

    def block(self, x: float, y: float, kinds: str, said: Iterable[str], slot: float = 27) -> None:
        """A block of slots side by side: a kind and a text each."""
        names = {"a": "a", "b": "b", "c": "c", ".": "free"}
        for i, (kind, label) in enumerate(zip(kinds, said, strict=True)):
            self.box(x + i * slot, y, slot, 26, names[kind], label, size=11)

    def arrow(self, *points: tuple[float, float], dashed: bool = False) -> None:
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        dashes = ' stroke-dasharray="5 4"' if dashed else ""
        self.parts.append(
            f'<polyline class="arrow" points="{path}" fill="none" stroke-width="1.6"{dashes}/>'
        )
        (x0, y0), (x, y) = points[-2], points[-1]
        length = max(((x - x0) ** 2 + (y - y0) ** 2) ** 0.5, 1e-9)
        ux, uy = (x - x0) / length, (y - y0) / length
        tip = f"{x:g},{y:g} " + " ".join(
            f"{x - 8 * ux + side * 4 * uy:.1f},{y - 8 * uy - side * 4 * ux:.1f}" for side in (1, -1)
        )
        self.parts.append(f'<polygon class="tip" points="{tip}"/>')

    def svg(self, dark: bool | None = None) -> str:
        """Of one scheme, or of the one that the reader's system has."""
        rules = style(bool(dark))
        if dark is None:
            rules += f"@media (prefers-color-scheme:dark){{{style(True)}}}"
        size = f'viewBox="0 0 {self.width} {self.height}" width="{self.width}"'
        head = [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} height="{self.height}" role="img" '
            'font-family="system-ui, sans-serif">',
            f"<title>{escape(self.title)}</title>",
            f"<style>{rules}</style>",
            f'<rect class="ground" x="0.5" y="0.5" width="{self.width - 1}" '
            f'height="{self.height - 1}" rx="8"/>',
        ]
        return "\n".join([*head, *self.parts, "</svg>", ""])


def blocks() -> Drawing:
    d = Drawing("Two sequences, their block tables, and the pool that both share", 760, 345)
    d.text(120, 32, "tokens of a sequence", bold=True)
    d.text(370, 32, "block table", bold=True)
    d.text(600, 32, "pool of 8 blocks, 4 slots each", bold=True)
    pool = {
        2: ("aaaa", "0123"), 0: ("aaaa", "4567"), 5: ("aa..", "89  "),
        3: ("bbbb", "0123"), 1: ("bb..", "45  "),
    }  # fmt: skip
    y_of = {i: 50 + i * 32 for i in range(8)}
    for i, y in y_of.items():
        kinds, digits = pool.get(i, ("....", "    "))
        said = [f"{k.upper()}{n}" if k != "." else "" for k, n in zip(kinds, digits, strict=True)]
        d.text(552, y + 18, str(i), anchor="end", mono=True)
        d.block(562, y, kinds, said)
    for name, kind, top, table, tokens in (
        ("A", "a", 70, (2, 0, 5), 10),
        ("B", "b", 200, (3, 1), 6),
    ):
        d.text(20, top - 6, f"sequence {name}, {tokens} tokens", anchor="start", faint=True)
        for i, block in enumerate(table):
            y = top + i * 32
            count = min(4, tokens - 4 * i)
            labels = [f"{name}{4 * i + j}" if j < count else "" for j in range(4)]
            d.block(20, y, kind * count + "." * (4 - count), labels)
            d.text(170, y + 18, f"block {i}", size=12, anchor="start", faint=True)
            d.arrow((226, y + 13), (340, y + 13))
            d.box(345, y, 50, 26, kind, str(block))
            d.arrow((398, y + 13), (430, y + 13), (510, y_of[block] + 13), (534, y_of[block] + 13))
    d.text(20, 328, "Entry i of a table is the id of the block that holds tokens 4i to 4i + 3. "
           "Order in the pool means nothing.", anchor="start", size=13, faint=True)  # fmt: skip
    return d


def slots() -> Drawing:
    d = Drawing("Where the new tokens of a step are written", 760, 290)
    d.text(20, 34, "sequence A holds 9 tokens; the step adds tokens 9, 10, 11, 12", anchor="start",
           bold=True)  # fmt: skip
    d.text(20, 76, "positions", anchor="start", faint=True)
    d.text(20, 136, "block_tables[A]", anchor="start", faint=True)
    d.text(20, 210, "slot_mapping", anchor="start", faint=True)
    xs = [330, 400, 470, 600]
    for x, position in zip(xs, (9, 10, 11, 12), strict=True):
        d.box(x, 58, 56, 28, "c", str(position))
    for x, (block, logical) in zip((160, 245, 400, 600), ((2, 0), (0, 1), (5, 2), (7, 3)),
                                   strict=True):  # fmt: skip
        d.box(x, 118, 56, 28, "a", str(block))
        d.text(x + 28, 164, f"entry {logical}", size=12, faint=True)
    for i, x in enumerate(xs):
        entry = 628 if i == 3 else 428
        d.arrow((x + 28, 88), (entry, 114))
        start = (entry, 172)
        d.arrow(start, (x + 28, 190))
        block, offset = (7, 0) if i == 3 else (5, i + 1)
        d.box(x, 194, 56, 28, "c", str(4 * block + offset))
        d.text(x + 28, 240, f"{block}·4 + {offset}", size=12, faint=True, mono=True)
    d.text(20, 272, "block = block_tables[A][position // 4];  slot = block * 4 + position % 4",
           anchor="start", size=13, mono=True)  # fmt: skip
    return d


def prefix_tree() -> Drawing:
    d = Drawing("A prefix tree: two sequences share two blocks, and one block is copied", 760, 400)
    d.text(20, 34, "prefix index", anchor="start", bold=True)
    d.box(300, 18, 120, 28, "free", "salt (root)", size=12)
    said = ["the", "cat", "sat", "on"]

    def node(x: float, y: float, kinds: str, words: list[str], below: str) -> None:
        d.block(x, y, kinds, words, slot=42)
        d.text(x + 84, y + 44, below, size=12, faint=True)

    node(276, 76, "cccc", ["You", "are", "a", "kind"], "block 0 · held by A and B")
    d.arrow((360, 48), (360, 72))
    node(276, 152, "cccc", ["help", "er", ".", "User"], "block 1 · held by A and B")
    d.arrow((360, 124), (360, 148))
    node(80, 240, "aaaa", said, "block 2 · held by A")
    d.arrow((330, 202), (164, 236))
    node(480, 240, "bbbb", ["the", "cat", "ate", "it"], "block 3 · held by B")
    d.arrow((390, 202), (564, 236))
    d.arrow((252, 253), (476, 253), dashed=True)
    d.text(364, 246, "copy 2 → 3", size=12, mono=True)
    d.text(364, 272, "2 tokens reused", size=12, faint=True)
    rows = (("A", "a", (0, 1, 2)), ("B", "b", (0, 1, 3)))
    for i, (name, kind, table) in enumerate(rows):
        x = 80 + i * 400
        d.text(x, 334, f"table of {name}", anchor="start", faint=True)
        for j, block in enumerate(table):
            d.box(x + 84 + j * 40, 314, 40, 28, "c" if j < 2 else kind, str(block))
    d.text(20, 380, "Full blocks are shared by id. The first block that differs is copied before B "
           "writes to it: copy on write.", anchor="start", size=13, faint=True)  # fmt: skip
    return d


def groups() -> Drawing:
    d = Drawing("What three groups keep of one sequence of 26 tokens", 760, 300)
    rows = (
        (60, "FullAttention()", "every token", ["0", "1", "2", "3", "9", "10", "11"], "a"),
        (130, "SlidingWindow(8)", "the last 8 tokens", ["-1"] * 4 + ["12", "13", "14"], "b"),
    )
    d.text(20, 32, "group", anchor="start", bold=True)
    d.text(470, 32, "its table: a block each 4 tokens", bold=True)
    for y, name, what, table, kind in rows:
        d.text(20, y + 16, name, anchor="start", mono=True)
        d.text(20, y + 36, what, anchor="start", size=12, faint=True)
        for i, entry in enumerate(table):
            d.box(220 + i * 70, y, 66, 34, "hole" if entry == "-1" else kind, entry)
    y = 200
    d.text(20, y + 16, "Ssm(16)", anchor="start", mono=True)
    d.text(20, y + 36, "one state", anchor="start", size=12, faint=True)
    d.box(430, y, 66, 34, "c", "8")
    d.text(463, y + 52, "checkpoint, 16 tokens", size=12, faint=True)
    d.box(640, y, 66, 34, "c", "15")
    d.text(673, y + 52, "state, 26 tokens", size=12, faint=True)
    d.arrow((500, y + 17), (636, y + 17), dashed=True)
    d.text(568, y + 10, "copy 8 → 15", size=12, mono=True)
    d.text(20, 284, "-1 is a hole: the block was given back, and may serve others. All groups draw "
           "from one pool of block ids.", anchor="start", size=13, faint=True)  # fmt: skip
    return d


def split_kv() -> Drawing:
    d = Drawing("Split-KV decode: pieces of 512 tokens, then one merge", 760, 326)
    d.text(20, 36, "one query, 1,536 tokens of context", anchor="start", bold=True)
    d.box(330, 54, 100, 30, "b", "query q")
    for i in range(3):
        x = 40 + i * 240
        d.arrow((380, 86), (x + 100, 112))
        d.block(x, 116, "aaaaaaaa", [""] * 8, slot=25)
        d.text(x + 100, 160, f"tokens {512 * i:,} to {512 * i + 511:,}", size=12, faint=True)
        d.arrow((x + 100, 168), (x + 100, 186))
        d.box(x + 20, 190, 160, 30, "c", f"o{i + 1}, lse{i + 1}")
        d.arrow((x + 100, 222), (380, 250))
    d.box(280, 254, 200, 32, "b", "o = Σ wᵢ·oᵢ")
    d.text(500, 274, "wᵢ = exp(lseᵢ - lse)", anchor="start", size=13, mono=True)
    said = "Any thread may do any piece. They are merged in order, so the bits are the same."
    d.text(20, 312, said, anchor="start", size=13, faint=True)
    return d


DRAWINGS: dict[str, Callable[[], Drawing]] = {
    "blocks": blocks,
    "slots": slots,
    "prefix-tree": prefix_tree,
    "groups": groups,
    "split-kv": split_kv,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail where a file is stale")
    parser.add_argument("--dark", type=Path, metavar="FOLDER", help="write the dark ones there")
    arguments = parser.parse_args()
    stale = []
    for name, draw in DRAWINGS.items():
        file, svg = FOLDER / f"{name}.svg", draw().svg()
        if arguments.check:
            if not file.exists() or file.read_text(encoding="utf-8") != svg:
                stale.append(file.name)
        elif arguments.dark is not None:
            (arguments.dark / file.name).write_text(draw().svg(dark=True), encoding="utf-8")
        else:
            file.write_text(svg, encoding="utf-8")
    if stale:
        print(f"{', '.join(stale)}: not what tools/drawings.py draws; run it", file=sys.stderr)
    return int(bool(stale))


if __name__ == "__main__":
    raise SystemExit(main())
