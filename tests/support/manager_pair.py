"""A KVCacheManager and the plain model of it, called together."""

from collections.abc import Callable
from typing import Any

import numpy as np

from pagedkv import KVCacheManager, PagedKvError, PoolExhaustedError

from .manager_model import Batch as ModelBatch
from .manager_model import ManagerModel, Sequence


def plain(result: Any) -> Any:
    """A result of either side as values that compare."""
    if isinstance(result, np.ndarray):
        values = result.tolist()
        return [tuple(v) for v in values] if result.ndim == 2 else values
    return result


class Pair:
    def __init__(
        self, num_blocks: int, block_size: int, *, null_block: bool = False, **options: Any
    ) -> None:
        options["null_block"] = null_block
        self.real = KVCacheManager(num_blocks, block_size, **options)
        self.model = ManagerModel(num_blocks, block_size, **options)
        self.padding = 0 if null_block else -1
        self.outs = [self.real.new_batch(8, 128, 64) for _ in range(2)]
        self.next_out = 0

    @property
    def sequences(self) -> dict[int, Sequence]:
        return self.model.sequences

    def both(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """The call on both; they agree on the result or on the error, which is returned."""
        real = self.outcome(getattr(self.real, name), *args, **kwargs)
        model = self.outcome(getattr(self.model, name), *args, **kwargs)
        assert plain(real) == plain(model)
        return real

    @staticmethod
    def outcome(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return call(*args, **kwargs)
        except PoolExhaustedError as error:
            return type(error), error.needed, error.free
        except PagedKvError as error:
            return type(error)

    def both_fill(self, out: bool, name: str, *args: Any, **kwargs: Any) -> None:
        """The same for a call that fills a batch."""
        filled = {"out": self.outs[self.next_out]} if out else {}
        self.next_out = 1 - self.next_out
        pad_to = kwargs.pop("pad_to", None)
        real = self.outcome(getattr(self.real, name), *args, pad_to=pad_to, **filled, **kwargs)
        model = self.outcome(getattr(self.model, name), *args, **kwargs)
        if isinstance(model, ModelBatch):
            self.compare_batch(real, model, pad_to or 0)
        elif isinstance(model, tuple) and name == "step":
            assert real[0] is model[0]
        else:
            assert real == model

    def compare_batch(self, real: Any, model: ModelBatch, pad_to: int) -> None:
        rows = len(model.tables)
        padding = max(pad_to - rows, 0)
        starts = model.query_start_loc
        assert (real.num_seqs, real.num_new_tokens) == (rows + padding, starts[-1])
        assert real.seq_lens.tolist() == model.seq_lens + [0] * padding
        assert real.query_start_loc.tolist() == starts + starts[-1:] * padding
        behind = max(rows + padding - starts[-1], 0) if padding else 0
        assert real.positions.tolist() == model.positions + [0] * behind
        assert real.slot_mapping.tolist() == model.slot_mapping + [-1] * behind
        assert plain(real.copies) == model.copies
        assert real.max_seq_len == max(model.seq_lens, default=0)
        assert real.max_query_len == max(np.diff(starts), default=0)
        tables = [*model.tables, *[[] for _ in range(padding)]]
        for row, blocks in zip(real.block_tables.tolist(), tables, strict=True):
            assert row == blocks + [self.padding] * (len(row) - len(blocks))
        assert real.kv_indices.tolist() == [block for blocks in tables for block in blocks]
        assert real.kv_indptr.tolist() == np.cumsum([0, *map(len, tables)]).tolist()
        assert real.kv_start.tolist() == [0] * len(tables)
        size = self.model.block_size
        lasts = [
            length - (len(blocks) - 1) * size if blocks else 0
            for length, blocks in zip(model.seq_lens, model.tables, strict=True)
        ]
        assert real.kv_last_page_len.tolist() == lasts + [0] * padding

    def agree(self) -> None:
        """All that can be seen is the same, and the books are right."""
        real, model = self.real, self.model
        assert real.num_free_blocks == model.num_free_blocks
        stats = real.stats()
        assert stats.num_cached_blocks == len(model.node_of)
        assert stats.evictions == model.evictions
        assert stats.steps == model.steps
        assert len(real) == len(model.sequences)
        for seq_id, s in model.sequences.items():
            assert real.block_ids(seq_id).tolist() == s.blocks
            lengths = (len(s.tokens), s.scheduled, s.committed, s.cached)
            assert lengths == (
                real.num_tokens(seq_id),
                real.num_scheduled(seq_id),
                real.num_committed(seq_id),
                real.num_cached(seq_id),
            )
        real.check()
