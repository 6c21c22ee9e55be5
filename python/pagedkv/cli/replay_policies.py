"""`pagedkv replay --policy`: hit rates of eviction policies on a trace's prompts."""

from __future__ import annotations

import argparse
import sys

from pagedkv.cli.arguments import names, positive_ints
from pagedkv.cli.output import OutputFile, write_json
from pagedkv.cli.progress import ProgressBar
from pagedkv.replay import ReplayError, Trace
from pagedkv.replay.policies import (
    PolicyResult,
    all_policies,
    check_policies,
    replay_policies,
    sweep_of_capacities,
)
from pagedkv.replay.policy_plot import draw_policies
from pagedkv.replay.policy_report import policies_as_dict, policies_as_text
from pagedkv.replay.prompts import PromptBlocks, prompts_of

__all__ = ["add_arguments", "check", "prompts", "run"]

# What the policy replay shares with the replay of the engine; the other options are the engine's.
SHARED = ("trace", "limit", "strict", "json", "plot", "policy", "capacity", "run", "defaults")

# Tokens a block of the trace; saying so is allowed.
BLOCK_TOKENS = 512


# In place of names and of numbers.
ALL, SWEEP = "all", "sweep"


def capacities(text: str) -> list[int] | str:
    """Numbers of blocks, or `sweep`."""
    return SWEEP if text == SWEEP else positive_ints(text)


def add_arguments(group: argparse._ArgumentGroup) -> None:
    """Add the options that are the policy replay's own."""
    group.add_argument(
        "--policy",
        type=names,
        metavar="P[,P...]",
        help="eviction policies of KVCacheManager, and belady, which knows the future; all: each",
    )
    group.add_argument(
        "--capacity",
        type=capacities,
        metavar="N[,N...]",
        help="sizes of the cache in blocks of the trace (Mooncake: 512 tokens); sweep: eight, up "
        "to all blocks that there are",
    )


def check(arguments: argparse.Namespace) -> None:
    """Raise `ReplayError` for options that do not go together."""
    if arguments.policy is None or arguments.capacity is None:
        given, missing = ("--capacity", "--policy")
        if arguments.policy is not None:
            given, missing = missing, given
        raise ReplayError(f"[cli.replay] {given} without {missing}; expected both")
    if arguments.trace is None:
        raise ReplayError("[cli.replay] --policy without TRACE; expected a trace with hash_ids")
    for name, value in vars(arguments).items():
        if name == "block_size" and value == BLOCK_TOKENS:
            continue
        if name not in SHARED and value != arguments.defaults(name):
            raise ReplayError(
                f"[cli.replay] --{name.replace('_', '-')} with --policy; expected an option of "
                "the policy replay: --limit, --strict, --capacity, --json, --plot"
            )
    if ALL in arguments.policy:
        arguments.policy = all_policies()
    check_policies(arguments.policy)


def prompts(arguments: argparse.Namespace, trace: Trace) -> PromptBlocks:
    """The prompts to replay; with `--strict` each request must have its hash ids."""
    blocks = prompts_of(trace)
    if arguments.strict and (blocks.skipped or not trace.requests):
        broken = blocks.skipped[0] if blocks.skipped else None
        what = f"line {broken.number}: {broken.reason}" if broken else "no requests; expected one"
        raise ReplayError(f"[cli.replay] '{trace.name}': {what}")
    return blocks


def run(
    arguments: argparse.Namespace,
    trace: Trace,
    blocks: PromptBlocks,
    outputs: dict[str, OutputFile],
) -> int:
    """Replay, print, write; always 0, since hit rates are no failure."""
    progress = ProgressBar(sys.stderr)
    sizes = arguments.capacity
    if sizes == SWEEP:
        sizes = sweep_of_capacities(blocks)
    try:
        result: PolicyResult = replay_policies(blocks, arguments.policy, sizes, progress)
    finally:
        progress.clear()
    print(policies_as_text(trace, result))
    if "json" in outputs:
        write_json(outputs["json"], policies_as_dict(trace, result))
    if "plot" in outputs:
        draw_policies(result, outputs["plot"].path)
    return 0
