"""`python -m pagedkv.bench attention` prints tables of attention beside other implementations, and
does without those that are not installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pagedkv
from pagedkv.bench.__main__ import main
from pagedkv.bench.attention import comparison, rivals
from pagedkv.bench.attention.case import Case
from pagedkv.bench.attention.comparison import Row
from pagedkv.bench.attention.entrant import Entrant
from pagedkv.bench.attention.ours import Ours
from pagedkv.bench.attention.points import POINTS, Point, quick
from pagedkv.bench.attention.table import tables

STANDARD = POINTS[0]
PREFILL = next(point for point in POINTS if point.is_prefill)
# What each of them imports first.
PACKAGES = {
    "OpenVINO": "openvino",
    "ONNX Runtime": "onnxruntime",
    "torch SDPA": "torch",
    "torch flex": "torch",
    "llama.cpp": "llama_cpp",
}


def row(point: Point, ms: float = 10, **rivals_ms: float) -> Row:
    names = {name.replace("_", " "): time for name, time in rivals_ms.items()}
    return Row(point, 1, ms, names, frozenset(), None, None, others=0)


def is_installed(rival: str) -> bool:
    try:
        rivals.version(rival)
    except ImportError:
        return False
    return True


def test_the_quick_tables_have_a_line_for_every_point_and_number_of_threads() -> None:
    command = ["attention", "--quick", "--threads", "1,2", "--rivals", ""]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "pagedkv.bench", *command],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for point in POINTS:
        for threads in (1, 2):
            assert f"| {quick(point).title} | {threads} | " in done.stdout
    assert "Decode, milliseconds" in done.stdout
    assert "Prefill, milliseconds" in done.stdout


def test_a_rival_that_is_not_installed_is_named_and_the_others_are_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in ("openvino", "openvino.op"):
        monkeypatch.setitem(sys.modules, module, None)
    words = ["attention", "--quick", "--filter", "float16, 2", "--threads", "1"]
    assert main([*words, "--rivals", "OpenVINO"]) == 0
    out = capsys.readouterr().out
    assert "| float16, 2 x 128" in out
    assert "- OpenVINO: not installed (import of openvino" in out


@pytest.mark.parametrize("rival", rivals.RIVALS)
def test_a_rival_that_is_installed_gives_the_right_result(rival: str) -> None:
    if not is_installed(rival):
        pytest.skip(f"{PACKAGES[rival]} is not installed")
    point = quick(STANDARD)
    if rival == "torch flex":
        pytest.skip("compiles for minutes")
    case = Case(point)
    entrant = rivals.enter(rival, case)
    for threads in (1, 2):
        entrant.use_threads(threads)
        entrant.run()
        case.check(rival, entrant.result())


def test_json_has_what_the_tables_have(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    words = ["attention", "--quick", "--rivals", "", "--threads", "1", "--json", str(file)]
    assert main([*words, "--filter", "int8, 1 x 128"]) == 0
    (figures,) = json.loads(file.read_text())
    assert figures["cache"] == "int8"
    assert figures["threads"] == 1
    assert figures["ms"] > 0
    assert figures["our_bfloat16_ms"] > 0
    assert figures["rivals_ms"] == {}
    assert figures["ratio"] is None


def test_the_number_of_threads_is_afterwards_what_it_was() -> None:
    before = pagedkv.get_num_threads()
    words = ["attention", "--quick", "--rivals", "", "--filter", "float16", "--threads"]
    assert main([*words, f"{before + 1}"]) == 0
    assert pagedkv.get_num_threads() == before


@pytest.mark.parametrize("point", POINTS, ids=lambda point: point.title)
def test_our_result_is_checked_against_dense_attention_for_every_point(point: Point) -> None:
    case = Case(quick(point))
    ours = Ours(case)
    ours.run()
    result = ours.result()
    case.check("ours", result)
    for wrong in (np.zeros_like(result), result * np.float32(1.5), np.full_like(result, np.nan)):
        with pytest.raises(AssertionError, match="ours: the result is wrong"):
            case.check("ours", wrong)


def test_a_rival_whose_result_is_wrong_is_left_out_and_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Wrong(Ours):
        def result(self) -> Any:
            return -super().result()

    def enter(rival: str, case: Case) -> Entrant:
        return Wrong(case) if rival == "OpenVINO" else Ours(case)

    monkeypatch.setattr(comparison, "enter", enter)
    said: list[str] = []
    effort = comparison.Effort(turns=3, tries=1)
    point = quick(STANDARD)
    (made,) = comparison.compare(point, ["OpenVINO", "llama.cpp"], [1], effort, said.append)
    assert list(made.rivals) == ["llama.cpp"]
    assert len(said) == 1
    assert said[0].startswith(f"OpenVINO, {point.title}, threads: 1: ")
    assert "the result is wrong" in said[0]


def test_a_least_and_a_goal_are_held_against_the_fastest_rival() -> None:
    assert not row(STANDARD, OpenVINO=13, torch_SDPA=30).reaches_least
    between = row(STANDARD, OpenVINO=15, torch_SDPA=30)
    assert between.fastest == "OpenVINO"
    assert between.ratio == 1.5
    assert between.reaches_least
    assert not between.reaches_goal
    assert row(STANDARD, OpenVINO=20, torch_SDPA=30).reaches_goal
    assert row(STANDARD).reaches_least, "nothing to compare with"


def test_prefill_is_held_against_paged_and_compiled_attention_and_the_matrix_products() -> None:
    made = row(PREFILL, torch_SDPA=5, OpenVINO=14, torch_flex=15)
    assert made.fastest == "OpenVINO"
    assert made.reaches_least
    slow = Row(PREFILL, 1, 10, {"OpenVINO": 14}, frozenset(), None, made.speed * 2, others=0)
    assert slow.peak_share == 0.5
    assert not slow.reaches_least


def test_the_tables_say_what_is_reached_and_leave_out_who_has_no_time() -> None:
    rows = [
        row(STANDARD, OpenVINO=13),
        row(STANDARD, OpenVINO=15),
        row(STANDARD, OpenVINO=20),
        row(STANDARD),
        row(Point("bfloat16", num_seqs=1), OpenVINO=11),
    ]
    lines = tables(rows, judged=True).splitlines()[2:]
    assert "OpenVINO" in lines[0]
    assert "llama.cpp" not in lines[0]
    ends = [line.split(" | ")[-1] for line in lines[2:]]
    assert ends == ["**no** |", "least |", "goal |", "- |", "yes |"]
    assert all(line.endswith("| - |") for line in tables(rows, judged=False).splitlines()[4:])


def test_operations_and_bytes_of_a_point() -> None:
    assert STANDARD.cache_bytes == 2 * 8 * 4096 * 8 * 128 * 4
    assert Point("int8").cache_bytes == 2 * 8 * 4096 * 8 * (128 + 4)
    assert Point("int4", scales="tensor").cache_bytes == 2 * 8 * 4096 * 8 * 64
    tiny = Point(
        "float32", num_seqs=1, num_tokens=5, num_new=2, num_q_heads=1, num_kv_heads=1, head_dim=8
    )
    assert tiny.flop == 4 * 8 * (4 + 5), "the first new token sees four, the second five"


def test_unknown_rivals_and_numbers_of_threads_are_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for words in (["--rivals", "nobody"], ["--threads", "0"], ["--threads", "x"]):
        with pytest.raises(SystemExit) as exit_status:
            main(["attention", *words])
        assert exit_status.value.code == 2
    assert "'nobody' is none of OpenVINO, " in capsys.readouterr().err
