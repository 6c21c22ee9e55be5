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
from pagedkv.bench.attention.command import run as attention
from pagedkv.bench.cpp import run_cpp
from pagedkv.bench.manager import EVICTIONS
from pagedkv.bench.memory import Memory, memory_of, memory_table, memory_title
from pagedkv.bench.rivals import RIVALS, Rival, load_rival
from pagedkv.bench.table import machine, rival_table, table
from pagedkv.bench.timing import one_processor
from pagedkv.bench.torch_calls import run as torch_calls
from pagedkv.bench.transformers import run as transformers

FULL = Scale(tokens=4096, dim=4096, calls=20_000, slots=65_536, blocks=1_000_000)
QUICK = Scale(tokens=256, dim=256, calls=200, slots=1024, blocks=12_800)
Results = list[tuple[Figure, Measured]]
QUIET = 0.1  # share of the machine that others may take before a figure is measured again


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table; 1 when a target was to be held and is missed."""
    words = sys.argv[1:] if argv is None else argv
    if words and words[0] == "attention":
        return attention(words[1:])
    if words and words[0] == "transformers":
        return transformers(words[1:])
    if words and words[0] == "torch-calls":
        return torch_calls(words[1:])
    arguments = _parser().parse_args(words)
    if arguments.rival is not None:
        return _beside(load_rival(arguments.rival), arguments)
    python = _measure_all(BENCHES, arguments)
    memories = [
        memory_of(eviction, _scale(arguments).blocks)
        for eviction in EVICTIONS
        if arguments.filter in memory_title(eviction)
    ]
    cpp: Results = []
    if arguments.cpp is not None:
        print(f"{arguments.cpp} ...", file=sys.stderr)
        cpp = [one for one in _measure_cpp(arguments) if arguments.filter in one[0].title]
    _print_machine(python + cpp, arguments)
    judged = not arguments.quick
    print(f"\nFrom Python\n\n{table(python, judged=judged)}")
    if memories:
        print(f"\nMemory a block of 16 tokens\n\n{memory_table(memories, judged=judged)}")
    if arguments.cpp is not None:
        print(f"\nIn C++\n\n{table(cpp, judged=judged)}")
    if arguments.json is not None:
        figures = [*_as_json(python, "Python"), *map(asdict, memories), *_as_json(cpp, "C++")]
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")
    return _exit_status(python + cpp, memories, arguments)


def _beside(rival: Rival, arguments: argparse.Namespace) -> int:
    """The table of ours beside a rival's."""
    results = _measure_all(rival.benches, arguments)
    memories = []
    if rival.memory is not None and not arguments.filter:
        memories = [memory_of("lru", _scale(arguments).blocks), rival.memory(arguments.quick)]
    _print_machine(results, arguments)
    judged = not arguments.quick
    print(f"\nBeside {rival.name}\n\n{rival_table(results, judged=judged)}")
    if memories:
        print(f"\nMemory a block of 16 tokens\n\n{memory_table(memories, judged=judged)}")
    if arguments.json is not None:
        figures = [*_as_json(results, rival.name), *map(asdict, memories)]
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")
    return _exit_status(results, memories, arguments)


def _print_machine(results: Results, arguments: argparse.Namespace) -> None:
    print(machine([measured.others for _, measured in results], kept=True))
    if arguments.quick:
        print("- quick: small shapes, a few turns; these are no figures of speed")


def _scale(arguments: argparse.Namespace) -> Scale:
    return QUICK if arguments.quick else FULL


def _exit_status(
    results: Results, memories: Sequence[Memory], arguments: argparse.Namespace
) -> int:
    reached = [measured.reaches(figure) for figure, measured in results]
    reached += [memory.reached for memory in memories]
    return 1 if arguments.check and not all(reached) else 0


def _measure_all(benches: Sequence[Bench], arguments: argparse.Namespace) -> Results:
    results: Results = []
    with one_processor():
        for bench in benches:
            if arguments.filter in bench.figure.title:
                print(f"{bench.figure.title} ...", file=sys.stderr)
                results.append((bench.figure, _measure(bench, arguments)))
    return results


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


def _as_json(results: Results, where: str) -> list[dict[str, object]]:
    """`where`: the language, or the rival that took the floor's place."""
    return [
        {
            "language": where,
            **asdict(figure),
            **asdict(measured),
            "share": measured.share,
            "reached": measured.reaches(figure),
        }
        for figure, measured in results
    ]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pagedkv.bench",
        description="Time the library beside the least work that does the same, in turns, and "
        "print the table of docs/performance.md. Each result is checked before it is timed.",
        epilog="`python -m pagedkv.bench attention` measures attention beside others on the CPU, "
        "`python -m pagedkv.bench transformers` a cache for transformers beside its own, "
        "`python -m pagedkv.bench torch-calls` what a call costs from torch.",
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
    add(
        "--rival",
        choices=RIVALS,
        help="instead: the manager beside another's, which is installed in this environment",
    )
    add("--json", type=Path, metavar="FILE", help="write the figures to FILE too")
    add("--check", action="store_true", help="exit with 1 when a target is missed")
    return parser


if __name__ == "__main__":
    sys.exit(main())
