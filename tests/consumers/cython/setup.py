import os
import subprocess
import sys

from Cython.Build import cythonize
from setuptools import Extension, setup

includedir = subprocess.run(
    [sys.executable, "-m", "pagedkv", "config", "--includedir"],
    check=True,
    capture_output=True,
    text=True,
).stdout.strip()

setup(
    name="consumer",
    ext_modules=cythonize(
        [
            Extension(
                name,
                [f"{name}.pyx"],
                include_dirs=[includedir],
                extra_compile_args=["/std:c++20" if os.name == "nt" else "-std=c++20"],
            )
            for name in ("consumer", "declarations")
        ]
    ),
)
