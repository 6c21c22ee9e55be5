"""Random histories of a paged cache, against keys and values that are concatenated plainly."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support.hf_models import torch, transformers

from pagedkv.integrations.transformers import PagedCache, PagedPool

WINDOW, HEADS, DIM, BLOCK_SIZE = 6, 2, 4, 3
KINDS = ["sliding_attention", "full_attention", "sliding_attention"]


def pool() -> PagedPool:
    config = transformers.Qwen2Config(
        num_hidden_layers=len(KINDS),
        layer_types=KINDS,
        sliding_window=WINDOW,
        use_sliding_window=True,
    )
    config._attn_implementation = "eager"
    return PagedPool(config, 400, BLOCK_SIZE)


class Model:
    """A cache and the columns that it should hold: ``[layer][row]`` of one number each."""

    def __init__(self, cache: Any, rows: list[list[float]]) -> None:
        self.cache = cache
        self.rows = rows
        self.kept = 0  # columns that windows may have left: those before cannot be cropped to


class Histories(RuleBasedStateMachine):
    """Each rule does the same to a cache and to its plain model."""

    @initialize()
    def start(self) -> None:
        self.pool = pool()
        self.models = [Model(self.pool.cache(), [])]
        self.number = 0.0

    def some(self, data: Any) -> Model:
        return data.draw(st.sampled_from(self.models))

    @rule(data=st.data(), count=st.integers(1, 9), batch=st.integers(1, 3))
    def write(self, data: Any, count: int, batch: int) -> None:
        model = self.some(data)
        if model.rows:
            batch = len(model.rows) * (2 if len(model.rows) < 3 and batch == 3 else 1)
            model.rows = [list(row) for row in model.rows for _ in range(batch // len(model.rows))]
        else:
            model.rows = [[] for _ in range(batch)]
        before = len(model.rows[0])
        new = np.arange(batch * count, dtype=np.float32).reshape(batch, count) + self.number
        self.number += batch * count
        for row, numbers in zip(model.rows, new.tolist(), strict=True):
            row.extend(numbers)
        for layer, kind in enumerate(KINDS):
            keys = torch.from_numpy(new)[:, None, :, None] + torch.tensor(
                [[[[0.25]], [[0.5]]]]
            ).expand(batch, HEADS, count, DIM)
            length, offset = model.cache.get_mask_sizes(count, layer)
            got, values = model.cache.update(keys + 1000 * layer, -keys, layer)
            first = max(0, before - WINDOW + 1) if kind == "sliding_attention" else 0
            assert (offset, length) == (first, before + count - first)
            expected = np.array(model.rows, dtype=np.float32)[:, first:]
            assert got.shape == (batch, HEADS, length, DIM)
            assert np.array_equal(got[:, 0, :, 0], expected + 0.25 + 1000 * layer)
            assert np.array_equal(values[:, 1, :, DIM - 1], -expected - 0.5)
        model.kept = before

    @precondition(lambda self: any(model.rows for model in self.models))
    @rule(data=st.data())
    def reorder(self, data: Any) -> None:
        model = self.some(data)
        if model.rows:
            size = len(model.rows)
            rows = data.draw(st.lists(st.integers(0, size - 1), min_size=size, max_size=size))
            model.cache.reorder_cache(torch.tensor(rows))
            model.rows = [list(model.rows[row]) for row in rows]
            model.kept = len(model.rows[0])

    @rule(data=st.data())
    def select(self, data: Any) -> None:
        model = self.some(data)
        if model.rows:
            rows = data.draw(st.lists(st.integers(0, len(model.rows) - 1), min_size=1, max_size=3))
            model.cache.batch_select_indices(torch.tensor(rows))
            model.rows = [list(model.rows[row]) for row in rows]
            model.kept = len(model.rows[0])

    @rule(data=st.data())
    def crop(self, data: Any) -> None:
        model = self.some(data)
        if model.rows:
            length = len(model.rows[0])
            least = model.kept if length >= WINDOW else 0
            target = data.draw(st.integers(least, length))
            model.cache.crop(target - length)
            model.rows = [row[:target] for row in model.rows]
            model.kept = target

    @precondition(lambda self: len(self.models) < 4)
    @rule(data=st.data())
    def fork(self, data: Any) -> None:
        model = self.some(data)
        twin = Model(copy.deepcopy(model.cache), [list(row) for row in model.rows])
        model.kept = twin.kept = len(model.rows[0]) if model.rows else 0
        self.models.append(twin)

    @rule(data=st.data())
    def reset(self, data: Any) -> None:
        model = self.some(data)
        model.cache.reset()
        model.rows, model.kept = [], 0

    @invariant()
    def books_agree(self) -> None:
        if not hasattr(self, "models"):
            return
        self.pool.manager.check()
        for model in self.models:
            assert model.cache.get_seq_length() == (len(model.rows[0]) if model.rows else 0)
        if not any(model.rows for model in self.models):
            assert self.pool.usage == 0.0


TestHistories = Histories.TestCase


def test_a_cache_that_is_dropped_gives_everything_back() -> None:
    some = pool()
    cache = PagedCache(pool=some)
    for layer in range(len(KINDS)):
        cache.update(torch.ones(2, HEADS, 20, DIM), torch.ones(2, HEADS, 20, DIM), layer)
    assert some.usage > 0
    del cache
    assert some.usage == 0.0
