"""`pagedkv replay`: a trace of requests through the caches, and what it took."""

from __future__ import annotations

import argparse
import sys
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from pagedkv.cli import replay_policies
from pagedkv.cli.arguments import memory_size, positive_float, positive_int, seed_int
from pagedkv.cli.output import open_outputs, write_json
from pagedkv.cli.progress import ProgressBar
from pagedkv.picture import SUFFIXES
from pagedkv.replay import (
    DEFAULT_BLOCKS,
    DEFAULT_REQUESTS,
    BrokenLine,
    CacheShape,
    ReplayConfig,
    ReplayError,
    ReplayResult,
    Trace,
    as_dict,
    as_text,
    make_workload,
    read_model_config,
    read_trace,
    split_requests,
)
from pagedkv.replay import replay as replay_trace
from pagedkv.replay.managed import HASH_TOKENS
from pagedkv.replay.plot import draw
from pagedkv.replay.shape import DTYPE_BITS

__all__ = ["add_parser"]

DESCRIPTION = """\
Replay a trace of requests through the manager of many sequences as an engine with continuous
batching would, reusing prefixes where the trace tells them, and once more with contiguous
reservation of the maximum length a request, in the same memory. TRACE is JSON lines with timestamp
(ms), input_length, output_length and perhaps hash_ids (Mooncake), or CSV with TIMESTAMP,
ContextTokens and GeneratedTokens (Azure); without it, a workload is made from the length statistics
of two public services.

With --policy and --capacity: no engine, but how many of the blocks of the trace's prompts
(hash_ids, 512 tokens each) would have hit in a prefix cache, by policy and size."""

EPILOG = """\
the engine: its clock is the step. A request arrives at step floor(timestamp / step-ms) and waits
in order of arrival until there is room for its prompt and first token; its first step is the
prefill and yields the first token, each later step yields one more. When a running request needs a
block and none is free, the newest running request is preempted: it goes to the front of the queue
and starts again, recomputing what it held. Steps in which nothing runs are skipped. Messages name
a request by its line in the trace.

the figures, each an average over the steps in which something runs, taken at the end of a step
before finished requests leave:
  utilization       slots reserved / slots of the pool (paged: blocks in use / blocks)
  useful fraction   tokens held / slots reserved; what several requests share counts once
  wasted fraction   1 - useful fraction
  peak utilization  the largest utilization of any of these steps
  tokens a second   (prompt + generated + recomputed tokens) / seconds of the run; with --verify
                    this includes writing and checking the data

exit code: 0 when every request that was not rejected completed (and was verified), 1 when not, 2
for bad arguments or input, 130 when interrupted."""

# A line each for so many; the rest is counted.
MAX_REPORTED = 20


