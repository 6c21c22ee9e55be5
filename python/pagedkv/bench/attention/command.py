"""The command line of the comparison."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pagedkv
from pagedkv.bench.attention.comparison import Effort, Row, compare
from pagedkv.bench.attention.points import POINTS, Point, quick
from pagedkv.bench.attention.rivals import RIVALS, version
from pagedkv.bench.attention.table import as_json, tables
from pagedkv.bench.table import machine

__all__ = ["run"]


def run(argv: Sequence[str]) -> int:
    """Print the tables; 1 when what is to be reached at least is to be held, and is missed."""
    arguments = _parser().parse_args(argv)
    effort = Effort(3, 1) if arguments.quick else Effort(arguments.turns, arguments.tries)
    versions, notes = _installed(arguments.rivals)
    rows: list[Row] = []
    for point in _points(arguments):
        print(f"{point.title} ...", file=sys.stderr)
        rows += compare(point, list(versions), arguments.threads, effort, notes.append)
    print(machine([row.others for row in rows], kept=False))
    build = pagedkv.build_info()
    print(f"- instructions: {build['isa_chosen']}; found: {', '.join(build['isa_found'])}")
    for name, found in versions.items():
        print(f"- {name}: {found}")
    if arguments.quick:
        print("- quick: small shapes, a few turns; these are no figures of speed")
    print(f"\n{tables(rows, judged=not arguments.quick)}")
    if notes:
        print("\nNot measured, or otherwise:\n")
        print("\n".join(f"- {note}" for note in dict.fromkeys(notes)))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([as_json(row) for row in rows], indent=2) + "\n")
    return 1 if arguments.check and not all(row.reaches_least for row in rows) else 0


def _points(arguments: argparse.Namespace) -> list[Point]:
    points = [quick(point) if arguments.quick else point for point in POINTS]
    return [point for point in points if arguments.filter in point.title]


def _installed(rivals: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Versions of those that can be measured, and why the others cannot."""
    versions: dict[str, str] = {}
    notes = []
    for rival in rivals:
        try:
            versions[rival] = version(rival)
        except (ImportError, OSError) as error:
            notes.append(f"{rival}: not installed ({error})")
    return versions, notes


def _numbers(text: str) -> list[int]:
    numbers = [int(part) for part in text.split(",")]
    if not all(number > 0 for number in numbers):
        raise argparse.ArgumentTypeError(f"numbers of threads are above 0, not {text}")
    return numbers


def _names(text: str) -> list[str]:
    names = [part.strip() for part in text.split(",") if part.strip()]
    for name in names:
        if name not in RIVALS:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(RIVALS)}")
    return names


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pagedkv.bench attention",
        description="Time pagedkv.ops.paged_attention beside the implementations that are "
        "installed, in turns, and print the tables of docs/performance.md. Each result is checked "
        "before it is timed.",
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="small shapes: shows that it runs, not how fast")
    add("--turns", type=int, default=15, metavar="N", help="turns of each row (default 15)")
    add(
        "--tries",
        type=int,
        default=2,
        metavar="N",
        help="measure again, up to N times, while other processes take a tenth of the machine",
    )
    add("--filter", default="", metavar="TEXT", help="only rows whose title contains TEXT")
    add(
        "--threads",
        type=_numbers,
        default=sorted({1, min(2, os.cpu_count() or 1)}),
        metavar="N,...",
        help="numbers of threads (default 1,2)",
    )
    add(
        "--rivals",
        type=_names,
        default=RIVALS,
        metavar="NAME,...",
        help=f"only these: {', '.join(RIVALS)}; '' for none",
    )
    add("--json", type=Path, metavar="FILE", help="write the rows to FILE too")
    add("--check", action="store_true", help="exit with 1 when a least is missed")
    return parser
