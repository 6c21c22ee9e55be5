"""The version stands in one place, version.hpp; every other statement of it agrees."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

import pytest

import pagedkv

ROOT = Path(__file__).parent.parent
HEADERS = ROOT / "cpp" / "include"
PACKAGE = Path(pagedkv.__file__).parent


@pytest.fixture(scope="module")
def version() -> str:
    text = (HEADERS / "pagedkv" / "version.hpp").read_text()
    parts = ("MAJOR", "MINOR", "PATCH")
    found = [re.search(rf"#define PAGEDKV_VERSION_{part} (\d+)\n", text) for part in parts]
    assert all(found)
    return ".".join(match[1] for match in found if match)


def test_the_python_package_states_the_version_of_the_headers(version: str) -> None:
    assert pagedkv.__version__ == version
    assert metadata.version("pagedkv") == version
    assert pagedkv.build_info()["version"] == version


def test_the_cmake_package_states_the_version_of_the_headers(version: str) -> None:
    installed = metadata.files("pagedkv") or []
    (file,) = [file for file in installed if file.name == "pagedkv-config-version.cmake"]
    assert f'set(PACKAGE_VERSION "{version}")' in file.read_text()


def test_the_newest_entry_of_the_changelog_names_this_version(version: str) -> None:
    # Before the release the entry is "Unreleased" and says what it is to become.
    text = (ROOT / "CHANGELOG.md").read_text()
    named = re.search(r"^## \[?(\d+\.\d+\.\d+)|to become (\d+\.\d+\.\d+)", text, re.MULTILINE)
    assert named
    assert version in named.groups()


def test_every_header_opens_the_inline_namespace_of_this_version(version: str) -> None:
    major, minor, _ = version.split(".")
    # Kernels open one of their instruction set within.
    expected = rf"pagedkv::inline v{major}_{minor}(::[a-z_]+)*(::PAGEDKV_ISA_NAMESPACE)?"
    declaration = re.compile(
        r"^(inline|constexpr|class|struct|enum|template|using)\b", re.MULTILINE
    )
    headers = sorted(HEADERS.rglob("*.hpp"))
    assert headers
    for header in headers:
        text = header.read_text()
        opened = re.findall(r"^namespace (pagedkv\b[^{}=]*?) *\{", text, re.MULTILINE)
        odd = [namespace for namespace in opened if not re.fullmatch(expected, namespace)]
        assert odd == [], header
        # Headers of macros or includes alone open none.
        assert opened or not declaration.search(text), header
