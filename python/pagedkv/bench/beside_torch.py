"""Whether pagedkv slows torch down in the same process, or torch pagedkv, in either import order.

Processes with one library, and with both, take turns. Where there are both, each call of one
follows a call of the other.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pagedkv.bench.timing import Others

ORDERS = ("torch,pagedkv", "pagedkv,torch")
WORKS = {"matmul": "torch", "sdpa": "torch", "attention": "pagedkv"}
TITLES = {
    "matmul": "torch.mm, 320 x 320 float32",
    "sdpa": "torch SDPA, 4 x 8 heads, 256 tokens of 128",
    "attention": "pagedkv.ops.paged_attention, 4 x 1,024 tokens, 8 heads of 128",
}


@dataclass
class Row:
    """One work: its time alone, and as many times that with the other library in the process."""

    work: str
    threads: int
    alone: float
    """Microseconds."""
    imported: list[float]
    """The other is imported and was used; of each order."""
    alternately: list[float]
    """Each call follows one of the other's; of each order."""


class Child:
    """A process that times calls when it is asked to."""

    def __init__(self, order: str, threads: int) -> None:
        program = Path(__file__).with_name("beside_torch_child.py")
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(program), order, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("a process without pipes")
        self._requests, self._answers = self._process.stdin, self._process.stdout
        self._answer()

    def _answer(self) -> str:
        line = self._answers.readline()
        if not line:
            raise RuntimeError(f"a process ended with {self._process.wait()}")
        return line

    def time(self, works: Sequence[str], calls: int) -> dict[str, float]:
        """The time that a quarter of the calls stay below: others take processors now and then."""
        self._requests.write(f"{','.join(works)} {calls}\n")
        self._requests.flush()
        times: dict[str, list[float]] = json.loads(self._answer())
        return {work: statistics.quantiles(taken, n=4)[0] for work, taken in times.items()}

    def close(self) -> None:
        self._process.communicate()


def measure(threads: int, turns: int, calls: int) -> list[Row]:
    children = {order: Child(order, threads) for order in ("torch", "pagedkv", *ORDERS)}
    alone: dict[str, list[float]] = {work: [] for work in WORKS}
    imported: dict[tuple[str, str], list[float]] = {}
    alternately: dict[tuple[str, str], list[float]] = {}
    for _ in range(turns):
        for work, library in WORKS.items():
            before = children[library].time((work, "read"), calls)[work]
            for order in ORDERS:
                both = children[order]
                time = both.time((work, "read"), calls)[work]
                imported.setdefault((work, order), []).append(time / before)
                other = "attention" if library == "torch" else "matmul"
                time = both.time((work, other), calls)[work]
                alternately.setdefault((work, order), []).append(time / before)
            alone[work].append(before)
    for child in children.values():
        child.close()
    return [
        Row(
            work,
            threads,
            statistics.median(alone[work]),
            [statistics.median(imported[work, order]) for order in ORDERS],
            [statistics.median(alternately[work, order]) for order in ORDERS],
        )
        for work in WORKS
    ]


def table(rows: Sequence[Row]) -> str:
    lines = [
        "| what | threads | alone | other imported | in turns with it |",
        "|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        imported, alternately = (
            " / ".join(f"{ratio:.2f}" for ratio in ratios)
            for ratios in (row.imported, row.alternately)
        )
        lines.append(
            f"| {TITLES[row.work]} | {row.threads} | {row.alone:,.0f} µs "
            f"| {imported} | {alternately} |"
        )
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m pagedkv.bench.beside_torch", description=__doc__)
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--calls", type=int, default=20, help="in a turn")
    arguments = parser.parse_args(argv)
    rows = []
    with Others() as others:
        for threads in arguments.threads:
            rows += measure(threads, arguments.turns, arguments.calls)
    print(table(rows))
    print(f"\nother processes: {others.share:.0%} of the machine", file=sys.stderr)


if __name__ == "__main__":
    main()
