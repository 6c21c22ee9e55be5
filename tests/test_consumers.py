"""Other projects can use pagedkv: C++ by CMake in three ways, each with and without the library of
kernels; Cython by the declarations."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import pagedkv

pytestmark = pytest.mark.packaging

ROOT = Path(__file__).parent.parent
CONSUMERS = Path(__file__).parent / "consumers"


def run(
    *command: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=os.environ | (env or {}),
    )


def run_ok(*command: str | Path, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    done = run(*command, cwd=cwd, env=env)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def need_compiler() -> None:
    # On Windows the build tools find Visual Studio by themselves.
    compilers = [os.environ.get("CXX", "c++"), "g++", "clang++"]
    if sys.platform != "win32" and not any(map(shutil.which, compilers)):
        pytest.skip("a C++ compiler is missing")


def config(option: str) -> str:
    return run_ok(sys.executable, "-m", "pagedkv", "config", option).strip()


@pytest.fixture(scope="module")
def cmake() -> str:
    found = shutil.which("cmake")
    if found is None:
        pytest.skip("cmake is missing")
    need_compiler()
    return found


# One instruction set is enough to link with, and each takes half a minute to compile.
GENERIC = "-DPAGEDKV_ISAS=generic"


def install(cmake: str, folder: Path, *settings: str) -> Path:
    """The prefix of an install made by CMake alone."""
    build, prefix = folder / "build", folder / "prefix"
    parts = ("CUDA", "METAL", "BUILD_TESTS", "BUILD_EXAMPLES")
    off = [f"-DPAGEDKV_{part}=OFF" for part in parts]
    run_ok(cmake, "-S", ROOT, "-B", build, f"-DCMAKE_INSTALL_PREFIX={prefix}", *off, *settings)
    run_ok(cmake, "--build", build, "--config", "Release")
    run_ok(cmake, "--install", build, "--config", "Release")
    return prefix


@pytest.fixture(scope="module")
def installed(cmake: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(cmake, tmp_path_factory.mktemp("install"), GENERIC)


@pytest.fixture(scope="module")
def installed_headers(cmake: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install(cmake, tmp_path_factory.mktemp("headers"), "-DPAGEDKV_INSTALL_KERNELS=OFF")


def build_and_run(
    cmake: str, build: Path, *settings: str, program: str = "consumer", config: str = "Release"
) -> str:
    run_ok(
        *(cmake, "-S", CONSUMERS / "cpp", "-B", build),
        *(f"-DCMAKE_BUILD_TYPE={config}", "-DCMAKE_CXX_FLAGS=", *settings),
    )
    run_ok(cmake, "--build", build, "--config", config, "--target", program, "--parallel", "2")
    return run_ok(build / "bin" / program)


def test_a_cpp_project_finds_the_headers_in_an_install_tree(
    cmake: str, installed_headers: Path, tmp_path: Path
) -> None:
    printed = build_and_run(cmake, tmp_path, f"-DCMAKE_PREFIX_PATH={installed_headers}")
    assert printed == f"pagedkv {pagedkv.__version__}\n"


def test_a_cpp_project_finds_the_kernels_in_an_install_tree(
    cmake: str, installed: Path, tmp_path: Path
) -> None:
    settings = (f"-DCMAKE_PREFIX_PATH={installed}", "-DWITH_KERNELS=ON")
    assert build_and_run(cmake, tmp_path, *settings, program="attend") == "attended with generic\n"


def test_a_cpp_project_finds_headers_and_kernels_inside_the_wheel(
    cmake: str, tmp_path: Path
) -> None:
    settings = (f"-Dpagedkv_DIR={config('--cmakedir')}", "-DWITH_KERNELS=ON")
    assert build_and_run(cmake, tmp_path, *settings) == f"pagedkv {pagedkv.__version__}\n"
    used = pagedkv._core.build_info()["isa_chosen"]
    assert build_and_run(cmake, tmp_path, *settings, program="attend") == f"attended with {used}\n"


def test_a_cpp_project_takes_the_source_as_a_subfolder_and_builds_nothing_else_of_it(
    cmake: str, tmp_path: Path
) -> None:
    settings = (f"-DPAGEDKV_SOURCE={ROOT}", "-DWITH_KERNELS=ON", GENERIC)
    assert build_and_run(cmake, tmp_path, *settings) == f"pagedkv {pagedkv.__version__}\n"
    subfolders = {path.name for path in (tmp_path / "pagedkv").iterdir() if path.is_dir()}
    assert not subfolders & {"cuda", "metal", "examples"}
    compiled = [*tmp_path.rglob("isa.cpp.o*"), *tmp_path.rglob("*pagedkv_kernels*.[al]*")]
    assert compiled == [], "the kernels were compiled for a program that does not link them"
    printed = build_and_run(cmake, tmp_path, *settings, program="attend", config="Debug")
    assert printed == "attended with generic\n"


def test_the_headers_alone_have_the_kernels_of_the_flags_that_a_program_is_compiled_with(
    cmake: str, installed_headers: Path, tmp_path: Path
) -> None:
    settings = (f"-DCMAKE_PREFIX_PATH={installed_headers}", "-DWITH_HEADERS_ALONE=ON")
    printed = build_and_run(
        cmake, tmp_path, *settings, program="attend_headers_alone", config="Debug"
    )
    assert printed in {"attended with generic\n", "attended with neon\n"}


def test_kernels_that_were_not_installed_are_a_configure_error_that_says_so(
    cmake: str, installed_headers: Path, tmp_path: Path
) -> None:
    done = run(
        *(cmake, "-S", CONSUMERS / "cpp", "-B", tmp_path),
        *(f"-DCMAKE_PREFIX_PATH={installed_headers}", "-DWITH_KERNELS=ON"),
    )
    assert done.returncode != 0
    message = " ".join(done.stderr.split())
    assert "installed with PAGEDKV_INSTALL_KERNELS=OFF, without the component kernels" in message


def test_kernels_for_another_processor_are_a_configure_error_that_says_so(
    cmake: str, installed: Path, tmp_path: Path
) -> None:
    (found,) = installed.rglob("pagedkv-config.cmake")
    done = run(
        *(cmake, "-S", CONSUMERS / "cpp", "-B", tmp_path, "-DCMAKE_SYSTEM_PROCESSOR=riscv64"),
        *("-DCMAKE_SYSTEM_NAME=Linux", "-DCMAKE_TRY_COMPILE_TARGET_TYPE=STATIC_LIBRARY"),
        *(f"-Dpagedkv_DIR={found.parent}", "-DWITH_KERNELS=ON"),
    )
    assert done.returncode != 0
    message = " ".join(done.stderr.split())
    assert "and the build for Linux on riscv64; pagedkv::cpu::native_kernels()" in message


def test_instruction_sets_of_no_architecture_are_a_configure_error(
    cmake: str, tmp_path: Path
) -> None:
    done = run(cmake, "-S", ROOT, "-B", tmp_path, "-DPAGEDKV_ISAS=mmx")
    assert done.returncode != 0
    expected = "PAGEDKV_ISAS=mmx; expected instruction sets of this architecture"
    assert expected in " ".join(done.stderr.split())


@pytest.mark.parametrize("wanted", ["0.0", "0.2", "0.1.999", "1.0"])
def test_a_version_that_this_one_cannot_stand_in_for_is_refused(
    cmake: str, installed_headers: Path, tmp_path: Path, wanted: str
) -> None:
    done = run(
        *(cmake, "-S", CONSUMERS / "cpp", "-B", tmp_path),
        *(f"-DCMAKE_PREFIX_PATH={installed_headers}", f"-DWANTED={wanted}"),
    )
    assert done.returncode != 0
    assert f'compatible with requested version "{wanted}"' in " ".join(done.stderr.split())


@pytest.mark.parametrize("backend", ["CUDA", "METAL"])
def test_a_backend_that_is_asked_for_without_its_toolchain_is_a_configure_error(
    cmake: str, tmp_path: Path, backend: str
) -> None:
    if backend == "METAL" and sys.platform == "darwin":
        pytest.skip("this system may have the Metal toolchain")
    done = run(
        *(cmake, "-S", ROOT, "-B", tmp_path, "-DPAGEDKV_BUILD_TESTS=OFF"),
        *(f"-DPAGEDKV_{backend}=ON", "-DPAGEDKV_BUILD_EXAMPLES=OFF"),
        env={"CUDACXX": str(tmp_path / "no-nvcc")},
    )
    assert done.returncode != 0
    assert f"PAGEDKV_{backend}=ON, but there is no" in " ".join(done.stderr.split())


def test_a_backend_option_takes_nothing_but_auto_on_and_off(cmake: str, tmp_path: Path) -> None:
    done = run(cmake, "-S", ROOT, "-B", tmp_path, "-DPAGEDKV_CUDA=maybe")
    assert done.returncode != 0
    assert "PAGEDKV_CUDA=maybe; expected AUTO, ON or OFF" in " ".join(done.stderr.split())


@pytest.fixture(scope="module")
def cython_modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder where the Cython consumer was built against the installed package."""
    for tool in ("Cython", "setuptools"):
        pytest.importorskip(tool, exc_type=ImportError, reason=f"{tool} is missing")
    need_compiler()
    folder = tmp_path_factory.mktemp("cython")
    shutil.copytree(CONSUMERS / "cython", folder, dirs_exist_ok=True)
    run_ok(
        *(sys.executable, "setup.py", "build_ext", "--inplace", "--parallel", "2"),
        cwd=folder,
        env={"CFLAGS": "-O0"},
    )
    return folder


