"""`generate()` with a paged cache beside transformers' own ways on the CPU: `DynamicCache`, and
continuous batching (`generate_batch`). One model of random weights, the same prompts, greedy."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pagedkv
from pagedkv.bench.figure import require
from pagedkv.bench.table import machine
from pagedkv.bench.timing import Others

__all__ = ["run"]

VOCABULARY = 2048
OURS = "PagedCache, attn_implementation='pagedkv'"
GATHER = "PagedCache, gathered for 'sdpa'"
DYNAMIC = "DynamicCache, 'sdpa'"
BATCH = "generate_batch, 'sdpa', at most {} tokens a pass"


@dataclass(frozen=True)
class Work:
    """A model and what it is to say."""

    hidden: int
    layers: int
    shortest: int
    longest: int
    prompts: int
    new_tokens: int


FULL = Work(hidden=512, layers=4, shortest=64, longest=512, prompts=8, new_tokens=48)
QUICK = Work(hidden=128, layers=2, shortest=8, longest=40, prompts=3, new_tokens=6)


@dataclass(frozen=True)
class Row:
    """One way: the processor time of the whole work, seconds, a turn each."""

    what: str
    times: list[float]

    @property
    def seconds(self) -> float:
        return statistics.median(self.times)


def entrants(work: Work) -> dict[str, Callable[[], list[list[int]]]]:
    """Each says the tokens of all prompts."""
    import torch
    import transformers

    from pagedkv.integrations.transformers import PagedCache

    torch.set_num_threads(1)
    pagedkv.set_num_threads(1)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=work.hidden,
        intermediate_size=2 * work.hidden,
        num_hidden_layers=work.layers,
        num_attention_heads=work.hidden // 64,
        num_key_value_heads=max(1, work.hidden // 256),
        head_dim=64,
        max_position_embeddings=4096,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=None,
        initializer_range=0.2,
    )
    model = transformers.LlamaForCausalLM._from_config(config, attn_implementation="sdpa").eval()
    lengths = torch.randint(work.shortest, work.longest + 1, (work.prompts,)).tolist()
    prompts = [torch.randint(3, VOCABULARY, (length,)).tolist() for length in lengths]
    width = max(lengths)
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
    columns = torch.arange(width)
    mask = torch.stack([columns >= width - length for length in lengths]).long()

    def generate(attention: str, cache: Callable[[], Any]) -> list[list[int]]:
        model.set_attn_implementation(attention)
        said = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=work.new_tokens,
            do_sample=False,
            past_key_values=cache(),
        )
        tokens: list[list[int]] = said[:, width:].tolist()
        return tokens

    def generate_batch(tokens_a_pass: int) -> list[list[int]]:
        model.set_attn_implementation("sdpa")
        said = model.generate_batch(
            prompts,
            generation_config=transformers.GenerationConfig(
                max_new_tokens=work.new_tokens, do_sample=False, eos_token_id=-1, pad_token_id=0
            ),
            # Pages of 256, its default; as many as all prompts need at once.
            continuous_batching_config=transformers.ContinuousBatchingConfig(
                num_blocks=work.prompts * (2 + (work.longest + work.new_tokens) // 256),
                max_batch_tokens=tokens_a_pass,
            ),
            progress_bar=False,
        )
        return [request.generated_tokens for request in said.values()]

    return {
        OURS: lambda: generate("pagedkv", lambda: PagedCache(model.config)),
        GATHER: lambda: generate("sdpa", lambda: PagedCache(model.config)),
        DYNAMIC: lambda: generate("sdpa", lambda: transformers.DynamicCache(config=model.config)),
        BATCH.format(512): lambda: generate_batch(512),
        BATCH.format(2048): lambda: generate_batch(2048),
    }


def measure(ways: dict[str, Callable[[], list[list[int]]]], turns: int) -> list[Row]:
    """Checks that all say the same, and then times them in turns."""
    expected = ways[DYNAMIC]()
    require(len({token for row in expected for token in row}) > 2, "the model says nothing")
    for what, way in ways.items():
        require(way() == expected, f"{what}: other tokens than with DynamicCache")
    times: dict[str, list[float]] = {what: [] for what in ways}
    for _ in range(turns):
        for what, way in ways.items():
            # Of all threads: generate_batch has one of its own.
            start = time.process_time()
            way()
            times[what].append(time.process_time() - start)
    return [Row(what, taken) for what, taken in times.items()]


def ratios(rows: Sequence[Row]) -> dict[str, float]:
    """How many times the time of ours each takes: the median of the turns."""
    ours = next(row for row in rows if row.what == OURS)
    return {
        row.what: statistics.median(
            theirs / our for theirs, our in zip(row.times, ours.times, strict=True)
        )
        for row in rows
    }


def table(rows: Sequence[Row], work: Work) -> str:
    tokens = work.prompts * work.new_tokens
    lines = ["| how | processor time | tokens a second | time of ours |", "|---|---:|---:|---:|"]
    times_of_ours = ratios(rows)
    lines += [
        f"| {row.what} | {row.seconds:.2f} s | {tokens / row.seconds:,.0f} "
        f"| {times_of_ours[row.what]:.2f} |"
        for row in rows
    ]
    return "\n".join(lines)


def run(argv: Sequence[str]) -> int:
    """Print the table; 1 when ours is to be faster than each `generate_batch`, and is not."""
    arguments = _parser().parse_args(argv)
    work = QUICK if arguments.quick else FULL
    print(f"{work.prompts} prompts, {arguments.turns} turns ...", file=sys.stderr)
    try:
        ways = entrants(work)
    except ImportError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    with Others() as others:
        rows = measure(ways, arguments.turns)
    print(machine([others.share], kept=False))
    print(
        f"- a Llama of {work.layers} layers, hidden size {work.hidden}, random float32 weights;"
        f" {work.prompts} prompts of {work.shortest} to {work.longest} tokens,"
        f" {work.new_tokens} new ones each, greedy; one thread"
    )
    if arguments.quick:
        print("- quick: a small model; these are no figures of speed")
    print(f"\n{table(rows, work)}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    slower = [ratio for what, ratio in ratios(rows).items() if what.startswith("generate_batch")]
    return 1 if arguments.check and min(slower) <= 1 else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pagedkv.bench transformers",
        description="Time generate() with a paged cache beside DynamicCache and generate_batch, in"
        " turns, on one thread. All must say the same tokens first.",
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="a small model: shows that it runs, not how fast")
    add("--turns", type=int, default=5, metavar="N", help="turns (default 5)")
    add("--json", type=Path, metavar="FILE", help="write the times to FILE too")
    add("--check", action="store_true", help="exit with 1 unless faster than generate_batch")
    return parser
