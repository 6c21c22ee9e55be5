"""`pagedkv demo`: what it prints, its options, its exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.llama_folders import SMALL, weights_of, write_folder

from pagedkv.cli import main
from pagedkv.cli.live import LiveTexts
from pagedkv.cli.output import printable
from pagedkv.demo.prompts import PROMPTS
from pagedkv.models import ByteTokenizer, PagedCache

FEW = ("--requests", "3", "--max-tokens", "6")


def figures(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["demo", *arguments, "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    report = json.loads(out)
    assert isinstance(report, dict)
    return report


def test_the_command_alone_decodes_32_prompts_and_is_identical() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "pagedkv", "demo"],
        capture_output=True,
        check=False,
        encoding="utf-8",
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert done.stdout.startswith("32 requests, docstrings, ")
    for prompt in PROMPTS:
        assert f"  {prompt}" in done.stdout
    last = done.stdout.splitlines()[-1]
    assert last.startswith("identical   all ")
    assert "\x1b" not in done.stdout


def test_the_figures_as_json_add_up(capsys: pytest.CaptureFixture[str]) -> None:
    report = figures(capsys, "--requests", "6", "--max-tokens", "20", "--batch-tokens", "100")
    requests = report["requests"]
    assert [each["prompt"] for each in requests] == list(PROMPTS[:6])
    assert all(1 <= len(each["tokens"]) <= 20 for each in requests)
    assert report["generated_tokens"] == sum(len(each["tokens"]) for each in requests)
    assert report["proof"]["holds"] is report["proof"]["identical"] is True
    assert report["proof"]["compared"] == report["generated_tokens"]
    assert report["hit_tokens"] == sum(each["cached_tokens"] for each in requests) > 0
    assert report["hit_rate"] == report["hit_tokens"] / report["queried_tokens"]
    assert report["tokens_per_second"] == report["generated_tokens"] / report["seconds"]
    config = report["config"]
    assert report["peak_bytes"] == report["peak_blocks"] * config["block_bytes"]
    assert report["peak_bytes"] < report["contiguous_bytes"] == report["proof"]["dense_bytes"]
    for each in requests:
        kept = [t for t in each["tokens"] if t < 256]
        assert each["text"] == bytes(kept).decode("utf-8", "replace")
        assert each["finish_reason"] in ("stop", "length")


def test_a_small_pool_preempts_and_gives_the_same_texts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    texts = ("--requests", "8", "--max-tokens", "24", "--block-size", "4")
    large = figures(capsys, *texts, "--blocks", "400")
    small = figures(capsys, *texts, "--blocks", "45")
    assert large["preemptions"] == 0 < small["preemptions"]
    assert small["proof"]["identical"]
    assert small["peak_blocks"] <= 45 < large["peak_blocks"]
    assert [r["tokens"] for r in small["requests"]] == [r["tokens"] for r in large["requests"]]


def test_draws_are_repeated_by_their_seed_whatever_the_batches(
    capsys: pytest.CaptureFixture[str],
) -> None:
    drawn = (*FEW, "--temperature", "0.9", "--top-k", "30")
    one = figures(capsys, *drawn)
    same = figures(capsys, *drawn, "--max-batch", "1", "--batch-tokens", "7")
    other = figures(capsys, *drawn, "--seed", "1")
    texts = [[r["tokens"] for r in report["requests"]] for report in (one, same, other)]
    assert texts[0] == texts[1] != texts[2]
    assert one["proof"]["identical"]
    assert same["peak_running"] == 1


def test_prompts_come_from_options_or_a_file(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    report = figures(capsys, "--prompt", "Set", "--prompt", "Get", "--max-tokens", "2")
    assert [r["prompt"] for r in report["requests"]] == ["Set", "Get"]
    file = tmp_path / "prompts.txt"
    file.write_text("Return é\n\nAdd\n", encoding="utf-8")
    report = figures(capsys, "--prompts", str(file), "--requests", "3", "--max-tokens", "2")
    assert [r["prompt"] for r in report["requests"]] == ["Return é", "Add", "Return é"]
    plain = figures(capsys, "--prompts", str(file), "--system", "", "--max-tokens", "2")
    assert plain["requests"][0]["prompt_tokens"] == 1 + len("Return é".encode())


def test_a_folder_of_hugging_face_is_run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = write_folder(tmp_path / "model", shards=2, dtype="BF16", attention_bias=True)
    report = figures(capsys, *FEW, "--model", str(folder))
    assert report["model"]["folder"] == str(folder)
    assert report["model"]["layers"] == 2
    assert report["proof"]["identical"]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8", "float8_e4m3"])
def test_a_cache_of_fewer_bits_tells_how_many_tokens_agree(
    capsys: pytest.CaptureFixture[str], dtype: str
) -> None:
    report = figures(capsys, *FEW, "--kv-dtype", dtype)
    assert report["config"]["kv_dtype"] == dtype
    assert report["proof"]["exact"] is False
    assert report["proof"]["agreement"] > 0.5
    assert report["peak_bytes"] < report["proof"]["dense_bytes"]


def test_figures_alone_are_printed_when_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", *FEW, "--quiet", "--no-verify"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [
        "model", "speed", "batches", "prefixes", "memory", "contiguous", "unproven",
    ]  # fmt: skip
    assert figures(capsys, *FEW, "--no-verify")["proof"] is None


def test_a_wrong_token_is_exit_code_1(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    attend = PagedCache.attend

    def forgets(self: PagedCache, *arguments: Any) -> Any:
        return attend(self, *arguments) * 0.5

    monkeypatch.setattr(PagedCache, "attend", forgets)
    assert main(["demo", *FEW]) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith("DIFFERENT   ")
    assert main(["demo", *FEW, "--no-verify"]) == 0


@pytest.mark.parametrize(
    ("name", "factor", "options"),
    [
        ("model.norm.weight", np.nan, []),
        ("model.layers.0.self_attn.q_proj.weight", np.nan, ["--json"]),
        ("model.norm.weight", np.nan, ["--quiet", "--no-verify"]),
        ("model.layers.1.self_attn.v_proj.weight", 1e6, ["--kv-dtype", "float16"]),
    ],
)
def test_logits_that_are_no_numbers_are_exit_code_2(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    name: str,
    factor: float,
    options: list[str],
) -> None:
    weights = weights_of(SMALL)
    weights[name] *= np.float32(factor)
    folder = write_folder(tmp_path / "model", weights=weights)
    assert main(["demo", *FEW, *options, "--model", str(folder)]) == 2
    out, err = capsys.readouterr()
    assert "identical" not in out
    assert err == (
        "pagedkv: [demo.Engine] request 0: logits that are not all finite; expected numbers: the "
        "weights are broken, or kv_dtype overflows\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "nowhere"], "'nowhere' has no config.json; expected a folder"),
        (["--prompts", "nowhere.txt"], "nowhere.txt"),
        (["--blocks", "2"], "tokens; expected at most the 32 of the pool"),
        (["--prompt", "x" * 400], "expected fewer than the 256 positions of the model"),
    ],
)
def test_what_cannot_be_run_is_exit_code_2_in_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["demo", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("pagedkv: ")
    assert message in err
    assert err.count("\n") == 1


def test_a_file_without_prompts_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("\n \n")
    assert main(["demo", "--prompts", str(file)]) == 2
    assert "holds no prompt; expected one a line" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        ["--temperature", "-1"],
        ["--temperature", "nan"],
        ["--kv-dtype", "int3"],
        ["--requests", "0"],
        ["--top-k", "0"],
        ["--prompt", "a", "--prompts", "b"],
    ],
)
def test_options_that_make_no_sense_are_refused(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        main(["demo", *arguments])
    assert raised.value.code == 2
    assert arguments[0] in capsys.readouterr().err


class Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_texts_grow_in_place_and_stand_whole_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setenv("LINES", "10")
    monkeypatch.setenv("TERM", "xterm")
    screen = Terminal()
    live = LiveTexts(screen, ["Return ", "Set "])
    live.update(0, "the first of\na hundred letters and more", False)
    live.draw()
    drawn = screen.getvalue()
    assert drawn.count("\n") == 2
    assert "hundred letters and more" in drawn
    assert "Return the first" not in drawn  # the line shows its end
    live.update(1, "it", True)
    live.finish()
    final = screen.getvalue()[len(drawn) :]
    assert final.startswith("\x1b[2A")
    assert "  0  Return the first of\n     a hundred letters and more\n  1  Set it\n" in final


def test_a_terminal_lower_than_the_texts_shows_the_first_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "6")
    monkeypatch.setenv("TERM", "xterm")
    screen = Terminal()
    live = LiveTexts(screen, [str(n) for n in range(20)])
    live.draw()
    assert screen.getvalue().count("\n") == 4


def test_a_dumb_terminal_gets_each_text_when_it_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    screen = Terminal()
    live = LiveTexts(screen, ["a", "b"])
    live.update(1, "x", False)
    live.draw()
    assert screen.getvalue() == ""
    live.update(1, "xy", True)
    live.finish()
    assert screen.getvalue() == "  1  bxy\n"


def test_what_would_move_the_cursor_is_not_printed() -> None:
    assert printable("a\x1b[2Jb\r\x07\u202ec\n") == "a\ufffd[2Jb \ufffd\ufffdc\n"


def test_tabs_and_other_spaces_are_spaces() -> None:
    assert printable("a\tb\u00a0c\u3000d\u2028e\n") == "a b c d e\n"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\u8a9e" * 30, "\u8a9e" * 12),  # two columns each
        ("\u8a9e" * 30 + "x", "\u8a9e" * 11 + "x"),
        ("e\u0301" * 30, "e\u0301" * 24),  # an accent takes none
        ("x" * 30, "x" * 24),
        ("\u8a9e", "\u8a9e"),
    ],
    ids=["wide", "wide, then narrow", "accents", "narrow", "short"],
)
def test_a_line_is_as_wide_as_the_terminal_also_of_wide_letters(
    monkeypatch: pytest.MonkeyPatch, text: str, shown: str
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setenv("LINES", "10")
    monkeypatch.setenv("TERM", "xterm")
    screen = Terminal()
    live = LiveTexts(screen, [""])
    live.update(0, text, False)
    live.draw()
    assert screen.getvalue() == f"\x1b[2m  0\x1b[0m  {shown}\x1b[K\n"


class _StripsTheFirstSpace(ByteTokenizer):
    """Decodes as those of Llama 2 do: a space that a text begins with is dropped."""

    def decode(self, tokens: Sequence[int]) -> str:
        return super().decode(tokens).removeprefix(" ")


def test_a_space_that_a_generated_text_begins_with_is_kept(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("--prompt", "Return the", "--max-tokens", "12")
    (of_bytes,) = figures(capsys, *arguments)["requests"]
    assert of_bytes["text"].startswith(" ")
    stripping = _StripsTheFirstSpace(range(256), 256, 257)
    monkeypatch.setattr("pagedkv.demo.job.load_tokenizer", lambda *_: stripping)
    (stripped,) = figures(capsys, *arguments)["requests"]
    assert stripped["text"] == of_bytes["text"]
    assert main(["demo", *arguments]) == 0
    assert f"  0  Return the{of_bytes['text']}".rstrip() in capsys.readouterr().out


def test_one_of_a_thing_is_no_plural(capsys: pytest.CaptureFixture[str]) -> None:
    one = ("--requests", "1", "--max-tokens", "1", "--blocks", "1", "--block-size", "256")
    assert main(["demo", *one, "--batch-tokens", "999"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("1 request, docstrings")
    assert "speed       1 token in " in out
    assert "batches     1 request in 1 step, " in out
    assert "memory      1 of 1 block of 256 tokens at most: " in out
