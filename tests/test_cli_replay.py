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


def test_prefixes_are_reused_where_the_trace_tells_them_and_only_then(tmp_path, capsys):
    # The prompts begin with one block of 512 tokens that they have in common, and arrive over time.
    report = figures(tmp_path, MOONCAKE, "--verify")
    assert report["tokens_saved"] > 0
    assert report["prefix_hit_rate"] == report["tokens_saved"] / report["paged"]["prompt_tokens"]
    assert "prompt tokens were found" in capsys.readouterr().out
    off = figures(tmp_path, MOONCAKE, "--no-prefix-caching")
    assert off["tokens_saved"] == 0
    assert off["prefix_hit_rate"] is None
    assert figures(tmp_path, AZURE)["prefix_hit_rate"] is None
    fewer = figures(tmp_path, MOONCAKE, "--hash-tokens", "16", "--verify")
    assert 0 < fewer["tokens_saved"] < report["tokens_saved"]


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
    assert "names the file that is read" in refused(capsys, AZURE, "--json", AZURE)
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


def policy_figures(tmp_path, *arguments):
    path = tmp_path / "rates.json"
    assert main(["replay", *arguments, "--json", str(path)]) == 0
    return json.loads(path.read_text())


def test_policies_are_compared_over_capacities(tmp_path, capsys):
    report = policy_figures(
        tmp_path, MOONCAKE, "--policy", "lru,belady,lru", "--capacity", "10,200"
    )
    assert list(report["hit_rates"]) == ["lru", "belady"]
    assert list(report["hit_rates"]["lru"]) == ["10", "200"]
    assert report["requests"] == 12
    # The 12 prompts have their first block in common, and nothing else.
    assert report["hit_rates"]["lru"]["200"] == report["infinite_hit_rate"]
    assert report["hits"]["belady"]["200"] == 11
    out, err = capsys.readouterr()
    assert out.count("\nlru ") == 1
    assert err == ""


def test_a_policy_replay_takes_the_first_requests_only(tmp_path):
    arguments = [MOONCAKE, "--policy", "lru", "--capacity", "200", "--block-size", "512"]
    assert policy_figures(tmp_path, *arguments, "--limit", "3")["requests"] == 3


@pytest.mark.filterwarnings("default")
def test_hit_rates_are_drawn(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    path = tmp_path / "rates.svg"
    arguments = [MOONCAKE, "--policy", "lru", "--capacity", "10,20", "--plot", str(path)]
    assert main(["replay", *arguments]) == 0
    assert b"<svg" in path.read_bytes()


def test_all_policies_are_swept_over_capacities(tmp_path):
    path = tmp_path / "rates.json"
    arguments = [MOONCAKE, "--policy", "all", "--capacity", "sweep", "--json", str(path)]
    assert main(["replay", *arguments]) == 0
    found = json.loads(path.read_text())
    policies = ["lru", "lfu", "fifo", "s3fifo", "lifetable", "belady"]
    assert found["config"]["policies"] == list(found["hit_rates"]) == policies
    sizes = found["config"]["capacities"]
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == found["distinct_blocks"]
    assert found["hit_rates"]["lru"][str(sizes[-1])] == found["infinite_hit_rate"]


def test_a_policy_replay_refuses_what_it_cannot_use(capsys):
    both = ["--policy", "lru", "--capacity", "10"]
    assert "--policy without --capacity" in refused(capsys, MOONCAKE, *both[:2])
    assert "--capacity without --policy" in refused(capsys, MOONCAKE, *both[2:])
    assert "without TRACE" in refused(capsys, *both)
    assert "--verify with --policy" in refused(capsys, MOONCAKE, *both, "--verify")
    assert "--step-ms with --policy" in refused(capsys, MOONCAKE, *both, "--step-ms", "3")
    assert "policy 'mru'" in refused(capsys, MOONCAKE, "--policy", "mru", "--capacity", "9")
    assert "has no hash_ids" in refused(capsys, AZURE, *both)


@pytest.mark.parametrize("value", ["", "0", "3,", "3,x", "3;4"])
def test_capacities_that_cannot_be_are_refused(value, capsys):
    with pytest.raises(SystemExit):
        main(["replay", MOONCAKE, "--policy", "lru", f"--capacity={value}"])
    assert "argument --capacity" in capsys.readouterr().err


def test_requests_without_hash_ids_are_skipped_or_refused_when_strict(tmp_path, capsys):
    path = tmp_path / "some.jsonl"
    line = {"timestamp": 0, "input_length": 5, "output_length": 5}
    lines = [line | {"hash_ids": [1]}, line, line | {"hash_ids": [True]}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    arguments = [str(path), "--policy", "lru", "--capacity", "10"]
    report = policy_figures(tmp_path, *arguments)
    assert report["requests"] == 1
    assert report["skipped_lines"] == 2
    skipped = capsys.readouterr().err.splitlines()
    assert skipped[0].startswith("pagedkv: skipped line 2: hash_ids is missing")
    assert skipped[1].startswith("pagedkv: skipped line 3: hash_ids is [True]")
    assert "line 3: hash_ids" in refused(capsys, *arguments, "--strict")
    assert "line 2: hash_ids" in refused(capsys, *arguments, "--strict", "--limit", "2")