def test_a_cython_module_uses_the_core_and_its_errors_arrive_in_python(
    cython_modules: Path,
) -> None:
    script = """
import consumer, pagedkv

assert consumer.headers_version() == pagedkv.__version__
sequences = consumer.Sequences(4)
assert sequences.add(40) == [0, 1, 2, -1, -1, -1, -1, -1]
assert sequences.free_count == 1
try:
    sequences.add(17)
except pagedkv.PoolExhaustedError as error:
    assert (error.needed, error.free) == (2, 1), error
    assert isinstance(error, MemoryError)
else:
    raise AssertionError("the pool was not exhausted")
try:
    sequences.free(3)
except pagedkv.InvalidSlotError as error:
    assert error.slot == 3, error
else:
    raise AssertionError("a block that nobody holds was freed")
try:
    sequences.add(16 * 8 + 1)
except pagedkv.CapacityError:
    pass
else:
    raise AssertionError("a sequence outgrew its table")
print("done")
"""
    assert run_ok(sys.executable, "-c", script, cwd=cython_modules) == "done\n"


def test_every_cython_declaration_matches_the_headers(cython_modules: Path) -> None:
    script = """
import declarations

checks = [value for value in vars(declarations).values() if callable(value)]
for check in checks:
    check()
print(len(checks))
"""
    assert int(run_ok(sys.executable, "-c", script, cwd=cython_modules)) == 8
