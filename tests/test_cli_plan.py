"""`pagedkv plan`: tables, JSON, pictures, and how errors end."""

from __future__ import annotations

import io
import json
import struct
import sys
from pathlib import Path

import pytest
from support.markdown import ROOT, blocks
from support.models import CONFIGS, SMALL, published

from pagedkv.cli import main
from pagedkv.cli.output import printable
from pagedkv.plan import PlanError, plan
from pagedkv.plan.report import as_dict, as_text

LLAMA = str(CONFIGS / "llama-3.1-8b.json")
QWEN_NEXT = str(CONFIGS / "qwen3-next-80b-a3b.json")
GEMMA = str(CONFIGS / "gemma-3-27b.json")
AZURE = str(Path(__file__).parent / "data" / "azure_sample.csv")


def printed(capsys, *arguments):
    assert main(["plan", *arguments]) == 0
    return capsys.readouterr().out


def figures(capsys, *arguments):
    return json.loads(printed(capsys, *arguments, "--json", "-"))


def refused(capsys, *arguments):
    """The one line of an error, whichever of argparse and ourselves finds it."""
    try:
        code = main(["plan", *arguments])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def test_the_guide_shows_the_table_that_is_printed(capsys):
    (table,) = blocks(ROOT / "docs" / "guides" / "plan.md", "text")
    assert printed(capsys, LLAMA, "--memory", "40GiB") == table.text


def test_the_table_of_a_plain_model(capsys):
    assert printed(capsys, LLAMA, "--memory", "40GiB") == (
        "model       llama, 32 layers\n"
        "cache       bfloat16: 131,072 bytes a token\n"
        "memory      40 GiB\n"
        "pool        20,480 blocks of 2 MiB: 40 GiB\n"
        "alone       memory for one sequence of 327,680 tokens at most; the model takes 131,072\n"
        "last block  960 KiB of a sequence behind its last token, on average\n"
        "\n"
        "layers keep              layers  groups  block  bytes a token\n"
        "full, 8 KV heads of 128      32       1     16        131,072\n"
        "\n"
        "sequences of  blocks each  bytes each  at once   tokens  waste\n"
        "2k                    128     256 MiB      160  327,680  0.0 %\n"
        "8k                    512       1 GiB       40  327,680  0.0 %\n"
        "32k                 2,048       4 GiB       10  327,680  0.0 %\n"
    )


def test_the_table_of_a_hybrid_model_has_slots_and_both_divisions(capsys):
    text = printed(capsys, QWEN_NEXT, "--memory", "40GiB", "--lengths", "2k,32k")
    assert "42,695 blocks of 384 KiB and 331 state slots of 75.38 MiB" in text
    assert "gated delta net state 32 x 128 x 128 and 8,192 x 3, float32" in text
    assert "in this pool" in text
    assert "at once: with memory divided into blocks and slots for this length" in text


def test_the_table_names_what_was_assumed_ranks_and_windows(capsys):
    name = str(CONFIGS / "gemma-3-4b.json")
    text = printed(capsys, name, "--memory", "8GiB", "--tensor-parallel", "2", "--dtype", "int8")
    assert "34 layers, one of 2 ranks" in text
    assert "assumed     head_dim is not in the file: 256, the default of the class" in text
    assert "int8 with a scale a token and head" in text
    assert "outside of windows" in text
    assert "window 1,024, 2 KV heads of 256" in text


def test_one_of_a_kind_is_not_many(capsys, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**SMALL["llama"], "num_hidden_layers": 1}))
    text = printed(capsys, str(path), "--memory", "2KiB", "--lengths", "8")
    assert text.startswith("model       llama, 1 layer\n")
    assert "pool        1 block of 2 KiB: 2 KiB\n" in text


def test_lengths_that_the_model_does_not_take_are_marked(capsys):
    name = str(CONFIGS / "llama-2-7b.json")
    text = printed(capsys, name, "--memory", "10GiB", "--lengths", "4k,8k")
    assert "memory for one sequence of 20,480 tokens at most; the model takes 4,096\n" in text
    rows = [line.split("  ")[0] for line in text.splitlines()]
    assert "4k" in rows
    assert "8k *" in rows
    assert text.endswith("\n*: more tokens than the model takes, 4,096\n")
    short = printed(capsys, name, "--memory", "1GiB", "--lengths", "2k")
    assert "of 2,048 tokens at most\n" in short
    assert "*" not in short


def test_a_model_of_states_alone_has_no_bytes_a_token(capsys):
    name = str(CONFIGS / "falcon-mamba-7b.json")
    assert "cache       no keys or values\n" in printed(capsys, name, "--memory", "1GiB")


