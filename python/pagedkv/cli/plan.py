"""`pagedkv plan`: how many tokens and sequences fit into a memory budget."""

from __future__ import annotations

import argparse
import json
from contextlib import ExitStack
from typing import Any

from pagedkv.cli.arguments import (
    fraction,
    memory_size,
    positive_float,
    positive_int,
    token_counts,
)
from pagedkv.cli.output import open_outputs, printable, write_json
from pagedkv.picture import SUFFIXES
from pagedkv.plan import DEFAULT_LENGTHS, Plan, PlanError
from pagedkv.plan import plan as make_plan
from pagedkv.plan.accounting import SCALES
from pagedkv.plan.budget import DEFAULT_UTILIZATION
from pagedkv.plan.config import config_path
from pagedkv.plan.plot import draw
from pagedkv.plan.report import as_dict, as_text
from pagedkv.replay import Trace, read_trace
from pagedkv.replay.shape import DTYPE_BITS
from pagedkv.sizes import format_tokens

__all__ = ["add_parser"]

DESCRIPTION = """\
How many tokens and sequences fit? Reads the config.json of a Hugging Face model (grouped and
multi-query heads, latent attention, sliding windows, recurrent states) and a memory budget, and
tells bytes a token, blocks, sequences at given lengths, what is wasted, and for a trace the batch
that fits. All bytes are those of one device; they are what the arrays of the pool take."""

EPILOG = """\
the figures:
  blocks each     blocks that a decoding sequence holds at most, over all groups: ceil(length /
                  block), and with a window no more than ceil((window - 1) / block) + 1
  at once         floor((memory - prefill) / (blocks each * bytes of a block + bytes of a slot)),
                  where prefill is what windows hold more while one prompt is computed in chunks
  waste           share of a sequence's bytes that no layer reads: behind the last token, outside of
                  a window, places of a block that no layer fills
  running at once requests of the trace that run, at the end of each step of the engine of `pagedkv
                  replay`. packed: all are there from the start, counted while some wait; as it
                  came: by the trace's clock

exit code: 0, 2 for a configuration, a trace or arguments that cannot be planned for."""


def add_parser(commands: Any) -> None:
    """Add the command to argparse's subparsers."""
    parser = commands.add_parser(
        "plan",
        help="tell how many tokens and sequences fit",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", metavar="CONFIG", help="config.json, or the folder that holds it")
    memory = parser.add_argument_group("memory, of one device")
    size = memory.add_mutually_exclusive_group(required=True)
    size.add_argument(
        "--memory",
        type=memory_size,
        metavar="SIZE",
        help="of the cache (40GiB, 512MiB, ...)",
    )
    size.add_argument(
        "--gpu-memory", type=memory_size, metavar="SIZE", help="of the device, weights included"
    )
    memory.add_argument(
        "--weights",
        type=memory_size,
        metavar="SIZE",
        help="with --gpu-memory (default: the *.safetensors beside CONFIG, divided by the ranks)",
    )
    memory.add_argument(
        "--utilization",
        type=fraction,
        metavar="SHARE",
        help=f"of --gpu-memory that may be used (default {DEFAULT_UTILIZATION})",
    )
    _add_cache(parser.add_argument_group("cache"))
    asked = parser.add_argument_group("what to tell")
    asked.add_argument(
        "--lengths",
        type=token_counts,
        default=list(DEFAULT_LENGTHS),
        metavar="N[,N...]",
        help="tokens of sequences; with states, memory is divided for the first (default "
        f"{','.join(map(format_tokens, DEFAULT_LENGTHS))})",
    )
    asked.add_argument("--trace", metavar="FILE", help="requests, as `pagedkv replay` reads them")
    asked.add_argument(
        "--limit", type=positive_int, metavar="N", help="the first N requests of the trace only"
    )
    asked.add_argument(
        "--step-ms",
        type=positive_float,
        metavar="MS",
        help="duration of a step of the trace's engine (default 25)",
    )
    output = parser.add_argument_group("output")
    output.add_argument(
        "--json",
        metavar="FILE",
        help="write the figures as JSON; -: print them instead",
    )
    output.add_argument(
        "--plot",
        metavar="FILE",
        help=f"draw the plan ({', '.join(SUFFIXES)}; needs matplotlib)",
    )
    parser.set_defaults(run=run)


def _add_cache(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--dtype",
        choices=DTYPE_BITS,
        metavar="NAME",
        help=f"of keys and values: {', '.join(DTYPE_BITS)} (default: the model's)",
    )
    group.add_argument(
        "--scales",
        choices=SCALES,
        metavar="A",
        help="of a quantised dtype: one a tensor, or one for each head of a block or token "
        "(tensor, block, token; default: token for integers, tensor for floats)",
    )
    group.add_argument(
        "--state-dtype",
        choices=[name for name, bits in DTYPE_BITS.items() if bits >= 8],
        metavar="NAME",
        help="of recurrent states (default: what CONFIG says, else float32)",
    )
    group.add_argument(
        "--block-size",
        type=positive_int,
        default=16,
        metavar="N",
        help="tokens a block (default 16)",
    )
    group.add_argument(
        "--tensor-parallel",
        type=positive_int,
        default=1,
        metavar="N",
        help="ranks that share the model (default 1)",
    )
    group.add_argument(
        "--prefill-chunk",
        type=positive_int,
        default=512,
        metavar="N",
        help="tokens of a prompt that are computed at once (default 512)",
    )
    group.add_argument(
        "--max-seqs",
        type=positive_int,
        metavar="N",
        help="slots of recurrent states (default: for the first of --lengths)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Plan, print, write."""
    printed = arguments.json == "-"
    with ExitStack() as stack:
        paths = {"json": None if printed else arguments.json, "plot": arguments.plot}
        config = config_path(arguments.config)
        outputs = open_outputs(stack, "plan", paths, [str(config), arguments.trace])
        plan = _plan(arguments)
        if printed:
            print(json.dumps(as_dict(plan), indent=2, allow_nan=False))
        else:
            print(printable(as_text(plan)))
        if "json" in outputs:
            write_json(outputs["json"], as_dict(plan))
        if "plot" in outputs:
            draw(plan, outputs["plot"].path)
    return 0


def _plan(arguments: argparse.Namespace) -> Plan:
    return make_plan(
        arguments.config,
        arguments.memory,
        gpu_memory=arguments.gpu_memory,
        weights=arguments.weights,
        utilization=arguments.utilization,
        tensor_parallel=arguments.tensor_parallel,
        kv_dtype=arguments.dtype,
        scales=arguments.scales,
        state_dtype=arguments.state_dtype,
        block_size=arguments.block_size,
        prefill_chunk=arguments.prefill_chunk,
        lengths=arguments.lengths,
        max_seqs=arguments.max_seqs,
        trace=_trace(arguments),
        step_ms=arguments.step_ms,
    )


def _trace(arguments: argparse.Namespace) -> Trace | None:
    if arguments.trace is None:
        if arguments.limit is not None:
            raise PlanError("[cli.plan] --limit without --trace; expected both or neither")
        return None
    return read_trace(arguments.trace, limit=arguments.limit, strict=True)
