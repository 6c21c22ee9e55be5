"""`pagedkv info`: what is installed, and what it found on this machine."""

from __future__ import annotations

import argparse
import json
from typing import Any

import pagedkv

__all__ = ["add_parser"]


def add_parser(commands: Any) -> None:
    """Add the command to argparse's subparsers."""
    text = "show version, compiler, instruction sets, backends and threads"
    parser = commands.add_parser("info", help=text, description=text.capitalize() + ".")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print what `pagedkv.build_info()` knows."""
    build = pagedkv.build_info()
    if arguments.json:
        print(json.dumps(build, indent=2))
        return 0
    print(f"pagedkv       {build['version']}")
    print(f"compiler      {build['compiler']} ({build['build_type']})")
    print(f"instructions  {build['isa_chosen']} chosen; found: {', '.join(build['isa_found'])}")
    for name, state in build["backends"].items():
        print(f"{name:13} {'built' if state is True else state}")
        print(f"{'':13} its kernels have run {build['kernels_ran'][name]}")
    print(f"threads       {build['threads']}")
    return 0
