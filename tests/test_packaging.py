"""What is shipped: the wheel's contents, symbols and dependencies, and the sdist."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path, PurePosixPath

import pytest

import pagedkv
from pagedkv import build_info

ROOT = Path(__file__).parent.parent
HEADERS = ROOT / "cpp" / "include"

SHIPPED = [
    r"pagedkv/([a-z_]+/)*[a-z_]+\.py",
    r"pagedkv/models/docstrings/(config\.json|tokenizer\.json|model\.safetensors)",
    r"pagedkv/_core\.[^/]*(so|pyd)",
    r"pagedkv/(_core\.pyi|py\.typed|core\.pxd|errors\.pxd)",
    r"pagedkv/include/pagedkv/([a-z_]+/)*[a-z0-9_]+\.hpp",
    r"pagedkv/lib/cmake/pagedkv/pagedkv-(config|config-version|targets)\.cmake",
    r"pagedkv/lib/cmake/pagedkv/pagedkv-kernels-targets(-release)?\.cmake",
    r"pagedkv/lib/(libpagedkv_kernels\.a|pagedkv_kernels\.lib)",
    r"pagedkv-[^/]*\.dist-info/.*",
    r"(\.\./)*(bin|Scripts)/pagedkv(\.exe)?",
]


@pytest.fixture(scope="module")
def shipped() -> dict[str, Path]:
    """Each file that the installed wheel put down, by its name in the wheel."""
    distribution = metadata.distribution("pagedkv")
    origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    if origin.get("dir_info", {}).get("editable"):
        pytest.skip("an editable install, not a wheel")
    files = distribution.files
    assert files
    return {
        PurePosixPath(file).as_posix(): Path(str(file.locate()))
        for file in files
        if "__pycache__" not in file.parts
    }


def test_the_wheel_ships_nothing_unexpected(shipped: dict[str, Path]) -> None:
    odd = [name for name in shipped if not any(re.fullmatch(each, name) for each in SHIPPED)]
    assert odd == []


def test_the_wheel_ships_stubs_declarations_and_the_cmake_package(
    shipped: dict[str, Path],
) -> None:
    expected = {
        "pagedkv/py.typed",
        "pagedkv/_core.pyi",
        "pagedkv/core.pxd",
        "pagedkv/errors.pxd",
        "pagedkv/lib/cmake/pagedkv/pagedkv-config.cmake",
        "pagedkv/lib/cmake/pagedkv/pagedkv-config-version.cmake",
        "pagedkv/lib/cmake/pagedkv/pagedkv-targets.cmake",
        "pagedkv/lib/cmake/pagedkv/pagedkv-kernels-targets.cmake",
        "pagedkv/lib/cmake/pagedkv/pagedkv-kernels-targets-release.cmake",
    }
    assert expected <= shipped.keys()


def test_the_wheel_ships_every_header_as_it_is_in_the_source(shipped: dict[str, Path]) -> None:
    prefix = "pagedkv/include/"
    installed = {name.removeprefix(prefix) for name in shipped if name.startswith(prefix)}
    sources = {path.relative_to(HEADERS).as_posix() for path in HEADERS.rglob("*.hpp")}
    assert installed == sources
    for name in sources:
        assert shipped[prefix + name].read_bytes() == (HEADERS / name).read_bytes(), name


def test_the_wheel_is_at_most_10_mib(shipped: dict[str, Path], tmp_path: Path) -> None:
    # Packed again, as wheels are: one that was installed is no longer there.
    packed = tmp_path / "again.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, path in shipped.items():
            archive.write(path, name)
    assert packed.stat().st_size <= 10 * 2**20


def test_the_wheel_ships_kernels_for_every_instruction_set(shipped: dict[str, Path]) -> None:
    libraries = [path for name, path in shipped.items() if name.endswith((".a", ".lib"))]
    (library,) = libraries
    contents = library.read_bytes()
    for isa in build_info()["isa_found"]:
        assert f"isa_{isa.replace('-', '_')}".encode() in contents, isa


def test_the_wheel_ships_the_demos_model_as_it_is_in_the_source(shipped: dict[str, Path]) -> None:
    folder = ROOT / "python" / "pagedkv" / "models" / "docstrings"
    sources = {path.name: path for path in folder.iterdir()}
    assert sources.keys() == {"config.json", "tokenizer.json", "model.safetensors"}
    for name, path in sources.items():
        assert shipped[f"pagedkv/models/docstrings/{name}"].read_bytes() == path.read_bytes()


def test_numpy_is_the_only_dependency() -> None:
    required = [line for line in metadata.requires("pagedkv") or [] if "extra ==" not in line]
    assert [re.match(r"[A-Za-z0-9_.-]+", line)[0] for line in required] == ["numpy"]  # type: ignore[index]


def test_importing_the_package_loads_nothing_but_numpy_and_the_standard_library() -> None:
    script = (
        "import sys; before = set(sys.modules); import pagedkv, pagedkv.cli;"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    loaded = set(done.stdout.split()) - sys.stdlib_module_names
    assert {name for name in loaded if not name.startswith("_")} == {"pagedkv", "numpy"}


@pytest.mark.skipif(sys.platform != "linux", reason="reads ELF symbols: Linux only")
def test_the_module_exports_its_init_function_alone() -> None:
    nm = shutil.which("nm")
    if nm is None:
        pytest.skip("nm (binutils) is missing")
    done = subprocess.run(
        [nm, "-D", "--defined-only", "--format=posix", pagedkv._core.__file__],
        check=True,
        capture_output=True,
        text=True,
    )
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["PyInit__core"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads ELF symbols: Linux only")
def test_the_module_is_stripped(shipped: dict[str, Path]) -> None:
    nm = shutil.which("nm")
    if nm is None:
        pytest.skip("nm (binutils) is missing")
    (module,) = (path for name, path in shipped.items() if re.fullmatch(r"pagedkv/_core.*so", name))
    done = subprocess.run([nm, str(module)], check=False, capture_output=True, text=True)
    assert done.stdout == ""


def build_sdist(source: Path, into: Path) -> Path:
    pytest.importorskip("scikit_build_core", reason="scikit-build-core is missing")
    script = "import sys; from scikit_build_core.build import build_sdist; build_sdist(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", script, str(into)],
        cwd=source,
        capture_output=True,
        text=True,
        check=False,
        env={key: value for key, value in os.environ.items() if key != "SOURCE_DATE_EPOCH"},
    )
    assert done.returncode == 0, done.stderr
    (sdist,) = into.iterdir()
    return sdist


def members(sdist: Path) -> set[str]:
    """The files of the archive, without the folder that holds them all."""
    with tarfile.open(sdist) as archive:
        return {each.name.partition("/")[2] for each in archive.getmembers() if each.isfile()}


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_sdist(ROOT, tmp_path_factory.mktemp("sdist"))


def test_the_sdist_holds_what_building_and_testing_need(sdist: Path) -> None:
    inside = members(sdist)
    folders = {name.partition("/")[0] for name in inside if "/" in name}
    assert {"cpp", "cmake", "cuda", "metal", "python", "tests", "docs", "examples"} <= folders
    assert {"pyproject.toml", "CMakeLists.txt", "README.md", "LICENSE"} <= inside


def test_the_sdist_holds_what_the_repository_tracks_and_nothing_else(sdist: Path) -> None:
    if shutil.which("git") is None:
        pytest.skip("git is missing")
    if not (ROOT / ".git").exists():
        pytest.skip("not a git clone")

    def listed(*options: str) -> set[str]:
        command = ["git", "ls-files", "-z", *options]
        done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        return {name for name in done.stdout.split("\0") if (ROOT / name).is_file()}

    inside = members(sdist)
    assert listed() - inside == set()
    # Files that are new and not yet added are no mistake.
    assert inside - listed("--cached", "--others", "--exclude-standard") == {"PKG-INFO"}


def test_an_sdist_made_from_the_sdist_is_the_same_byte_for_byte(
    sdist: Path, tmp_path: Path
) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    (source / "PKG-INFO").unlink()  # written anew
    for path in source.rglob("*"):
        os.utime(path)
    (tmp_path / "again").mkdir()
    again = build_sdist(source, tmp_path / "again")
    assert again.name == sdist.name
    assert again.read_bytes() == sdist.read_bytes()
