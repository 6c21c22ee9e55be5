"""`python -m pagedkv.bench transformers` compares ways that say the same; how fast they are is in
docs/performance.md."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pagedkv.bench.transformers import DYNAMIC, OURS, Row, measure, ratios


def test_the_quick_table_has_a_line_for_every_way(tmp_path: Path) -> None:
    pytest.importorskip("support.hf_models")
    file = tmp_path / "times.json"
    words = ["transformers", "--quick", "--turns", "1", "--json", str(file)]
    done = subprocess.run(
        [sys.executable, "-m", "pagedkv.bench", *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(file.read_text())
    assert len(rows) == 5
    for row in rows:
        assert f"| {row['what']} | " in done.stdout
        assert len(row["times"]) == 1


def test_ways_that_say_something_else_are_not_timed() -> None:
    ways = {OURS: lambda: [[1, 2, 4]], DYNAMIC: lambda: [[1, 2, 3]]}
    with pytest.raises(AssertionError, match="other tokens than with DynamicCache"):
        measure(ways, turns=1)


def test_a_model_that_says_nothing_proves_nothing() -> None:
    ways = {OURS: lambda: [[1, 1, 1]], DYNAMIC: lambda: [[1, 1, 1]]}
    with pytest.raises(AssertionError, match="says nothing"):
        measure(ways, turns=1)


def test_a_ratio_is_the_median_of_the_turns() -> None:
    rows = [Row(OURS, [1.0, 2.0, 4.0]), Row(DYNAMIC, [3.0, 4.0, 4.0])]
    assert ratios(rows) == {OURS: 1.0, DYNAMIC: 2.0}
    assert rows[1].seconds == 4.0
