"""`pagedkv replay`: options, files, exit codes."""

import json
import os
import signal
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest

from pagedkv.cli import main
from pagedkv.cli import replay as command
from pagedkv.cli.arguments import memory_size
from pagedkv.cli.progress import ProgressBar

DATA = Path(__file__).parent / "data"
AZURE = str(DATA / "azure_sample.csv")
MOONCAKE = str(DATA / "mooncake_sample.jsonl")


def figures(tmp_path, *arguments):
    path = tmp_path / "figures.json"
    assert main(["replay", *arguments, "--json", str(path)]) == 0
    return json.loads(path.read_text())


@pytest.mark.parametrize("trace", [AZURE, MOONCAKE])
def test_every_request_of_a_trace_is_completed_and_verified(tmp_path, capsys, trace):
    report = figures(tmp_path, trace, "--verify")
    assert report["requests"] == report["completed"] == 12
    assert report["verified"] is True
    assert report["rejected"] == report["skipped_lines"] == 0
    out, err = capsys.readouterr()
    assert "12 requests read back bit for bit" in out
    assert err == ""


def test_a_small_pool_preempts_and_still_completes_and_verifies(tmp_path):
    report = figures(tmp_path, "--limit", "200", "--blocks", "800", "--verify")
    assert report["preemptions"] > 0
    assert report["completed"] == 200
    assert report["verified"] is True


def test_without_a_trace_a_workload_is_made_and_its_seed_printed(tmp_path, capsys):
    report = figures(tmp_path, "--limit", "100", "--seed", "5")
    assert report["completed"] == report["requests"] == 100
    assert report["config"]["seed"] == 5
    assert "from seed 5" in capsys.readouterr().out


def test_memory_is_a_number_of_blocks_of_the_model(tmp_path):
    config = tmp_path / "config.json"
    config.write_text(
        json.dumps(
            {
                "num_hidden_layers": 32,
                "num_attention_heads": 32,
                "num_key_value_heads": 8,
                "hidden_size": 4096,
                "torch_dtype": "bfloat16",
            }
        )
    )
    report = figures(tmp_path, AZURE, "--memory", "8GiB", "--model-config", str(config))
    assert report["config"]["blocks"] == 8 * 2**30 // (131_072 * 16)
    assert report["config"]["block_bytes"] == 131_072 * 16
    report = figures(
        tmp_path, AZURE, "--memory", "8GiB", "--model-config", str(config), "--dtype", "int8"
    )
    assert report["config"]["blocks"] == 8 * 2**30 // (65_536 * 16)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("65536", 65536),
        ("8GiB", 8 * 2**30),
        ("8gib", 8 * 2**30),
        ("1.5 MiB", 3 * 2**19),
        ("2GB", 2 * 10**9),
        ("3k", 3072),
        ("1TiB", 2**40),
    ],
)
def test_memory_sizes_are_read_in_the_usual_units(text, size):
    assert memory_size(text) == size


@pytest.mark.parametrize(
    "arguments",
    [
        ["--blocks", "0"],
        ["--blocks", "ten"],
        ["--blocks", "99999999999"],
        ["--memory", "8XiB"],
        ["--memory", "-1"],
        ["--memory", "0"],
        ["--memory", "1GiB", "--blocks", "3"],
        ["--block-size", "0"],
        ["--step-ms", "0"],
        ["--step-ms", "nan"],
        ["--max-batch", "0"],
        ["--limit", "0"],
        ["--seed", "-1"],
        ["--dtype", "float31"],
    ],
)
def test_values_that_cannot_be_are_refused(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["replay", *arguments])
    assert caught.value.code == 2
    assert f"argument {arguments[-2]}" in capsys.readouterr().err


