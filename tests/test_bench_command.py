"""`python -m pagedkv.bench` prints the table of docs/performance.md; what is fast is for
tests/benchmarks to tell."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from pagedkv.bench import BENCHES, Bench, Contest, Figure, Measured, Scale, measure
from pagedkv.bench.__main__ import main
from pagedkv.bench.cpp import CPP, run_cpp
from pagedkv.bench.figure import duration, require

ROOT = Path(__file__).parent.parent


def test_the_quick_table_has_a_line_for_every_figure() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "pagedkv.bench", "--quick"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for bench in BENCHES:
        assert f"| {bench.figure.title} | " in done.stdout
        assert f" | {bench.figure.floor} | " in done.stdout


def test_json_has_what_the_table_has(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    assert main(["--quick", "--filter", "append_tensor", "--json", str(file)]) == 0
    figures = json.loads(file.read_text())
    assert [figure["title"] for figure in figures] == [
        "PagedKvCache.append_tensor",
        "PagedKvCache.append_tensor, shuffled blocks",
    ]
    for figure in figures:
        assert figure["ns"] > 0
        assert figure["share"] == pytest.approx(figure["floor_ns"] / figure["ns"])


def test_a_wrong_result_is_not_timed() -> None:
    runs = []

    def ours() -> None:
        runs.append("ours")

    def check() -> None:
        require(False, "the result is wrong")

    bench = Bench(Figure("wrong", "nothing"), lambda _: Contest(1, lambda: None, ours, check))
    with pytest.raises(AssertionError, match="the result is wrong"):
        measure(bench, Scale(tokens=16, dim=4, calls=10, slots=64, blocks=64), turns=3)
    assert runs == ["ours"], "once to check it, not once to time it"


def test_times_are_of_one_operation() -> None:
    def work() -> None:
        sum(range(100_000))

    bench = Bench(
        Figure("sums", "the same"),
        lambda _: Contest(1000, work, work, work),
    )
    measured = measure(bench, Scale(tokens=16, dim=4, calls=10, slots=64, blocks=64), turns=9)
    assert 0 < measured.ns < 1e6
    assert 0.2 < measured.share < 5
    assert 0 <= measured.others <= 1


def test_a_target_is_missed_by_a_share_too_small_or_a_time_too_long() -> None:
    measured = Measured(ns=10, floor_ns=5, others=0)
    assert measured.share == 0.5
    assert measured.reaches(Figure("a", "b"))
    assert measured.reaches(Figure("a", "b", least_share=0.5))
    assert not measured.reaches(Figure("a", "b", least_share=0.51))
    assert measured.reaches(Figure("a", "b", most_ns=10))
    assert not measured.reaches(Figure("a", "b", most_ns=9.9))


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0.5, "0.5 ns"),
        (1.8267, "1.83 ns"),
        (186, "186 ns"),
        (999.6, "1 µs"),
        (3345.6, "3.35 µs"),
        (10_400_000, "10.4 ms"),
        (2e9, "2 s"),
    ],
)
def test_durations_have_three_digits_and_a_unit(ns: float, text: str) -> None:
    assert duration(ns) == text


def test_every_cpp_benchmark_stands_for_a_figure() -> None:
    names: list[str] = []
    for source in sorted((ROOT / "cpp" / "bench").glob("*.cpp")):
        names += re.findall(r'turns\("([^"]+)"', source.read_text(encoding="utf-8"))
    assert sorted(names) == sorted(CPP)


def test_a_failing_cpp_program_is_an_error() -> None:
    with pytest.raises(RuntimeError, match=r"\[bench.run_cpp\] .* ended with"):
        run_cpp(sys.executable)  # it does not know the option
