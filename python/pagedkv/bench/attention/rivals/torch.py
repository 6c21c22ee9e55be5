"""torch: scaled_dot_product_attention and flex_attention over contiguous keys and values."""

from __future__ import annotations

import time
from typing import Any

from pagedkv.bench.attention.case import Case, Floats, Raw
from pagedkv.bench.attention.entrant import SkipError
from pagedkv.bench.rivals import load

__all__ = ["Flex", "Sdpa", "require_products", "version"]


def version() -> str:
    return str(load("torch", "__version__"))


def _tensor(raw: Raw) -> Any:
    """Shares memory."""
    shared = load("torch", "from_numpy")(raw.view("int16") if raw.dtype == "uint16" else raw)
    return shared.view(load("torch", "bfloat16")) if raw.dtype == "uint16" else shared


class _Torch:
    """Its query heads of a KV head are packed as if they were queries of one head: what is faster
    than `enable_gqa`, and reads keys and values once."""

    note = ""

    def __init__(self, case: Case) -> None:
        point = case.point
        if point.is_integer:
            raise SkipError
        self.point = point
        self.k, self.v = _tensor(case.raw_k), _tensor(case.raw_v)
        # Of each sequence and head, its queries.
        q = _tensor(case.raw_q).view(
            point.num_seqs, point.num_new, point.num_kv_heads, point.group, point.head_dim
        )
        self.q = q.permute(0, 2, 3, 1, 4)
        if point.is_prefill:
            require_products(self.k.dtype)
        self.out: Any = None

    def packed(self, heads: int) -> Any:
        """``[num_seqs, heads, ..., head_dim]``, contiguous."""
        return self.q.reshape(self.point.num_seqs, heads, -1, self.point.head_dim).contiguous()

    def use_threads(self, count: int) -> None:
        load("torch", "set_num_threads")(count)

    def result(self) -> Floats:
        point = self.point
        shape = (point.num_seqs, point.num_kv_heads, point.group, point.num_new, point.head_dim)
        out = self.out.reshape(shape).permute(0, 3, 1, 2, 4).float()
        floats: Floats = out.reshape(-1, point.num_q_heads, point.head_dim).numpy()
        return floats


class Sdpa(_Torch):
    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self.attend = load("torch.nn.functional", "scaled_dot_product_attention")
        self.packed_q = self.packed(case.point.num_kv_heads)
        self.mask = None
        if case.point.is_prefill:
            self.mask = load("torch", "from_numpy")(case.mask).repeat(case.point.group, 1)

    def run(self) -> None:
        self.out = self.attend(self.packed_q, self.k, self.v, attn_mask=self.mask)


class Flex(_Torch):
    """Compiled for the shapes, and again for each number of threads."""

    def __init__(self, case: Case) -> None:
        if not case.point.flex:
            raise SkipError
        super().__init__(case)
        module = "torch.nn.attention.flex_attention"
        load("torch._dynamo", "reset")()
        self.attend = load("torch", "compile")(load(module, "flex_attention"), dynamic=False)
        self.packed_q = self.packed(case.point.num_q_heads)
        self.mask = None
        if case.point.is_prefill:
            first = case.point.num_tokens - case.point.num_new

            def sees(_batch: Any, _head: Any, query: Any, token: Any) -> Any:
                return query + first >= token

            sizes = (None, None, case.point.num_new, case.point.num_tokens)
            self.mask = load(module, "create_block_mask")(sees, *sizes, device="cpu")

    def run(self) -> None:
        self.out = self.attend(self.packed_q, self.k, self.v, block_mask=self.mask, enable_gqa=True)


def require_products(dtype: Any) -> None:
    """Raises SkipError where torch multiplies matrices of the dtype one element at a time, as on
    processors without instructions for it: prefill takes a minute a call."""
    torch_mm, ones = load("torch", "mm"), load("torch", "ones")
    load("torch", "set_num_threads")(1)

    def seconds(kind: Any) -> float:
        a = ones(256, 256, dtype=kind)
        times = []
        for _ in range(7):
            start = time.perf_counter()
            torch_mm(a, a)
            times.append(time.perf_counter() - start)
        return min(times)

    slower = seconds(dtype) / seconds(load("torch", "float32"))
    if slower > 8:
        raise SkipError(f"multiplies {dtype} {slower:.0f} times slower than float32 here")
