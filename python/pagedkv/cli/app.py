"""Parsing of the command line, and what every command has in common: errors and exit codes.

0: done. 1: done, but what was to be shown does not hold. 2: bad arguments or input, in one line
on stderr. 130: interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import pagedkv
from pagedkv.cli import config, demo, info, plan, replay, show
from pagedkv.errors import PagedKvError

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that `argv` (by default the process's arguments) names."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    try:
        code: int = arguments.run(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("pagedkv: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read our output has gone; keep the interpreter's last flush quiet.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (PagedKvError, OSError) as error:
        print(f"pagedkv: {error}", file=sys.stderr)
        return 2
    except MemoryError:
        print("pagedkv: [cli] out of memory; expected a smaller pool", file=sys.stderr)
        return 2
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="pagedkv", description="Paged key/value caches and SSM state for inference."
    )
    parser.add_argument("--version", action="version", version=f"pagedkv {pagedkv.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (demo, info, config, plan, replay, show):
        command.add_parser(commands)
    return parser
