"""Checks what a wheel carries: `python .ci/check_wheel.py WHEEL`.

A consumer needs headers, CMake package, stubs and Cython declarations; nobody needs anything else.
"""

from __future__ import annotations

import sys
import zipfile
from fnmatch import fnmatch
from pathlib import Path

ROOT = Path(__file__).parent.parent
EXPECTED = [
    "pagedkv/__init__.py",
    "pagedkv/__main__.py",
    "pagedkv/_core.*",
    "pagedkv/_core.pyi",
    "pagedkv/core.pxd",
    "pagedkv/errors.py",
    "pagedkv/lib/cmake/pagedkv/pagedkv-config.cmake",
    "pagedkv/lib/cmake/pagedkv/pagedkv-config-version.cmake",
    "pagedkv/py.typed",
    "pagedkv-*.dist-info/entry_points.txt",
    "pagedkv-*.dist-info/licenses/LICENSE",
]
ALLOWED = [
    "pagedkv/**.py",
    "pagedkv/**.pyi",
    "pagedkv/**.pxd",
    "pagedkv/_core.*.so",
    "pagedkv/_core.*.pyd",
    "pagedkv/py.typed",
    "pagedkv/include/pagedkv/**.hpp",
    "pagedkv/lib/cmake/pagedkv/*.cmake",
    "pagedkv-*.dist-info/*",
]
# Compressed; ten times what the package needs.
MOST_BYTES = 8 << 20


def problems(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        names = [info.filename for info in archive.infolist() if not info.is_dir()]
    include = ROOT / "cpp" / "include"
    headers = [f"pagedkv/include/{p.relative_to(include)}" for p in include.rglob("*.hpp")]
    found = [
        f"missing: {pattern}"
        for pattern in [*EXPECTED, *headers]
        if not any(fnmatch(name, pattern) for name in names)
    ]
    found += [
        f"not expected: {name}"
        for name in names
        if not any(fnmatch(name, pattern) for pattern in ALLOWED)
    ]
    if wheel.stat().st_size > MOST_BYTES:
        found.append(f"{wheel.stat().st_size} bytes; expected at most {MOST_BYTES}")
    return found


def main() -> int:
    wheels = [Path(argument) for argument in sys.argv[1:]]
    if not wheels:
        print("usage: check_wheel.py WHEEL...", file=sys.stderr)
        return 2
    bad = False
    for wheel in wheels:
        found = problems(wheel)
        bad |= bool(found)
        print(f"{wheel.name}: {len(found)} problems", *found, sep="\n  ")
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
