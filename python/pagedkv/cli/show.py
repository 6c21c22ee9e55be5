"""`pagedkv show`: a map of the pool, who holds which block, after some steps of a trace."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pagedkv.cli.arguments import count_int, positive_float, positive_int, seed_int
from pagedkv.cli.output import open_outputs
from pagedkv.picture import SUFFIXES
from pagedkv.replay import ReplayConfig, Trace, make_workload, read_trace
from pagedkv.replay.managed import HASH_TOKENS
from pagedkv.show import ReplayedPool, as_text, draw, replayed_pool
from pagedkv.sizes import format_count

__all__ = ["add_parser"]

DESCRIPTION = """\
A map of the pool: which block is held by whom, shared, cached or unused, after some steps of the
engine of `pagedkv replay`. TRACE is what that command reads; without it, a workload is made. In
the terminal a letter is a block (of a large pool, several), the same letter the same sequence."""

EPILOG = """\
what a block is:
  A-z 0-9   held by one sequence; A has the most blocks, and signs come again after 62
  *         shared: in the tables of several sequences
  +         cached and free: nobody holds it, and a prompt may still hit it until it is needed
  .         unused: free, and in no prefix index
In maps of other managers (docs/guides/pictures.md) also
  _         free, cached or not: nobody asked which
  #         kept: not free, and in none of the tables
  ?         free or kept: nobody asked which

exit code: 0, 2 for bad arguments or a trace that cannot be read."""

DEFAULT_BLOCKS = 2048
DEFAULT_REQUESTS = 500
DEFAULT_WIDTH = 64


def add_parser(commands: Any) -> None:
    """Add the command to argparse's subparsers."""
    parser = commands.add_parser(
        "show",
        help="show who holds which block",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("trace", nargs="?", metavar="TRACE", help="file of requests")
    parser.add_argument(
        "--steps",
        type=count_int,
        metavar="N",
        help="steps in which something runs (default: until the most blocks are held)",
    )
    parser.add_argument(
        "--limit",
        type=positive_int,
        metavar="N",
        help=f"the first N requests only (without TRACE: make N; default {DEFAULT_REQUESTS})",
    )
    parser.add_argument(
        "--seed", type=seed_int, default=0, metavar="N", help="of the made workload (default 0)"
    )
    pool = parser.add_argument_group("pool and engine")
    pool.add_argument(
        "--blocks",
        type=positive_int,
        default=DEFAULT_BLOCKS,
        metavar="N",
        help=f"blocks of the pool (default {DEFAULT_BLOCKS})",
    )
    pool.add_argument(
        "--block-size", type=positive_int, default=16, metavar="N", help="tokens (default 16)"
    )
    pool.add_argument("--max-batch", type=positive_int, metavar="N", help="run at most N at once")
    pool.add_argument(
        "--step-ms",
        type=positive_float,
        default=25.0,
        metavar="MS",
        help="duration of a step (default 25)",
    )
    pool.add_argument(
        "--no-prefix-caching",
        dest="prefix_caching",
        action="store_false",
        help="compute every prompt, also where hash_ids tell what is shared",
    )
    pool.add_argument(
        "--hash-tokens",
        type=positive_int,
        default=HASH_TOKENS,
        metavar="N",
        help=f"tokens of the prompt that a hash id stands for (default {HASH_TOKENS})",
    )
    output = parser.add_argument_group("output")
    output.add_argument(
        "--width",
        type=positive_int,
        default=DEFAULT_WIDTH,
        metavar="N",
        help=f"letters a line, 8 or more (default {DEFAULT_WIDTH})",
    )
    output.add_argument(
        "--color",
        choices=("auto", "always", "never"),
        default="auto",
        help="default auto: on a terminal, unless NO_COLOR is set",
    )
    output.add_argument(
        "--plot",
        metavar="FILE",
        help=f"draw the map ({', '.join(SUFFIXES)}; needs matplotlib)",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Replay, print, draw."""
    config = ReplayConfig(
        num_blocks=arguments.blocks,
        block_size=arguments.block_size,
        max_batch=arguments.max_batch,
        step_ms=arguments.step_ms,
        prefix_caching=arguments.prefix_caching,
        hash_tokens=arguments.hash_tokens,
    )
    with ExitStack() as stack:
        outputs = open_outputs(stack, "show", {"plot": arguments.plot}, [arguments.trace])
        trace = _trace(arguments)
        shown = replayed_pool(trace, config, arguments.steps)
        print(_head(trace, config, shown))
        print()
        print(as_text(shown.pool, width=arguments.width, colour=_colour(arguments.color)))
        if "plot" in outputs:
            title = f"{Path(trace.name).name}: {_when(shown, config)}"
            draw(shown.pool, outputs["plot"].path, title=title)
    return 0


def _trace(arguments: argparse.Namespace) -> Trace:
    if arguments.trace is None:
        return make_workload(arguments.seed, arguments.limit or DEFAULT_REQUESTS)
    return read_trace(arguments.trace, limit=arguments.limit, strict=True)


def _head(trace: Trace, config: ReplayConfig, shown: ReplayedPool) -> str:
    running = len(shown.pool.seq_ids)
    return "\n".join(
        (
            f"trace       {trace.name} ({trace.format}): "
            f"{format_count(len(trace.requests), 'request')}",
            f"pool        {format_count(config.num_blocks, 'block')} of "
            f"{format_count(config.block_size, 'token')}",
            f"moment      {_when(shown, config)}",
            f"requests    {running:,} running, {shown.waiting:,} waiting, {shown.completed:,} "
            f"completed, {format_count(shown.preemptions, 'preemption')}",
        )
    )


def _when(shown: ReplayedPool, config: ReplayConfig) -> str:
    seconds = (shown.step + 1) * config.step_ms / 1000.0
    return f"after {format_count(shown.steps, 'step')}, {seconds:,.1f} s"


def _colour(choice: str) -> bool:
    if choice == "auto":
        return sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    return choice == "always"
