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
    files = [file for file in metadata.files("pagedkv") or [] if file.name.endswith("-version.cmake")]
    assert len(files) == 1
    assert f'set(PACKAGE_VERSION "{version}")' in files[0].read_text()


def test_the_newest_entry_of_the_changelog_is_this_version(version: str) -> None:
    entries = re.findall(r"^## \[?(\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert entries
    assert entries[0] == version


def test_every_header_opens_the_inline_namespace_of_this_version(version: str) -> None:
    major, minor, _ = version.split(".")
    expected = f"v{major}_{minor}"
    headers = sorted(HEADERS.rglob("*.hpp"))
    assert headers
    for header in headers:
        text = header.read_text()
        # What only includes other headers or defines macros opens no namespace at all.
        opened = re.findall(r"^namespace pagedkv\b(.*?) *[{=]", text, re.MULTILINE)
        for rest in opened:
            assert re.match(rf"::inline {expected}(::|$)", rest), f"{header}: namespace pagedkv{rest}"
        declares = re.search(r"^(inline|constexpr|class|struct|enum|template)\b", text, re.MULTILINE)
        assert opened or not declares, f"{header} declares things outside the namespace"