def add_parser(commands: Any) -> None:
    """Add the command to argparse's subparsers."""
    parser = commands.add_parser(
        "replay",
        help="replay a trace of requests through the caches",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("trace", nargs="?", metavar="TRACE", help="file of requests")
    parser.add_argument(
        "--limit",
        type=positive_int,
        metavar="N",
        help=f"the first N requests only (without TRACE: make N; default {DEFAULT_REQUESTS})",
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="refuse broken lines and requests that can never fit instead of skipping them",
    )
    parser.add_argument(
        "--seed",
        type=seed_int,
        default=0,
        metavar="N",
        help="seed of the made workload and of the data (default 0)",
    )
    _add_memory(parser.add_argument_group("memory"))
    _add_model(parser.add_argument_group("model"))
    engine = parser.add_argument_group("engine")
    engine.add_argument(
        "--max-batch", type=positive_int, metavar="N", help="run at most N at once (default: any)"
    )
    engine.add_argument(
        "--max-model-len",
        type=positive_int,
        metavar="N",
        help="reject longer requests; what contiguous reservation reserves (default: the longest "
        "request)",
    )
    engine.add_argument(
        "--step-ms",
        type=positive_float,
        default=25.0,
        metavar="MS",
        help="duration of a step (default 25)",
    )
    engine.add_argument(
        "--no-prefix-caching",
        dest="prefix_caching",
        action="store_false",
        help="compute every prompt, also where hash_ids tell what is shared",
    )
    engine.add_argument(
        "--hash-tokens",
        type=positive_int,
        default=HASH_TOKENS,
        metavar="N",
        help=f"tokens of the prompt that a hash id stands for (default {HASH_TOKENS})",
    )
    replay_policies.add_arguments(
        parser.add_argument_group(
            "policies", "Hit rates instead of an engine: one request at a time, prompts alone."
        )
    )
    output = parser.add_argument_group("output")
    output.add_argument(
        "--verify",
        action="store_true",
        help="write real keys and values, and check them bit for bit when each request ends",
    )
    output.add_argument("--json", metavar="FILE", help="write the figures as JSON")
    output.add_argument(
        "--plot",
        metavar="FILE",
        help="draw utilization over time, or with --policy hit rate over capacity "
        f"({', '.join(SUFFIXES)}; needs matplotlib)",
    )
    parser.set_defaults(run=run, defaults=parser.get_default)


def _add_memory(group: argparse._ArgumentGroup) -> None:
    size = group.add_mutually_exclusive_group()
    size.add_argument(
        "--blocks",
        type=positive_int,
        metavar="N",
        help=f"blocks of the pool (default {DEFAULT_BLOCKS})",
    )
    size.add_argument(
        "--memory",
        type=memory_size,
        metavar="SIZE",
        help="as many blocks as fit, keys and values of all layers counted (8GiB, 512MiB, ...)",
    )
    group.add_argument(
        "--block-size",
        type=positive_int,
        default=16,
        metavar="N",
        help="tokens a block (default 16)",
    )


def _add_model(group: argparse._ArgumentGroup) -> None:
    default = CacheShape()
    group.add_argument(
        "--model-config",
        metavar="FILE",
        help="config.json of a Hugging Face model; the options below take precedence",
    )
    for name, what, value in (
        ("layers", "layers that keep keys and values", default.num_layers),
        ("kv-heads", "heads of keys and values in a layer", default.num_kv_heads),
        ("head-dim", "values in a head", default.head_dim),
    ):
        group.add_argument(
            f"--{name}", type=positive_int, metavar="N", help=f"{what} (default {value})"
        )
    group.add_argument(
        "--dtype",
        choices=DTYPE_BITS,
        metavar="NAME",
        help=f"{', '.join(DTYPE_BITS)} (default {default.dtype})",
    )


def run(arguments: argparse.Namespace) -> int:
    """Do the replay; the exit code says whether all went well."""
    by_policy = arguments.policy is not None or arguments.capacity is not None
    if by_policy:
        replay_policies.check(arguments)
    config = _config(arguments)
    with ExitStack() as stack:
        paths = {"json": arguments.json, "plot": arguments.plot}
        outputs = open_outputs(stack, "replay", paths, [arguments.trace])
        trace = _trace(arguments)
        if by_policy:
            blocks = replay_policies.prompts(arguments, trace)
            _report_skipped(trace, blocks.skipped)
            return replay_policies.run(arguments, trace, blocks, outputs)
        _report_refused(arguments, trace, config)
        result = _replay(trace, config)
        print(as_text(result))
        if "json" in outputs:
            write_json(outputs["json"], as_dict(result))
        if "plot" in outputs:
            draw(result, outputs["plot"].path)
    for mismatch in result.mismatches[:MAX_REPORTED]:
        print(f"pagedkv: {mismatch}", file=sys.stderr)
    return 0 if result.success else 1


def _config(arguments: argparse.Namespace) -> ReplayConfig:
    shape = CacheShape()
    if arguments.model_config is not None:
        shape = read_model_config(arguments.model_config, arguments.dtype)
    given = {
        "num_layers": arguments.layers,
        "num_kv_heads": arguments.kv_heads,
        "head_dim": arguments.head_dim,
        "dtype": arguments.dtype,
    }
    shape = replace(shape, **{name: value for name, value in given.items() if value is not None})
    config = ReplayConfig(
        block_size=arguments.block_size,
        shape=shape,
        max_batch=arguments.max_batch,
        max_model_len=arguments.max_model_len,
        step_ms=arguments.step_ms,
        seed=arguments.seed,
        verify=arguments.verify,
        keep_history=arguments.plot is not None,
        prefix_caching=arguments.prefix_caching,
        hash_tokens=arguments.hash_tokens,
    )
    num_blocks = arguments.blocks or DEFAULT_BLOCKS
    if arguments.memory is not None:
        num_blocks = arguments.memory // config.block_bytes
        if num_blocks == 0:
            raise ReplayError(
                f"[cli.replay] --memory holds {arguments.memory:,} bytes; expected at least the "
                f"{config.block_bytes:,} of one block"
            )
    return replace(config, num_blocks=num_blocks)


def _trace(arguments: argparse.Namespace) -> Trace:
    if arguments.trace is not None:
        return read_trace(arguments.trace, limit=arguments.limit, strict=arguments.strict)
    count = arguments.limit or DEFAULT_REQUESTS
    print(f"no trace given: a workload of {count:,} requests is made from seed {arguments.seed}")
    return make_workload(arguments.seed, count)


def _report_refused(arguments: argparse.Namespace, trace: Trace, config: ReplayConfig) -> None:
    _, rejections = split_requests(trace.requests, config)
    if arguments.strict and (rejections or not trace.requests):
        what = str(rejections[0]) if rejections else "no requests; expected at least one"
        raise ReplayError(f"[cli.replay] '{trace.name}': {what}")
    _report_skipped(trace, [])
    _report("rejected", [str(rejection) for rejection in rejections])


def _report_skipped(trace: Trace, more: list[BrokenLine]) -> None:
    if not trace.requests:
        print(f"pagedkv: '{trace.name}' holds no requests", file=sys.stderr)
    broken = sorted([*trace.skipped, *more], key=lambda line: line.number)
    _report("skipped", [f"line {line.number}: {line.reason}" for line in broken])


def _report(verb: str, lines: list[str]) -> None:
    for line in lines[:MAX_REPORTED]:
        print(f"pagedkv: {verb} {line}", file=sys.stderr)
    if len(lines) > MAX_REPORTED:
        print(f"pagedkv: {verb} {len(lines) - MAX_REPORTED:,} more", file=sys.stderr)


def _replay(trace: Trace, config: ReplayConfig) -> ReplayResult:
    progress = ProgressBar(sys.stderr)
    try:
        return replay_trace(trace, config, progress)
    finally:
        progress.clear()
