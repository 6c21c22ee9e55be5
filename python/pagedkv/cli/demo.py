"""`pagedkv demo`: a language model decodes many prompts at once, and proves what it did."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pagedkv.cli.arguments import positive_int, seed_int
from pagedkv.cli.live import LiveTexts
from pagedkv.cli.output import printable
from pagedkv.cli.progress import ProgressBar
from pagedkv.demo import DemoConfig, Request, as_dict, as_text, run_demo
from pagedkv.demo.job import generated_text
from pagedkv.demo.prompts import read_prompts
from pagedkv.models import KV_DTYPES, Llama, Sampler, Tokenizer
from pagedkv.sizes import format_count

__all__ = ["add_parser"]

DESCRIPTION = """\
Decode many prompts at once with a small language model that comes with pagedkv: continuous
batching, chunked prompts, a system prompt that all share, preemption where blocks are short. Then
decode again with a plain dense cache, and compare every token.
"""

EPILOG = """\
exit code: 0, or 1 where a token differs by more than rounding.
docs/demo.md tells what each figure is, and how the model was made.
"""


def add_parser(commands: Any) -> None:
    """Add the command to argparse's subparsers."""
    default = DemoConfig()
    parser = commands.add_parser(
        "demo",
        help="decode many prompts at once with a small model, and prove the result",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_texts(parser.add_argument_group("texts"), default)
    engine = parser.add_argument_group("engine")
    engine.add_argument(
        "--blocks",
        type=positive_int,
        metavar="N",
        help="blocks of the pool (default: half of what contiguous reservation would take)",
    )
    for name, value, what in (
        ("block-size", default.block_size, "tokens a block"),
        ("batch-tokens", default.max_batch_tokens, "tokens of a step; prompts are cut to fit"),
    ):
        engine.add_argument(
            f"--{name}", type=positive_int, default=value, metavar="N", help=f"{what} ({value})"
        )
    engine.add_argument(
        "--max-batch", type=positive_int, metavar="N", help="run at most N at once (default: any)"
    )
    engine.add_argument(
        "--kv-dtype",
        choices=KV_DTYPES,
        default=default.kv_dtype,
        metavar="NAME",
        help=f"of keys and values: {', '.join(KV_DTYPES)} (default {default.kv_dtype})",
    )
    _add_sampling(parser.add_argument_group("sampling"))
    output = parser.add_argument_group("output")
    output.add_argument(
        "--no-verify", dest="verify", action="store_false", help="do not decode again and compare"
    )
    output.add_argument("--json", action="store_true", help="print one JSON object, nothing else")
    output.add_argument("--quiet", action="store_true", help="print the figures, not the texts")
    parser.set_defaults(run=run)


def _add_texts(group: argparse._ArgumentGroup, default: DemoConfig) -> None:
    group.add_argument(
        "--model",
        type=Path,
        default=default.model,
        metavar="DIR",
        help="a Hugging Face folder of a Llama: config.json, safetensors, tokenizer.json",
    )
    prompts = group.add_mutually_exclusive_group()
    prompts.add_argument(
        "--prompt", action="append", metavar="TEXT", help="go on from this text; may be repeated"
    )
    prompts.add_argument("--prompts", metavar="FILE", help="go on from each line of a file")
    group.add_argument(
        "--system", default=default.system, metavar="TEXT", help="what comes before each prompt"
    )
    group.add_argument(
        "--requests",
        type=positive_int,
        metavar="N",
        help=f"so many, prompts taken in turn (default: each once, {len(default.prompts)})",
    )
    group.add_argument(
        "--max-tokens",
        type=positive_int,
        default=default.max_tokens,
        metavar="N",
        help=f"generate at most N a request (default {default.max_tokens})",
    )


def _add_sampling(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--temperature",
        type=_temperature,
        default=0.0,
        metavar="T",
        help="draw tokens; 0 takes the likeliest (default 0)",
    )
    group.add_argument(
        "--top-k", type=positive_int, default=0, metavar="K", help="draw from the K likeliest"
    )
    group.add_argument("--seed", type=seed_int, default=0, metavar="N", help="of the draws (0)")


def run(arguments: argparse.Namespace) -> int:
    """Run the demo; the exit code says whether the proof holds."""
    config = _config(arguments)
    show = _Show(config, silent=arguments.json or arguments.quiet)
    bar = ProgressBar(sys.stderr)
    try:
        result = run_demo(
            config,
            started=show.started,
            advanced=show.advanced,
            compared=lambda done, total: bar("comparing", done, total),
        )
    finally:
        bar.clear()
    if arguments.json:
        print(json.dumps(as_dict(result), indent=2, allow_nan=False))
    else:
        print(as_text(result))
    return 0 if result.success else 1


class _Show:
    """The texts as they grow; also before a proof that takes its time."""

    def __init__(self, config: DemoConfig, *, silent: bool) -> None:
        self._config = config
        self._silent = silent
        self._left = 0
        self._live: LiveTexts | None = None
        self._tokenizer: Tokenizer | None = None

    def started(self, model: Llama, tokenizer: Tokenizer, requests: Sequence[Request]) -> None:
        if self._silent:
            return
        prompts = [self._config.prompt(request.number) for request in requests]
        self._left = len(requests)
        self._tokenizer = tokenizer
        self._live = LiveTexts(sys.stdout, prompts)
        print(
            f"{format_count(len(requests), 'request')}, {self._config.model.name}, "
            f"{model.num_parameters:,} weights"
        )
        if self._config.system:
            print(f"system prompt of all: {printable(self._config.system)}")
        print()

    def advanced(self, requests: Sequence[Request]) -> None:
        if self._live is None or self._tokenizer is None:
            return
        for request in requests:
            text = generated_text(self._tokenizer, request)
            self._live.update(request.number, text, request.finish_reason is not None)
            self._left -= request.finish_reason is not None
        self._live.draw()
        if self._left == 0:
            self._live.finish()
            print()


def _config(arguments: argparse.Namespace) -> DemoConfig:
    default = DemoConfig()
    prompts: Sequence[str] = arguments.prompt or default.prompts
    if arguments.prompts is not None:
        prompts = read_prompts(arguments.prompts)
    return DemoConfig(
        model=arguments.model,
        prompts=prompts,
        system=arguments.system,
        num_requests=arguments.requests,
        max_tokens=arguments.max_tokens,
        num_blocks=arguments.blocks,
        block_size=arguments.block_size,
        kv_dtype=arguments.kv_dtype,
        max_running=arguments.max_batch,
        max_batch_tokens=arguments.batch_tokens,
        sampler=Sampler(arguments.temperature, arguments.top_k, arguments.seed),
        verify=arguments.verify,
    )


def _temperature(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"'{text:.40}'; expected a number, 0 or more")
    return value
