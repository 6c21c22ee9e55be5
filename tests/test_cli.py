"""The command line: version, info, config, and how errors end."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import pagedkv
from pagedkv.cli import main


def run_module(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "pagedkv", *arguments], capture_output=True, text=True, check=False
    )


def test_the_module_is_the_command():
    done = run_module("--version")
    assert done.returncode == 0
    assert done.stdout == f"pagedkv {pagedkv.__version__}\n"
    assert done.stderr == ""


def test_the_installed_script_is_the_command():
    script = Path(sys.executable).with_name("pagedkv")
    if not script.exists():
        pytest.skip("the pagedkv script is not beside the interpreter (not installed by pip)")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=False)
    assert done.stdout == f"pagedkv {pagedkv.__version__}\n"


def test_info_tells_what_is_built(capsys):
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    build = pagedkv.build_info()
    assert text.startswith(f"pagedkv       {pagedkv.__version__}\n")
    assert build["compiler"] in text
    assert f"{build['isa_chosen']} chosen" in text
    for name, state in build["backends"].items():
        assert name in text
        assert state is True or state in text


def test_info_as_json_is_what_build_info_says(capsys):
    assert main(["info", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == pagedkv.build_info()


def test_config_shows_where_headers_package_and_library_are(capsys):
    assert main(["config", "--cmakedir", "--includedir", "--libdir"]) == 0
    cmake, include, library = map(Path, capsys.readouterr().out.splitlines())
    assert (include / "pagedkv" / "pagedkv.hpp").is_file()
    assert list(cmake.glob("*.cmake"))
    assert list(library.glob("*pagedkv_kernels.*"))
    assert main(["config", "--includedir"]) == 0
    assert capsys.readouterr().out == f"{include}\n"


@pytest.mark.parametrize("arguments", [[], ["fly"], ["config"], ["--nothing"]])
def test_a_command_line_that_says_nothing_is_exit_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("usage: pagedkv")


@pytest.mark.parametrize(
    "command", [[], ["info"], ["config"], ["demo"], ["plan"], ["replay"], ["show"]]
)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main([*command, "--help"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith("usage: pagedkv")
