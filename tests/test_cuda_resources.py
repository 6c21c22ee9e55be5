"""tools/cuda_resources.py reads what ptxas says of kernels."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parent.parent / "tools" / "cuda_resources.py"

LOG = """\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_ZN7pagedkv4cuda12merge_statesILi8EEEvNS0_11MergeParamsE' for 'sm_90'
ptxas info    : Function properties for _ZN7pagedkv4cuda12merge_statesILi8EEEvNS0_11MergeParamsE
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 47 registers, used 1 barriers, 4096 bytes smem, 832 bytes cmem[0]
ptxas info    : Compiling entry function 'attend' for 'sm_80'
ptxas info    : Function properties for attend
    256 bytes stack frame, 448 bytes spill stores, 440 bytes spill loads
ptxas info    : Function properties for a_function_that_it_calls
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 128 registers, used 0 barriers, 256 bytes cumulative stack size
"""  # noqa: E501


def run(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    log = tmp_path / "build.log"
    log.write_text(LOG)
    command = [sys.executable, str(TOOL), "--log", str(log), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_each_kernel_is_a_row(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.returncode == 0
    rows = done.stdout.splitlines()[2:]
    assert rows[0] == "| sm_80 | `attend` | 128 | 888 | 256 | 0 |"
    assert rows[1].startswith("| sm_90 | `")
    assert rows[1].endswith("` | 47 | 0 | 0 | 4096 |")


@pytest.mark.skipif(shutil.which("c++filt") is None, reason="c++filt (binutils) is missing")
def test_variants_of_a_kernel_are_told_apart(tmp_path: Path) -> None:
    log = tmp_path / "variants.log"
    name = (
        "_ZN7pagedkv4cuda9attentionL13attend_kernelINS1_6TilingINS1_11SixteenBitsI13__nv_bfloat16"
        "EENS1_8OneDTypeIS6_LNS_4v0_15DTypeE3EEELi128ELi128ELi1ELi1ELi4ELi16ELi3EEEEEvNS1_6ParamsE"
    )
    log.write_text(f"Compiling entry function '{name}' for 'sm_90'\n")
    done = run(tmp_path, "--log", str(log))
    assert "(DType)3>, 128, 128, 1, 1, 4, 16, 3> >`" in done.stdout


def test_a_kernel_that_spills_more_than_is_allowed_fails(tmp_path: Path) -> None:
    assert run(tmp_path, "--most-spilled", "888").returncode == 0
    done = run(tmp_path, "--most-spilled", "887")
    assert done.returncode == 1
    assert "attend spills 888 bytes, more than 887" in done.stderr