def test_a_model_of_states_alone_is_divided_by_its_states():
    """The configuration's `num_heads` are those of the state, not of attention."""
    codestral = published("mamba-codestral-7b-v0.1")
    assert plan(codestral, "1GiB").model.num_attention_heads == 0
    with pytest.raises(PlanError, match="128 heads of Mamba-2 state over tensor_parallel=3"):
        plan(codestral, "1GiB", tensor_parallel=3)


@pytest.mark.parametrize("name", ["\x1b]0;gotcha\x07\x1b[2J", "two\nlines"])
def test_names_in_files_do_not_reach_the_terminal_as_commands(capsys, tmp_path, name):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**SMALL["llama"], "model_type": name}))
    text = printed(capsys, str(path), "--memory", "1MiB")
    assert text.startswith(f"model       {name!r}, 4 layers\n")
    assert f"assumed     model_type {name!r} is not known" in text
    assert text.replace("\n", "").isprintable()


def test_a_name_that_stdout_cannot_show_has_question_marks(monkeypatch, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**SMALL["llama"], "model_type": "ll\u00e4ma"}))
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stdout)
    assert main(["plan", str(path), "--memory", "1MiB"]) == 0
    assert stdout.buffer.getvalue().startswith(b"model       ll?ma, 4 layers")


def test_text_is_made_fit_for_the_stream_that_shows_it():
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    assert printable("a\tb\u00a0c\n\x1b[0m", ascii_only) == "a b c\n?[0m"
    assert printable("\u00e4\x07", io.StringIO()) == "\u00e4\ufffd"


def test_json_has_what_the_plan_has(capsys, tmp_path):
    arguments = (GEMMA, "--memory", "40GiB", "--lengths", "8k,100000")
    found = figures(capsys, *arguments)
    assert found == as_dict(plan(GEMMA, "40GiB", lengths=[8192, 100_000]))
    assert found["bytes_per_token"] == 507_904
    assert found["bytes_per_token_kept"] == 81_920
    assert len(found["groups"]) == 13
    assert sum(len(group["layers"]) for group in found["groups"]) == 62
    assert found["allocated"] == found["num_blocks"] * found["block_bytes"]
    assert [row["length"] for row in found["lengths"]] == [8192, 100_000]
    path = tmp_path / "plan.json"
    text = printed(capsys, *arguments, "--json", str(path))
    assert text.startswith("model")
    assert json.loads(path.read_text()) == found


def test_the_configuration_of_a_folder_is_not_written_over(capsys, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(SMALL["llama"]))
    says = refused(capsys, str(tmp_path), "--memory", "1MiB", "--json", str(path))
    assert "--json names the file that is read" in says
    assert json.loads(path.read_text()) == SMALL["llama"]


def test_waste_is_what_is_held_and_not_read(capsys):
    row = figures(capsys, LLAMA, "--memory", "40GiB", "--lengths", "17")["lengths"][0]
    assert (row["blocks"], row["bytes"], row["useful_bytes"]) == (2, 2 * 2**21, 17 * 131_072)
    assert row["waste"] == pytest.approx(15 / 32)
    assert row["sequences"] == 10_240


def test_the_batch_of_a_trace_is_told(capsys):
    text = printed(capsys, LLAMA, "--memory", "1GiB", "--trace", AZURE, "--step-ms", "50")
    assert f"trace       {AZURE}: 12 requests, 0 too long; nothing shared" in text
    assert "running at once  mean  most  preempted  steps" in text
    found = figures(capsys, LLAMA, "--memory", "1GiB", "--trace", AZURE, "--limit", "3")["trace"]
    assert found["requests"] == 3
    assert found["packed"]["peak_running"] >= found["as_it_came"]["peak_running"] >= 1
    assert figures(capsys, LLAMA, "--memory", "1GiB")["trace"] is None


def test_memory_is_what_weights_leave_of_a_device(capsys):
    found = figures(capsys, LLAMA, "--gpu-memory", "80GiB", "--weights", "16GiB")
    assert found["memory"] == int(80 * 2**30 * 0.9) - 16 * 2**30
    found = figures(
        capsys, LLAMA, "--gpu-memory", "80GiB", "--weights", "16GiB", "--utilization", "50%"
    )
    assert (found["memory"], found["utilization"]) == (24 * 2**30, 0.5)
    text = printed(capsys, LLAMA, "--gpu-memory", "80GiB", "--weights", "16GiB")
    assert "56 GiB = 90 % of 80 GiB - 16 GiB of weights" in text


