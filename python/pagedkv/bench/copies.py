"""PagedKvCache beside memcpy of the same bytes between the same two pieces of memory."""

from __future__ import annotations

from ctypes import memmove  # what memcpy is where nothing overlaps
from itertools import repeat

import numpy as np
import numpy.typing as npt

import pagedkv
from pagedkv.bench.figure import Bench, Contest, Figure, Scale, require

__all__ = ["COPIES", "random_values"]

_Values = npt.NDArray[np.float64]

_ONE_CALL = "memcpy of the same bytes, one call"


def random_values(*shape: int) -> _Values:
    """Random bits, fresh in every run: NaNs, infinities and subnormals are among them."""
    bits = np.random.default_rng().integers(0, 2**64, shape, dtype=np.uint64)
    return bits.view(np.float64)


def same_bits(a: _Values, b: _Values) -> bool:
    return bool(np.array_equal(a.view(np.uint64), b.view(np.uint64)))


class _Fixture:
    """A cache as large as the source, full of it, and where its memory begins."""

    def __init__(self, tokens: int, dim: int, *, shuffled: bool = False) -> None:
        self.source = random_values(tokens, dim)
        self.cache = pagedkv.PagedKvCache(tokens, dim)
        self.cache.append_tensor(self.source)
        self.memory = address(self.cache.as_tensor(copy=False))
        if shuffled:
            self.cache.clear()
            order = np.random.default_rng().permutation(self.cache.num_blocks)
            self.cache._permute_blocks(order.astype(np.int32))
            self.cache.append_tensor(self.source)

    def fill_memory(self) -> None:
        memmove(self.memory, address(self.source), self.source.nbytes)

    def check(self) -> None:
        require(len(self.cache) == len(self.source), "tokens were lost")
        require(same_bits(self.cache.as_tensor(), self.source), "tokens were changed")


def address(array: _Values) -> int:
    pointer: int = array.ctypes.data
    return pointer


def _append(scale: Scale, *, one_call: bool) -> Contest:
    fixture = _Fixture(scale.tokens, scale.dim)
    cache = fixture.cache
    rows = list(fixture.source)
    size = rows[0].nbytes
    places = [(fixture.memory + i * size, address(row)) for i, row in enumerate(rows)]

    def floor() -> None:
        for to, source in places:
            memmove(to, source, size)

    def ours() -> None:
        cache.clear()
        append = cache.append
        for row in rows:
            append(row)

    return Contest(len(rows), fixture.fill_memory if one_call else floor, ours, fixture.check)


