"""`pagedkv show`: the map on the terminal and as a picture."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pagedkv.cli import main
from pagedkv.show.text import SYMBOLS

DATA = Path(__file__).parent / "data"
AZURE, MOONCAKE = str(DATA / "azure_sample.csv"), str(DATA / "mooncake_sample.jsonl")


def printed(capsys, *arguments):
    assert main(["show", *arguments]) == 0
    return capsys.readouterr().out


def refused(capsys, *arguments):
    try:
        code = main(["show", *arguments])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err


def test_a_trace_is_shown_at_a_step(capsys):
    text = printed(capsys, MOONCAKE, "--steps", "2", "--blocks", "4096", "--width", "100")
    lines = text.splitlines()
    assert lines[0] == f"trace       {MOONCAKE} (mooncake): 12 requests"
    assert lines[1] == "pool        4,096 blocks of 16 tokens"
    assert lines[2].startswith("moment      after 2 steps, ")
    assert "running" in lines[3]
    assert "held by one sequence" in text
    assert "each sign is 2 blocks" in text


def test_what_prompts_share_is_shown_unless_nothing_is_reused(capsys):
    shared = printed(capsys, MOONCAKE, "--blocks", "8000")
    assert "shared by several" in shared
    alone = printed(capsys, MOONCAKE, "--blocks", "8000", "--no-prefix-caching")
    assert "shared by several" not in alone


def test_without_a_trace_a_workload_is_made_from_the_seed(capsys):
    arguments = ("--limit", "40", "--blocks", "256", "--seed", "3")
    first = printed(capsys, *arguments)
    assert "default workload (made): 40 requests" in first
    assert printed(capsys, *arguments) == first
    assert printed(capsys, *arguments[:-1], "4") != first


def test_colours_are_for_terminals_or_when_asked_for(capsys, monkeypatch):
    arguments = ("--limit", "10", "--steps", "5")
    assert "\x1b" not in printed(capsys, *arguments)
    assert "\x1b[38;5;" in printed(capsys, *arguments, "--color", "always")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert "\x1b[38;5;" in printed(capsys, *arguments)
    assert "\x1b" not in printed(capsys, *arguments, "--color", "never")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in printed(capsys, *arguments)


def test_one_of_a_thing_is_no_plural(capsys):
    text = printed(capsys, MOONCAKE, "--limit", "1", "--steps", "1", "--blocks", "8000")
    assert "(mooncake): 1 request\n" in text
    assert "moment      after 1 step, " in text


def test_the_help_names_every_sign_of_a_map(capsys):
    with pytest.raises(SystemExit):
        main(["show", "--help"])
    signs = capsys.readouterr().out.partition("what a block is:\n")[2]
    for sign in ("A-z 0-9", *SYMBOLS.values()):
        assert f"\n  {sign:10}" in f"\n{signs}"


@pytest.mark.filterwarnings("default")
def test_the_map_is_drawn(capsys, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    path = tmp_path / "map.svg"
    printed(capsys, AZURE, "--plot", str(path))
    assert "<svg" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["none.csv"], "cannot read 'none.csv'"),
        ([AZURE, "--blocks", "1"], "has no request that fits the pool"),
        (["--steps", "-1"], "expected an integer, 0 or more"),
        (["--width", "0"], "expected an integer, 1 or more"),
        (["--color", "pink"], "invalid choice: 'pink'"),
        ([AZURE, "--plot", AZURE], "--plot names the file that is read"),
        (["--plot", "map.txt"], "expected one that ends with"),
    ],
)
def test_a_bad_command_line_is_exit_code_2(arguments, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert says in refused(capsys, *arguments)
    assert list(tmp_path.iterdir()) == []


def test_a_picture_without_matplotlib_is_one_clear_line(capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    message = refused(capsys, "--plot", str(tmp_path / "map.png"))
    assert "pip install 'pagedkv[plot]'" in message
    assert message.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
