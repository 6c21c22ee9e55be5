"""KVCacheManager against a plain model of it, over every operation."""

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from support.manager_model import Batch as ModelBatch
from support.manager_model import ManagerModel

from pagedkv import KVCacheManager, PagedKvError, PoolExhaustedError

IDS = st.integers(0, 7)
TOKENS = st.lists(st.integers(0, 1), max_size=4)
# Prompts that begin alike: pieces of a few texts, one after the other.
PROMPTS = st.builds(
    lambda start, end: start + end,
    st.sampled_from([[], [1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 3, 4, 1, 2, 3, 4, 9]]),
    TOKENS,
)
EXTRAS = st.sampled_from([(), (), (), ((2, 3, b"cat"),), ((2, 3, b"dog"),), ((6, 1, b""),)])
SALTS = st.sampled_from([b"", b"", b"tenant"])
COUNTS = st.integers(0, 5)


def plain(result: Any) -> Any:
    """A result of either side as values that compare."""
    if isinstance(result, np.ndarray):
        values = result.tolist()
        return [tuple(v) for v in values] if result.ndim == 2 else values
    return result


class Manager(RuleBasedStateMachine):
    @initialize(
        num_blocks=st.integers(2, 14),
        block_size=st.sampled_from([1, 2, 3, 4]),
        prefix_caching=st.sampled_from([True, True, True, True, False]),
        partial_reuse=st.booleans(),
        watermark=st.sampled_from([0.0, 0.0, 0.2]),
        null_block=st.booleans(),
    )
    def make(self, num_blocks: int, block_size: int, **options: Any) -> None:
        options["num_host_blocks"] = 6
        self.real = KVCacheManager(num_blocks, block_size, **options)
        self.model = ManagerModel(num_blocks, block_size, **options)
        self.padding = 0 if options["null_block"] else -1
        self.outs = [self.real.new_batch(8, 64, 40) for _ in range(2)]
        self.next_out = 0

    # --- one call on both ---

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
        assert real.positions.tolist() == model.positions
        assert real.slot_mapping.tolist() == model.slot_mapping
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

    def draw_ids(self, data: st.DataObject, *statuses: str) -> list[int]:
        """Some sequences, mostly ones that the call takes."""
        fitting = [i for i, s in self.model.sequences.items() if s.status in statuses]
        if not fitting or data.draw(st.integers(0, 19), "strange ids") == 0:
            return data.draw(st.lists(IDS, max_size=3), "ids")
        return data.draw(
            st.lists(st.sampled_from(fitting), min_size=1, max_size=4, unique=True), "ids"
        )

    def draw_id(self, data: st.DataObject, *statuses: str) -> int:
        return (self.draw_ids(data, *statuses) or [0])[0]

    def draw_counts(self, data: st.DataObject, ids: list[int], counts: Any = COUNTS) -> list[int]:
        return data.draw(st.lists(counts, min_size=len(ids), max_size=len(ids)), "counts")

    # --- every operation ---

    @rule(
        seq_id=IDS,
        tokens=PROMPTS,
        salt=SALTS,
        extras=EXTRAS,
        priority=st.sampled_from([0, 0, 0, 50, 100]),
        ttl=st.sampled_from([None, None, None, 1, 3]),
        reuse=st.sampled_from([True, True, True, False]),
        store=st.sampled_from([True, True, True, False]),
        acquired=st.booleans(),
    )
    def add(self, seq_id: int, tokens: list[int], acquired: bool, **options: Any) -> None:
        if self.both("add", seq_id, tokens, **options) is None and acquired:
            self.both("acquire", [seq_id])

    @rule(data=st.data())
    def acquire(self, data: st.DataObject) -> None:
        self.both("acquire", self.draw_ids(data, "waiting"))

    @rule(data=st.data())
    def fit(self, data: st.DataObject) -> None:
        ids = self.draw_ids(data, "running")
        self.both("fit", ids, self.draw_counts(data, ids))

    @rule(
        data=st.data(),
        lookahead=st.sampled_from([0, 0, 0, 1, 5]),
        out=st.booleans(),
        pad_to=st.sampled_from([None, None, 5]),
        written=st.booleans(),
    )
    def schedule(
        self, data: st.DataObject, lookahead: int, out: bool, pad_to: int | None, written: bool
    ) -> None:
        ids = self.draw_ids(data, "running")
        counts = self.draw_counts(data, ids)
        fits = self.both("fit", ids, counts)
        self.both_fill(out, "schedule", ids, counts, lookahead=lookahead, pad_to=pad_to)
        if written and fits == len(ids) and lookahead == 0:
            self.both("commit", ids, counts)

    @rule(data=st.data())
    def schedule_and_commit_the_prompt(self, data: st.DataObject) -> None:
        ids = self.draw_ids(data, "running")
        if any(i not in self.model.sequences for i in ids):
            return
        found = [self.model.sequences[i] for i in ids]
        counts = [max(len(s.tokens) - s.scheduled, 0) for s in found]
        self.both_fill(True, "schedule", ids, counts)
        self.both("commit", ids, [s.scheduled - s.committed for s in found])

    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        ids = self.draw_ids(data, "running")
        self.both("commit", ids, self.draw_counts(data, ids, st.integers(0, 2)))

    @rule(data=st.data())
    def append(self, data: st.DataObject) -> None:
        ids = self.draw_ids(data, "waiting", "running", "swapped")
        counts = self.draw_counts(data, ids, st.integers(0, 3))
        token = st.integers(0, 1)
        tokens = data.draw(st.lists(token, min_size=sum(counts), max_size=sum(counts)), "tokens")
        self.both("append", ids, tokens, counts)

    @rule(data=st.data(), out=st.booleans(), pad_to=st.sampled_from([None, None, 3]))
    def step(self, data: st.DataObject, out: bool, pad_to: int | None) -> None:
        ids = self.draw_ids(data, "running")
        for _ in range(data.draw(st.integers(1, 4), "steps")):
            tokens = self.draw_counts(data, ids, st.integers(0, 1))
            self.both_fill(out, "step", ids, tokens, pad_to=pad_to)

    @rule(data=st.data())
    def truncate(self, data: st.DataObject) -> None:
        ids = self.draw_ids(data, "waiting", "running")
        self.both("truncate", ids, self.draw_counts(data, ids, st.integers(0, 12)))

    @rule(data=st.data())
    def accept(self, data: st.DataObject) -> None:
        seq_id = self.draw_id(data, "running")
        s = self.model.sequences.get(seq_id)
        drafts = s.scheduled - s.committed if s else 0
        offsets = st.integers(0, max(drafts - 1, 0))
        path = sorted(data.draw(st.sets(offsets, max_size=drafts), "path"))
        self.both("accept", [seq_id], [path])

    @rule(data=st.data(), new_id=IDS)
    def fork(self, data: st.DataObject, new_id: int) -> None:
        self.both("fork", self.draw_id(data, "waiting", "running"), new_id)

    @rule(data=st.data())
    def preempt(self, data: st.DataObject) -> None:
        self.both("preempt", self.draw_ids(data, "running"))

    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        self.both("free", self.draw_ids(data, "waiting", "running", "swapped"))

    @rule(data=st.data(), num_tokens=st.integers(0, 10))
    def hold(self, data: st.DataObject, num_tokens: int) -> None:
        self.both("hold", self.draw_id(data, "running"), num_tokens)

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self.both("release", data.draw(st.sampled_from([*self.model.leases, 0, 1]), "lease"))

    @rule(data=st.data())
    def pin(self, data: st.DataObject) -> None:
        self.both("pin", self.draw_id(data, "running"))

    @rule(data=st.data())
    def unpin(self, data: st.DataObject) -> None:
        self.both("unpin", data.draw(st.sampled_from([*self.model.pins, 0, 1]), "pinned"))

    @rule(data=st.data())
    def swap_out(self, data: st.DataObject) -> None:
        self.both("swap_out", self.draw_ids(data, "running"))

    @rule(data=st.data())
    def swap_in(self, data: st.DataObject) -> None:
        self.both("swap_in", self.draw_ids(data, "swapped"))

    @rule(tokens=PROMPTS, salt=SALTS, extras=EXTRAS)
    def probe(self, tokens: list[int], salt: bytes, extras: Any) -> None:
        self.both("probe", tokens, salt=salt, extras=extras)

    @rule(n=st.integers(0, 3))
    def evict(self, n: int) -> None:
        self.both("evict", n)

    @rule()
    def compact(self) -> None:
        self.both("compact")

    @rule()
    def reset(self) -> None:
        self.both("reset")

    # --- after each ---

    @invariant()
    def both_agree(self) -> None:
        real, model = self.real, self.model
        assert real.num_free_blocks == model.num_free_blocks
        stats = real.stats()
        assert stats["num_cached_blocks"] == len(model.node_of)
        assert stats["evictions"] == model.evictions
        assert stats["steps"] == model.steps
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

    @invariant()
    def the_books_are_right(self) -> None:
        self.real.check()


TestManager = Manager.TestCase
TestManager.settings = settings(settings.default, stateful_step_count=60)