def _append_small(scale: Scale) -> Contest:
    rows = [random_values(128) for _ in range(64)]
    rounds = max(1, scale.calls // len(rows))
    cache = pagedkv.PagedKvCache(rounds * len(rows), 128)
    array = np.zeros((rounds * len(rows), 128))

    def floor() -> None:
        i = 0
        for _ in repeat(None, rounds):
            for row in rows:
                array[i] = row
                i += 1

    def ours() -> None:
        cache.clear()
        append = cache.append
        for _ in repeat(None, rounds):
            for row in rows:
                append(row)

    def check() -> None:
        expected = np.concatenate([np.stack(rows)] * rounds)
        require(same_bits(cache.as_tensor(), expected), "tokens were changed")

    return Contest(rounds * len(rows), floor, ours, check)


def _append_tensor(scale: Scale, *, shuffled: bool) -> Contest:
    fixture = _Fixture(scale.tokens, scale.dim, shuffled=shuffled)

    def ours() -> None:
        fixture.cache.clear()
        fixture.cache.append_tensor(fixture.source)

    return Contest(1, fixture.fill_memory, ours, fixture.check)


def _as_tensor(scale: Scale, *, shuffled: bool, dim: int | None = None) -> Contest:
    width = dim or scale.dim
    fixture = _Fixture(scale.tokens * scale.dim // width, width, shuffled=shuffled)
    out = np.zeros_like(fixture.source)

    def floor() -> None:
        memmove(address(out), fixture.memory, out.nbytes)

    def ours() -> None:
        fixture.cache.as_tensor(out=out)

    def check() -> None:
        require(same_bits(out, fixture.source), "as_tensor gave other values")

    return Contest(1, floor, ours, check)


def _as_tensor_warm(scale: Scale) -> Contest:
    """Small enough for a cache to keep both sides, as when one sequence's state is saved."""
    fixture = _Fixture(64, 128, shuffled=True)
    out = np.zeros_like(fixture.source)
    rounds = max(1, scale.calls // 10)

    def floor() -> None:
        for _ in repeat(None, rounds):
            np.copyto(out, fixture.source)

    def ours() -> None:
        as_tensor = fixture.cache.as_tensor
        for _ in repeat(None, rounds):
            as_tensor(out=out)

    def check() -> None:
        require(same_bits(out, fixture.source), "as_tensor gave other values")

    return Contest(rounds, floor, ours, check)


def _as_new_tensor(scale: Scale) -> Contest:
    fixture = _Fixture(scale.tokens, scale.dim)

    def floor() -> None:
        new = np.empty_like(fixture.source)
        memmove(address(new), fixture.memory, new.nbytes)

    def ours() -> None:
        fixture.cache.as_tensor()

    return Contest(1, floor, ours, fixture.check)


def _clone(scale: Scale) -> Contest:
    fixture = _Fixture(scale.tokens, scale.dim)

    def floor() -> None:
        fixture.source.copy()

    def ours() -> None:
        fixture.cache.clone()

    def check() -> None:
        copy = fixture.cache.clone()
        fixture.cache.clear()
        require(same_bits(copy.as_tensor(), fixture.source), "a clone holds other values")
        fixture.cache.append_tensor(fixture.source)

    return Contest(1, floor, ours, check)


def _view(scale: Scale) -> Contest:
    many = _Fixture(scale.tokens, scale.dim)
    few = _Fixture(16, scale.dim)

    def views(cache: pagedkv.PagedKvCache) -> None:
        as_tensor = cache.as_tensor
        for _ in repeat(None, scale.calls):
            as_tensor(copy=False)

    def check() -> None:
        require(same_bits(many.cache.as_tensor(copy=False), many.source), "a view of other values")

    return Contest(scale.calls, lambda: views(few.cache), lambda: views(many.cache), check)


COPIES = (
    Bench(
        Figure("PagedKvCache.append, 4,096 values", "memcpy of each token", least_share=0.9),
        lambda scale: _append(scale, one_call=False),
    ),
    Bench(
        Figure("PagedKvCache.append, 4,096 values", _ONE_CALL),
        lambda scale: _append(scale, one_call=True),
    ),
    Bench(
        Figure("PagedKvCache.append, 128 values", "`array[i] = row` in NumPy", most_ns=400),
        _append_small,
    ),
    Bench(
        Figure("PagedKvCache.append_tensor", _ONE_CALL, least_share=0.9),
        lambda scale: _append_tensor(scale, shuffled=False),
    ),
    Bench(
        Figure("PagedKvCache.append_tensor, shuffled blocks", _ONE_CALL, least_share=0.9),
        lambda scale: _append_tensor(scale, shuffled=True),
    ),
    Bench(
        Figure("PagedKvCache.as_tensor(out=...)", _ONE_CALL, least_share=0.9),
        lambda scale: _as_tensor(scale, shuffled=False),
    ),
    Bench(
        Figure("PagedKvCache.as_tensor(out=...), shuffled blocks", _ONE_CALL, least_share=0.9),
        lambda scale: _as_tensor(scale, shuffled=True),
    ),
    Bench(
        Figure(
            "PagedKvCache.as_tensor(out=...), shuffled, tokens of 128", _ONE_CALL, least_share=0.9
        ),
        lambda scale: _as_tensor(scale, shuffled=True, dim=128),
    ),
    Bench(
        Figure(
            "PagedKvCache.as_tensor(out=...), 64 tokens of 128, warm", "`np.copyto` of an array"
        ),
        _as_tensor_warm,
    ),
    Bench(
        Figure("PagedKvCache.as_tensor()", "`np.empty` and memcpy"),
        _as_new_tensor,
    ),
    Bench(
        Figure("PagedKvCache.as_tensor(copy=False)", "the same of 16 tokens", least_share=0.9),
        _view,
    ),
    Bench(Figure("PagedKvCache.clone()", "copy of a NumPy array"), _clone),
)
