"""The command line of the benchmarks."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from pagedkv.bench import BENCHES, Bench, Figure, Measured, Scale, measure
from pagedkv.bench.cpp import run_cpp
from pagedkv.bench.table import machine, table
from pagedkv.bench.timing import one_processor

FULL = Scale(tokens=4096, dim=4096, calls=20_000, slots=65_536)
QUICK = Scale(tokens=256, dim=256, calls=200, slots=1024)
Results = list[tuple[Figure, Measured]]
QUIET = 0.1  # share of the machine that others may take before a figure is measured again


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; 1 when a target was to be held and is missed."""
    arguments = _parser().parse_args(argv)
    results: Results = []
    with one_processor() as processor:
        for bench in BENCHES:
            if arguments.filter in bench.figure.title:
                print(f"{bench.figure.title} ...", file=sys.stderr)
                results.append((bench.figure, _measure(bench, arguments)))
    python = len(results)
    if arguments.cpp is not None:
        print(f"{arguments.cpp} ...", file=sys.stderr)
        results += _measure_cpp(arguments)
    print(machine(processor, results))
    if arguments.quick:
        print("- quick: small shapes, a few turns; these are no figures of speed")
    judged = not arguments.quick
    print(f"\nFrom Python\n\n{table(results[:python], judged=judged)}")
    if arguments.cpp is not None:
        print(f"\nIn C++\n\n{table(results[python:], judged=judged)}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(_as_json(results, python), indent=2) + "\n")
    missed = [figure for figure, measured in results if not measured.reaches(figure)]
    return 1 if arguments.check and missed else 0


def _measure(bench: Bench, arguments: argparse.Namespace) -> Measured:
    """Measured while the machine is quiet, or else in the quietest of some tries."""
    if arguments.quick:
        return measure(bench, QUICK, turns=3)
    tries = []
    for _ in range(arguments.tries):
        tries.append(measure(bench, FULL, arguments.turns))
        if tries[-1].others < QUIET:
            break
        time.sleep(1)
    return min(tries, key=lambda measured: measured.others)


def _measure_cpp(arguments: argparse.Namespace) -> Results:
    """The same for the C++ program, which measures all of its figures in one go."""
    tries = []
    for _ in range(1 if arguments.quick else arguments.tries):
        with one_processor():
            tries.append(run_cpp(arguments.cpp))
        if tries[-1][0][1].others < QUIET:
            break
        time.sleep(1)
    return min(tries, key=lambda results: results[0][1].others)


def _as_json(results: Results, python: int) -> list[dict[str, object]]:
    return [
        {
            "language": "Python" if i < python else "C++",
            **asdict(figure),
            **asdict(measured),
            "share": measured.share,
            "reached": measured.reaches(figure),
        }
        for i, (figure, measured) in enumerate(results)
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pagedkv.bench",
        description="Time the library beside the least work that does the same, in turns, and "
        "print the table of docs/performance.md. Each result is checked before it is timed.",
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="small shapes: shows that it runs, not how fast")
    add("--turns", type=int, default=15, metavar="N", help="turns of each figure (default 15)")
    add(
        "--tries",
        type=int,
        default=3,
        metavar="N",
        help="measure again, up to N times, while other processes take a tenth of the machine",
    )
    add("--filter", default="", metavar="TEXT", help="only figures whose title contains TEXT")
    add("--cpp", metavar="PROGRAM", help="also run the C++ benchmarks (pagedkv_bench)")
    add("--json", type=Path, metavar="FILE", help="write the figures to FILE too")
    add("--check", action="store_true", help="exit with 1 when a target is missed")
    return parser


if __name__ == "__main__":
    sys.exit(main())
