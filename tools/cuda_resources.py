"""Registers, spills and shared memory of each CUDA kernel, as a table.

    python tools/cuda_resources.py [--arch 90] [--jobs 2] [--most-spilled BYTES] [FILE...]
    python tools/cuda_resources.py --log LOG

Compiles the sources (all of cuda/, unless files are named) and prints what ptxas says of each
kernel; or reads that from the log of a build with `-Xptxas -v`. With `--most-spilled` it fails
where a kernel spills more.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent

KERNEL = re.compile(r"Compiling entry function '(\w+)' for '(sm_\w+)'")
SPILLS = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
USED = re.compile(r"Used (\d+) registers")
SHARED = re.compile(r"(\d+) bytes smem")


@dataclass
class Kernel:
    name: str  # as the linker knows it
    arch: str
    registers: int = 0
    stack: int = 0
    spilled: int = 0
    shared: int = 0  # that it always has; what a launch asks for is not here


def read_log(text: str) -> list[Kernel]:
    """The kernels that ptxas tells of, in its order."""
    kernels: list[Kernel] = []
    for line in text.splitlines():
        if match := KERNEL.search(line):
            kernels.append(Kernel(match[1], match[2]))
        elif not kernels:
            continue
        elif match := SPILLS.search(line):
            # One line for the kernel, and one for each function that it calls.
            kernels[-1].stack = max(kernels[-1].stack, int(match[1]))
            kernels[-1].spilled += int(match[2]) + int(match[3])
        elif match := USED.search(line):
            kernels[-1].registers = int(match[1])
            shared = SHARED.search(line)
            kernels[-1].shared = int(shared[1]) if shared else 0
    return kernels


def compile_log(source: Path, nvcc: str, arch: str) -> str:
    """What ptxas says of a source's kernels."""
    with tempfile.TemporaryDirectory() as folder:
        command = [nvcc, "-std=c++20", f"-arch=sm_{arch}", "-cubin", "-Xptxas", "-v"]
        command += [f"-I{ROOT}", f"-I{ROOT / 'cpp' / 'include'}"]
        command += ["-o", str(Path(folder, "kernels.cubin")), str(source)]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{source}: {done.stderr}")
    return done.stderr + done.stdout


def demangled(names: list[str]) -> list[str]:
    """Names as they are written, without namespaces and parameters."""
    if shutil.which("c++filt") is None or not names:
        return names
    command = ["c++filt", "--no-params"]
    done = subprocess.run(command, input="\n".join(names), capture_output=True, text=True)
    short = []
    for name in done.stdout.splitlines():
        name = re.sub(r"\(anonymous namespace\)::|pagedkv::|v0_1::|cuda::|attention::", "", name)
        short.append(re.sub(r"^void ", "", name))
    return short


def table(kernels: list[Kernel]) -> str:
    kernels = sorted(kernels, key=lambda kernel: (kernel.arch, kernel.name))
    names = demangled([kernel.name for kernel in kernels])
    lines = ["| arch | kernel | registers | spilled, bytes | stack, bytes | static shared, bytes |"]
    lines += ["| --- | --- | ---: | ---: | ---: | ---: |"]
    for kernel, name in zip(kernels, names, strict=True):
        numbers = [kernel.registers, kernel.spilled, kernel.stack, kernel.shared]
        lines.append(f"| {kernel.arch} | `{name}` | " + " | ".join(map(str, numbers)) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sources", nargs="*", type=Path)
    parser.add_argument("--arch", action="append", help="such as 90; may be given several times")
    parser.add_argument("--nvcc", default="nvcc")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--log", type=Path, help="of a build with -Xptxas -v")
    parser.add_argument("--most-spilled", type=int, help="bytes of one kernel")
    arguments = parser.parse_args()

    if arguments.log is not None:
        logs = [arguments.log.read_text(encoding="utf-8", errors="replace")]
    else:
        sources = arguments.sources or sorted((ROOT / "cuda").rglob("*.cu"))
        work = [(source, arch) for arch in arguments.arch or ["90"] for source in sources]
        with ThreadPoolExecutor(arguments.jobs) as pool:
            logs = list(pool.map(lambda one: compile_log(one[0], arguments.nvcc, one[1]), work))
    kernels = [kernel for log in logs for kernel in read_log(log)]
    print(table(kernels))
    most = arguments.most_spilled
    worse = [kernel for kernel in kernels if most is not None and kernel.spilled > most]
    for kernel in worse:
        print(f"{kernel.name} spills {kernel.spilled} bytes, more than {most}", file=sys.stderr)
    return 1 if worse or not kernels else 0


if __name__ == "__main__":
    sys.exit(main())
