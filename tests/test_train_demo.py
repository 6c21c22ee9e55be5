"""The script that made the demo's weights: its text, its model, and what it writes."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from support.llama_logits import dense_logits

from pagedkv.models import DOCSTRINGS, Llama, SafetensorsFile

torch = pytest.importorskip("torch", reason="torch is missing")
pytest.importorskip("safetensors", reason="safetensors is missing")

SCRIPT = Path(__file__).parent.parent / "tools" / "train_demo.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_demo", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("docstring", "summary"),
    [
        ("Return the number\n    of items.\n\nMore of it.", ""),
        ("Return the number\nof   items.\n\nMore of it.", "Return the number of items."),
        ("Too short.", ""),
        ("x" * 241, ""),
        ("Return the é of items.", ""),
        (">>> print(sum([1, 2, 3]))", ""),
        ("name -- what it is called by", "name -- what it is called by"),
        ("- a list, with items in it", ""),
    ],
)
def test_the_text_is_the_first_paragraph_where_that_is_prose(
    script: ModuleType, docstring: str, summary: str
) -> None:
    assert script.summary(docstring) == summary


def test_the_text_is_that_of_every_docstring_once_in_the_files_order(
    script: ModuleType, tmp_path: Path
) -> None:
    for name, source in {
        "b.py": 'class B:\n    """What b has to say."""\n    async def f():\n        """Short."""',
        "a.py": '"""The module that is first."""\ndef f():\n    """What f of a returns."""',
        "c/d.py": 'def g():\n    """What b has to say."""\n    return """No docstring at all."""',
        "c/broken.py": 'def (:\n    """Never read as it is broken."""',
        "test/a.py": '"""The docstring of a test."""',
        "e.txt": '"""No module, but a text."""',
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(source)
    assert script.corpus(tmp_path) == [
        "The module that is first.",
        "What f of a returns.",
        "What b has to say.",
    ]


def test_a_row_of_a_batch_is_whole_texts_one_after_the_other(script: ModuleType) -> None:
    data = script.Data([f"Return number {n} of the texts." for n in range(30)])
    batch = data.batch(np.random.default_rng(0), 3)
    assert batch.shape == (3, script.CONTEXT + 1)
    for row in batch.tolist():
        assert row[0] == script.BOS
        text = bytes(token for token in row if token < 256).decode()
        assert text.startswith("Return number ")
        assert row.count(script.BOS) >= row.count(script.EOS) >= 7


def test_orthogonal_matrices_have_singular_values_near_1(script: ModuleType) -> None:
    torch.manual_seed(0)
    for shape in ((2, 16, 40), (1, 40, 16)):
        values = torch.linalg.svdvals(script.orthogonal(torch.randn(shape)))
        assert values.min() > 0.5
        assert values.max() < 1.3


def test_a_run_learns_goes_on_where_it_was_cut_off_and_writes_the_same_model(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = [f"Return number {n} of the texts that are here." for n in range(80)]
    monkeypatch.setattr(script, "corpus", lambda *_: docs)
    monkeypatch.setattr(script, "held_out_loss", lambda *_: 1.25)
    threads = torch.get_num_threads()

    def run(work: str, steps: int) -> None:
        options = ["--rows", "2", "--steps", str(steps), "--out", str(tmp_path / work / "out")]
        monkeypatch.setattr(sys, "argv", ["", "--work", str(tmp_path / work), *options])
        script.main()

    # The learning rate depends on the number of steps, which is then the same for both halves.
    monkeypatch.setattr(script, "rate", lambda *_: 1.0)
    try:
        run("whole", 6)
        run("cut", 3)
        run("cut", 6)
    finally:
        torch.set_num_threads(threads)
    one, two = (
        SafetensorsFile(tmp_path / work / "out" / "model.safetensors") for work in ("whole", "cut")
    )
    assert one.metadata == two.metadata
    assert one.metadata["held_out_nats_per_byte"] == "1.250"
    for name in one.tensors:
        assert np.array_equal(one[name], two[name]), name

    state = torch.load(tmp_path / "whole" / "state.pt", weights_only=True)
    model = script.Llama()
    start = {name: weight.clone() for name, weight in model.state_dict().items()}
    assert not any(torch.equal(weight, state["model"][name]) for name, weight in start.items())
    rounded = {name: weight.bfloat16().float() for name, weight in state["model"].items()}
    model.load_state_dict(rounded)
    tokens = script.Data(docs).batch(np.random.default_rng(1), 1)
    with torch.no_grad():
        loss = model(tokens).item()
    assert loss < np.log(258)
    ours = dense_logits(Llama.load(tmp_path / "whole" / "out"), tokens[0, :-1].tolist(), chunk=64)
    rows = torch.tensor(ours)
    expected = torch.nn.functional.cross_entropy(rows, tokens[0, 1:]).item()
    assert loss == pytest.approx(expected, abs=1e-4)


def test_what_it_writes_beside_the_weights_is_what_is_shipped(
    script: ModuleType, tmp_path: Path
) -> None:
    script.export(script.Llama(), {}, tmp_path)
    for name in ("config.json", "tokenizer.json"):
        assert (tmp_path / name).read_bytes() == (DOCSTRINGS / name).read_bytes()
    shipped = SafetensorsFile(DOCSTRINGS / "model.safetensors")
    written = SafetensorsFile(tmp_path / "model.safetensors")
    assert {name: info.shape for name, info in shipped.tensors.items()} == {
        name: info.shape for name, info in written.tensors.items()
    }
