"""One process of `beside_torch`, run as a program: imports what it is told, in that order, and then
times what it is asked for, line by line."""

import importlib
import json
import sys
import time
from collections.abc import Callable
from typing import Any

Work = Callable[[], Any]


def pagedkv_work(threads: int) -> dict[str, Work]:
    import numpy as np

    pagedkv: Any = importlib.import_module("pagedkv")
    pagedkv.set_num_threads(threads)
    rng = np.random.default_rng(0)
    k_cache, v_cache = rng.standard_normal((2, 256, 2, 16, 128)).astype(np.float32)
    q = rng.standard_normal((4, 8, 128)).astype(np.float32)
    tables = rng.permutation(256).reshape(4, 64).astype(np.int32)
    seq_lens = np.full(4, 1024, np.int32)
    out = np.empty_like(q)
    attention = importlib.import_module("pagedkv.ops").paged_attention
    return {"attention": lambda: attention(q, k_cache, v_cache, tables, seq_lens, out=out)}


def torch_work(threads: int) -> dict[str, Work]:
    torch: Any = importlib.import_module("torch")
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    a, b = torch.randn(2, 320, 320)
    product = torch.empty_like(a)
    q, k, v = torch.randn(4, 8, 1, 128), torch.randn(4, 8, 256, 128), torch.randn(4, 8, 256, 128)
    sdpa = torch.nn.functional.scaled_dot_product_attention
    return {"matmul": lambda: torch.mm(a, b, out=product), "sdpa": lambda: sdpa(q, k, v)}


def microseconds(work: Work) -> float:
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1e6


def main() -> None:
    order, threads = sys.argv[1].split(","), int(sys.argv[2])
    works: dict[str, Work] = {}
    for name in order:
        importlib.import_module(name)
    for name in order:
        works |= {"pagedkv": pagedkv_work, "torch": torch_work}[name](threads)
    import numpy as np

    # In place of the other's work, where it is alone: the same bytes pass through the caches.
    bytes_of_others = np.ones(1 << 20)
    works["read"] = lambda: bytes_of_others.sum()
    for work in works.values():
        for _ in range(10):
            work()
    print("ready", flush=True)
    for line in sys.stdin:
        names, calls = line.split()
        times: dict[str, list[float]] = {name: [] for name in names.split(",")}
        for _ in range(int(calls)):
            for name, taken in times.items():
                taken.append(microseconds(works[name]))
        print(json.dumps(times), flush=True)


if __name__ == "__main__":
    main()