def refused(capsys, *arguments):
    """The one line on stderr of a replay that ends with exit code 2 and prints no report."""
    assert main(["replay", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("pagedkv: [")
    assert err.count("\n") == 1
    return err


def test_an_unreadable_trace_is_one_clear_line(tmp_path, capsys):
    assert "cannot read" in refused(capsys, str(tmp_path / "none.csv"))
    assert "cannot read" in refused(capsys, str(tmp_path))
    photo = tmp_path / "photo.png"
    photo.write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    assert "no known format" in refused(capsys, str(photo))


def test_too_little_memory_for_a_block_is_refused(capsys):
    assert "8,192 of one block" in refused(capsys, AZURE, "--memory", "1KiB")


def test_verifying_more_than_the_machine_holds_is_refused(capsys):
    if not hasattr(os, "sysconf"):
        pytest.skip("this system does not tell how much memory it has")
    assert "GiB of this machine" in refused(
        capsys, AZURE, "--verify", "--blocks", "1000000", "--layers", "1000000"
    )


def test_running_out_of_memory_is_one_clear_line(capsys, monkeypatch):
    def exhaust(*_):
        raise MemoryError

    monkeypatch.setattr(command, "replay_trace", exhaust)
    assert main(["replay", AZURE]) == 2
    assert capsys.readouterr().err == "pagedkv: [cli] out of memory; expected a smaller pool\n"


def broken_trace(tmp_path):
    path = tmp_path / "broken.jsonl"
    good = '{"timestamp": 0, "input_length": 5, "output_length": 5}\n'
    path.write_text(good + "{oops\n" + good)
    return str(path)


def test_a_broken_line_is_reported_with_its_number_and_skipped(tmp_path, capsys):
    report = figures(tmp_path, broken_trace(tmp_path))
    assert report["completed"] == report["requests"] == 2
    assert report["skipped_lines"] == 1
    assert capsys.readouterr().err.startswith("pagedkv: skipped line 2: not JSON")


def test_a_broken_line_is_refused_when_strict(tmp_path, capsys):
    assert "line 2: not JSON" in refused(capsys, broken_trace(tmp_path), "--strict")


def test_many_broken_lines_are_counted_after_the_first(tmp_path, capsys):
    path = tmp_path / "broken.jsonl"
    good = '{"timestamp": 0, "input_length": 5, "output_length": 5}\n'
    path.write_text(good + "{\n" * 1000)
    assert main(["replay", str(path)]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == command.MAX_REPORTED + 1
    assert lines[-1] == "pagedkv: skipped 980 more"


def test_a_request_that_never_fits_is_named_counted_and_left_out(tmp_path, capsys):
    report = figures(tmp_path, AZURE, "--blocks", "200")
    assert report["rejected"] >= 1
    assert report["completed"] == report["requests"] - report["rejected"]
    err = capsys.readouterr().err
    assert "pagedkv: rejected request 2 needs 4818 tokens; expected at most 3200" in err


def test_a_request_that_never_fits_is_refused_when_strict(capsys):
    assert "request 2 needs 4818 tokens" in refused(capsys, AZURE, "--blocks", "200", "--strict")


def test_an_empty_trace_is_a_result_or_refused_when_strict(tmp_path, capsys):
    path = tmp_path / "empty.csv"
    path.touch()
    assert figures(tmp_path, str(path))["requests"] == 0
    assert "holds no requests" in capsys.readouterr().err
    assert "no requests" in refused(capsys, str(path), "--strict")


def test_an_output_that_cannot_be_written_is_found_before_the_run(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command, "replay_trace", lambda *_: pytest.fail("it ran"))
    for option in ("--json", "--plot"):
        assert "cannot write" in refused(capsys, AZURE, option, str(tmp_path / "no" / "x.png"))
        assert "cannot write" in refused(capsys, AZURE, option, str(tmp_path))
    assert "names the trace itself" in refused(capsys, AZURE, "--json", AZURE)
    same = str(tmp_path / "same.png")
    assert "name one file" in refused(capsys, AZURE, "--json", same, "--plot", same)
    assert "ends with" in refused(capsys, AZURE, "--plot", str(tmp_path / "picture.jpg"))
    assert list(tmp_path.iterdir()) == []


def test_an_output_stays_as_it_was_when_the_run_fails(tmp_path, capsys):
    path = tmp_path / "old.json"
    path.write_text("old")
    refused(capsys, str(tmp_path / "none.csv"), "--json", str(path))
    assert path.read_text() == "old"


@pytest.mark.filterwarnings("default")
def test_a_plot_is_drawn(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    path = tmp_path / "picture.SVG"
    assert main(["replay", AZURE, "--plot", str(path)]) == 0
    assert b"<svg" in path.read_bytes()


def test_a_plot_without_matplotlib_is_one_clear_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "pip install 'pagedkv[plot]'" in refused(
        capsys, AZURE, "--plot", str(tmp_path / "x.png")
    )


def test_an_interrupted_run_is_exit_code_130_and_leaves_no_file(tmp_path, capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "replay_trace", interrupt)
    assert main(["replay", AZURE, "--json", str(tmp_path / "x.json")]) == 130
    assert capsys.readouterr().err == "pagedkv: interrupted\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for a child process")
def test_ctrl_c_ends_the_process_with_one_line():
    process = subprocess.Popen(
        [sys.executable, "-m", "pagedkv", "replay", "--limit", "300000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        # A shell starts its background jobs with the signal ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert "workload" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == "pagedkv: interrupted\n"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no broken pipes")
def test_a_reader_that_goes_away_is_no_traceback():
    process = subprocess.Popen(
        [sys.executable, "-m", "pagedkv", "replay", "--limit", "10"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait() == 1


class Terminal(StringIO):
    def isatty(self):
        return True


def test_progress_is_drawn_on_terminals_alone(monkeypatch):
    for stream, drawn in ((Terminal(), True), (StringIO(), False)):
        monkeypatch.setattr("pagedkv.cli.progress.FIRST_AFTER_SECONDS", 0.0)
        bar = ProgressBar(stream)
        bar("paged", 3, 12)
        assert (" 25 %  3/12" in stream.getvalue()) is drawn
        bar.clear()
        assert stream.getvalue().endswith("\r") is drawn


def test_a_quick_run_draws_no_progress():
    stream = Terminal()
    ProgressBar(stream)("paged", 3, 12)
    assert stream.getvalue() == ""
