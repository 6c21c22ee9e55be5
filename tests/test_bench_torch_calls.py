"""`python -m pagedkv.bench torch-calls` has a line for each way to call, of what it has checked."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from pagedkv.bench.__main__ import main


def test_every_way_to_call_has_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed")
    file = tmp_path / "calls.json"
    assert main(["torch-calls", "--quick", "--json", str(file)]) == 0
    figures: list[dict[str, Any]] = json.loads(file.read_text())
    assert len(figures) == 10
    printed = capsys.readouterr().out
    for operation in ("write_kv", "paged_attention"):
        for way in ("pagedkv.ops", "torch.ops.pagedkv", "pagedkv.integrations.torch"):
            assert f"| {way}.{operation}" in printed
    for figure in figures:
        assert f"| {figure['title']} |" in printed
        assert 0 < figure["ns"] < 1e9
        assert figure["share"] == pytest.approx(figure["floor_ns"] / figure["ns"])


def test_a_wrong_result_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    from pagedkv import ops

    monkeypatch.setattr(ops, "paged_attention", lambda q, *_, **__: q * 0)
    with pytest.raises(AssertionError, match="the result is wrong"):
        main(["torch-calls", "--quick"])