def test_weights_are_counted_where_they_lie_beside_the_configuration(capsys, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(published("llama-3.1-8b")))
    arguments = (str(tmp_path), "--gpu-memory", "8GiB", "--tensor-parallel", "2")
    assert "no *.safetensors beside" in refused(capsys, *arguments)
    for part in ("a", "b"):
        (tmp_path / f"{part}.safetensors").write_bytes(b"x" * 1000)
    assert figures(capsys, *arguments)["weights"] == 1000
    index = {"metadata": {"total_size": 5001}, "weight_map": {}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert figures(capsys, *arguments)["weights"] == 2501
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    assert figures(capsys, *arguments)["weights"] == 1000
    # The model's own files go before those of another layout.
    (tmp_path / "model-00001-of-00001.safetensors").write_bytes(b"x" * 1600)
    assert figures(capsys, *arguments)["weights"] == 800


def test_options_reach_the_plan(capsys):
    found = figures(
        capsys, QWEN_NEXT, "--memory", "1GB", "--dtype", "float8_e4m3", "--scales", "block",
        "--state-dtype", "bfloat16", "--block-size", "32", "--tensor-parallel", "2",
        "--prefill-chunk", "64", "--max-seqs", "7", "--lengths", "1k",
    )  # fmt: skip
    same = plan(
        QWEN_NEXT, 10**9, kv_dtype="float8_e4m3", scales="block", state_dtype="bfloat16",
        block_size=32, tensor_parallel=2, prefill_chunk=64, max_seqs=7, lengths=[1024],
    )  # fmt: skip
    assert found == as_dict(same)
    assert found["state_slots"] == 7
    assert as_text(same).startswith("model       qwen3_next, 48 layers, one of 2 ranks")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "the following arguments are required: CONFIG"),
        ([LLAMA], "one of the arguments --memory --gpu-memory is required"),
        ([LLAMA, "--memory", "1GiB", "--gpu-memory", "1GiB"], "not allowed with"),
        ([LLAMA, "--memory", "much"], "expected a size such as 8GiB"),
        ([LLAMA, "--memory", "1GiB", "--weights", "1GiB"], "expected memory alone"),
        ([LLAMA, "--memory", "1GiB", "--lengths", "2k,x"], "'x'; expected tokens such as 2k"),
        ([LLAMA, "--memory", "1GiB", "--lengths", "0"], "expected tokens such as 2k or 1000"),
        ([LLAMA, "--memory", "1GiB", "--dtype", "int3"], "invalid choice: 'int3'"),
        ([LLAMA, "--memory", "1GiB", "--block-size", "0"], "expected an integer, 1 or more"),
        ([LLAMA, "--gpu-memory", "1GiB", "--utilization", "2"], "expected a share such as 0.9"),
        ([LLAMA, "--memory", "1GiB", "--utilization", "0.5"], "memory and utilization; expected"),
        ([LLAMA, "--memory", "1GiB", "--limit", "3"], "--limit without --trace; expected both"),
        ([LLAMA, "--memory", "1GiB", "--step-ms", "9"], "step_ms without a trace; expected both"),
        ([LLAMA, "--memory", "1GiB", "--max-seqs", "9"], "max_seqs for a model without recurrent"),
        ([LLAMA, "--memory", "1MiB"], "one sequence of one token takes 2 MiB"),
        (["none.json", "--memory", "1GiB"], "'none.json' cannot be read"),
        ([LLAMA, "--memory", "1GiB", "--trace", "none.csv"], "cannot read 'none.csv'"),
        ([LLAMA, "--memory", "1GiB", "--json", LLAMA], "--json names the file that is read"),
        ([LLAMA, "--memory", "1GiB", "--plot", "no/x.png"], "cannot write 'no/x.png'"),
    ],
)
def test_a_bad_command_line_is_exit_code_2_and_one_line(arguments, says, capsys):
    message = refused(capsys, *arguments)
    assert says in message
    if not message.startswith("usage"):
        assert message.startswith("pagedkv: [")
        assert message.count("\n") == 1


def test_a_picture_of_an_unknown_kind_is_refused_and_leaves_no_file(capsys, tmp_path):
    path = tmp_path / "plan.jpg"
    message = refused(capsys, LLAMA, "--memory", "1GiB", "--plot", str(path))
    assert "expected one that ends with .pdf, .png, .svg" in message
    assert not path.exists()


def test_a_picture_without_matplotlib_is_one_clear_line(capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    path = tmp_path / "plan.png"
    message = refused(capsys, LLAMA, "--memory", "1GiB", "--plot", str(path))
    assert "pip install 'pagedkv[plot]'" in message
    assert not path.exists()


@pytest.mark.filterwarnings("default")
def test_a_picture_is_written(capsys, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    path = tmp_path / "plan.png"
    printed(capsys, GEMMA, "--memory", "40GiB", "--plot", str(path))
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", data[16:24])
    assert (width, height) == (1500, 660)


def test_small_models_of_every_kind_have_a_table(capsys, tmp_path):
    for name, fields in SMALL.items():
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(fields))
        text = printed(capsys, str(path), "--memory", "16MiB", "--lengths", "40")
        assert (
            f"model       {fields['model_type']}, {len(plan(fields, 2**24).model.layers)} " in text
        )
