"""`python -m pagedkv.bench torch-calls`: what a call costs from torch, of one token, so that little
else is timed: of arrays, of tensors, through torch's dispatcher, and beside torch's operations."""

from __future__ import annotations

import argparse
import importlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import repeat
from pathlib import Path
from typing import Any

import pagedkv
from pagedkv import ops
from pagedkv.bench.figure import Bench, Contest, Figure, Scale, require
from pagedkv.bench.table import machine, table
from pagedkv.bench.timing import measure, one_processor

__all__ = ["benches", "run"]

Call = Callable[[], object]


def run(words: Sequence[str]) -> int:
    """Prints the table of every way to call."""
    arguments = _parser().parse_args(words)
    scale = Scale(tokens=1, dim=64, calls=20 if arguments.quick else 1000, slots=16, blocks=4)
    turns = 3 if arguments.quick else arguments.turns
    torch = importlib.import_module("torch")
    threads = pagedkv.get_num_threads(), torch.get_num_threads()
    pagedkv.set_num_threads(1)
    torch.set_num_threads(1)
    try:
        with torch.no_grad(), one_processor():
            results = [(bench.figure, measure(bench, scale, turns)) for bench in benches()]
    finally:
        pagedkv.set_num_threads(threads[0])
        torch.set_num_threads(threads[1])
    print(machine([measured.others for _, measured in results], kept=True))
    print(f"- torch {torch.__version__}")
    if arguments.quick:
        print("- quick: a few turns; these are no figures of speed")
    print(f"\n{table(results, judged=not arguments.quick)}")
    if arguments.json is not None:
        figures = [
            {**asdict(figure), **asdict(measured), "share": measured.share}
            for figure, measured in results
        ]
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


def benches() -> list[Bench]:
    """Each way to call beside the one that it is built on, and beside torch's own operation."""
    return [*_write_kv(), *_paged_attention()]


def _write_kv() -> list[Bench]:
    torch, front = _modules()
    k, v = torch.randn(2, 1, 8, 64)
    k_cache, v_cache = torch.zeros(2, 4, 8, 16, 64)
    slots = torch.tensor([17])
    arrays = (k, v, k_cache, v_cache, slots)
    shown = [each.numpy() for each in arrays]
    registered = torch.ops.pagedkv.write_kv.default

    schema = "(Tensor k, Tensor v, Tensor(a!) kc, Tensor(b!) vc, Tensor slots) -> ()"
    other = torch.library.custom_op(
        "pagedkv_bench::write_kv", ops.write_kv, mutates_args=("kc", "vc"), schema=schema
    )
    rows = k_cache[1, :, 1], v_cache[1, :, 1]
    flat = k_cache.view(-1, 64), v_cache.view(-1, 64)
    places = torch.arange(8) * 16 + 8 * 16 + 1

    def copy() -> None:
        flat[0].index_copy_(0, places, k[0])
        flat[1].index_copy_(0, places, v[0])

    def check() -> None:
        for row, new in zip(rows, (k, v), strict=True):
            require(torch.equal(row, new[0]), "the row was not written")
            row.zero_()

    return _table_of(
        "write_kv",
        check,
        numpy=lambda: ops.write_kv(*shown),
        tensors=lambda: ops.write_kv(*arrays),
        registered=lambda: registered(*arrays),
        front=lambda: front.write_kv(*arrays),
        custom=lambda: other(*arrays),
        torchs=("two `index_copy_`", copy),
    )


def _paged_attention() -> list[Bench]:
    torch, front = _modules()
    q = torch.randn(1, 8, 64)
    k_cache, v_cache = torch.randn(2, 4, 8, 16, 64)
    tables = torch.tensor([[2]], dtype=torch.int32)
    lens = torch.tensor([5], dtype=torch.int32)
    arrays = (q, k_cache, v_cache, tables, lens)
    shown = [each.numpy() for each in arrays]
    registered = torch.ops.pagedkv.paged_attention.default
    schema = "(Tensor q, Tensor kc, Tensor vc, Tensor tables, Tensor lens) -> Tensor"
    other = torch.library.custom_op(
        "pagedkv_bench::paged_attention", ops.paged_attention, mutates_args=(), schema=schema
    )
    attention = torch.nn.functional.scaled_dot_product_attention
    dense = q[:, :, None], k_cache[2:3, :, :5], v_cache[2:3, :, :5]
    expected = attention(*dense)[:, :, 0]
    given: list[Any] = [None]

    def keeping(call: Callable[[], Any]) -> Call:
        def kept() -> None:
            given[0] = call()

        return kept

    def check() -> None:
        out = torch.as_tensor(given[0]).view(expected.shape)
        require(torch.allclose(out, expected, atol=1e-5), "the result is wrong")

    return _table_of(
        "paged_attention",
        check,
        numpy=keeping(lambda: ops.paged_attention(*shown)),
        tensors=keeping(lambda: ops.paged_attention(*arrays)),
        registered=keeping(lambda: registered(*arrays)),
        front=keeping(lambda: front.paged_attention(*arrays)),
        custom=keeping(lambda: other(*arrays)),
        torchs=("`scaled_dot_product_attention`", keeping(lambda: attention(*dense))),
    )


def _table_of(
    name: str,
    check: Callable[[], None],
    *,
    numpy: Call,
    tensors: Call,
    registered: Call,
    front: Call,
    custom: Call,
    torchs: tuple[str, Call],
) -> list[Bench]:
    """The figures of one operation."""
    ops_name, torch_name = f"pagedkv.ops.{name}", f"torch.ops.pagedkv.{name}"

    def bench(title: str, ours: Call, floor_title: str, floor: Call) -> Bench:
        def prepare(scale: Scale) -> Contest:
            return Contest(
                scale.calls, _often(floor, scale.calls), _often(ours, scale.calls), check
            )

        return Bench(Figure(title, floor_title), prepare)

    return [
        bench(f"{ops_name}, tensors", tensors, "the same, NumPy arrays", numpy),
        bench(torch_name, registered, f"{ops_name}, tensors", tensors),
        bench(f"pagedkv.integrations.torch.{name}", front, f"{ops_name}, tensors", tensors),
        bench(f"{name} by `torch.library.custom_op`", custom, torch_name, registered),
        bench(torch_name, registered, f"torch: {torchs[0]}", torchs[1]),
    ]


def _often(call: Call, times: int) -> Callable[[], None]:
    def calls() -> None:
        for _ in repeat(None, times):
            call()

    return calls


def _modules() -> tuple[Any, Any]:
    return importlib.import_module("torch"), importlib.import_module("pagedkv.integrations.torch")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pagedkv.bench torch-calls",
        description="Time calls of one token from torch: each way beside the one below it.",
    )
    parser.add_argument("--quick", action="store_true", help="shows that it runs, not how fast")
    parser.add_argument("--turns", type=int, default=15, metavar="N", help="turns (default 15)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE too")
    return parser
