"""`python -m pagedkv.bench` prints the table of docs/performance.md; what is fast is for
tests/benchmarks to tell."""

from __future__ import annotations

import importlib.util
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
from pagedkv.bench.manager import EVICTIONS
from pagedkv.bench.memory import Memory, memory_of, memory_title
from pagedkv.bench.rivals import RIVALS, Rival

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
    for eviction in EVICTIONS:
        assert f"| {memory_title(eviction)} | " in done.stdout


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


def test_a_figure_with_two_targets_names_and_wants_both() -> None:
    figure = Figure("a", "b", least_share=0.5, most_ns=10)
    assert figure.target == "≥ 50% of the floor's speed, ≤ 10 ns"
    assert Measured(ns=10, floor_ns=5, others=0).reaches(figure)
    assert not Measured(ns=11, floor_ns=11, others=0).reaches(figure)
    assert not Measured(ns=9, floor_ns=4, others=0).reaches(figure)


def test_memory_a_block_is_told_of_every_policy() -> None:
    for eviction in EVICTIONS:
        memory = memory_of(eviction, 12_800)
        assert memory.books is not None
        assert 64 < memory.books < 256, "16 tokens of 4 bytes, and what names and orders them"
        if sys.platform == "linux":
            assert memory.growth is not None
            assert memory.growth == pytest.approx(memory.books, rel=0.3)


def test_a_memory_target_is_missed_by_the_books_or_by_the_process() -> None:
    assert Memory("a", books=128, growth=128.5, most=128).reached
    assert Memory("a", books=100, growth=None, most=128).reached
    assert Memory("a", books=200, growth=200).reached
    assert not Memory("a", books=128.1, growth=None, most=128).reached
    assert not Memory("a", books=100, growth=140, most=128).reached


@pytest.mark.parametrize("name", RIVALS)
def test_a_rival_is_timed_where_it_is_installed(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if importlib.util.find_spec(name) is None:
        with pytest.raises(ImportError):
            main(["--quick", "--rival", name])
        return
    assert main(["--quick", "--rival", name, "--filter", "cold"]) == 0
    assert "| admit 1,024 tokens, cold | " in capsys.readouterr().out


def test_a_rival_has_a_line_with_times_as_fast(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    def ours() -> None:
        sum(range(100))

    def theirs() -> None:
        sum(range(100_000))

    def contest(_: Scale) -> Contest:
        return Contest(1, theirs, ours, lambda: None)

    rival = Rival("Other 1.2", (Bench(Figure("sums", "larger sums", least_share=2), contest),))
    monkeypatch.setattr("pagedkv.bench.__main__.load_rival", lambda _: rival)
    file = tmp_path / "figures.json"
    assert main(["--rival", "vllm", "--turns", "3", "--check", "--json", str(file)]) == 0
    out = capsys.readouterr().out
    assert "Beside Other 1.2" in out
    assert re.search(r"^\| sums \| .* \| larger sums \| .* \| ≥ 2 \| yes \|$", out, re.MULTILINE)
    assert json.loads(file.read_text())[0]["language"] == "Other 1.2"


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
