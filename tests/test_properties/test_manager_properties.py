"""KVCacheManager against a plain model of it, over every operation.

`PAGEDKV_TEST_RULES=5000000` says how many rules are run; else the profile does, 50,000 in `ci`.
"""

import os
from collections.abc import Callable
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from support.manager_pair import Pair

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


def some(*statuses: str) -> Callable[[Any], Any]:
    """A rule that makes sense only when there are such sequences."""
    return precondition(
        lambda self: any(s.status in statuses for s in self.model.sequences.values())
    )


class Manager(RuleBasedStateMachine):
    @initialize(
        num_blocks=st.sampled_from([12, 24, 6, 16, 3, 9]),
        block_size=st.sampled_from([2, 3, 4, 1]),
        prefix_caching=st.sampled_from([True, True, True, True, False]),
        partial_reuse=st.booleans(),
        watermark=st.sampled_from([0.0, 0.0, 0.2]),
        null_block=st.booleans(),
    )
    def make(self, num_blocks: int, block_size: int, **options: Any) -> None:
        self.pair = Pair(num_blocks, block_size, num_host_blocks=6, **options)
        self.model = self.pair.model
        self.both = self.pair.both
        self.both_fill = self.pair.both_fill

    # --- what a rule is about ---

    def draw_ids(self, data: st.DataObject, *statuses: str) -> list[int]:
        """Some sequences, mostly ones that the call takes."""
        fitting = [i for i, s in self.model.sequences.items() if s.status in statuses]
        if not fitting or data.draw(st.integers(0, 40), "strange ids") == 29:
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

    @rule(seq_id=IDS, tokens=PROMPTS, salt=SALTS, out=st.booleans(), ends=st.booleans())
    def serve(self, seq_id: int, tokens: list[int], salt: bytes, out: bool, ends: bool) -> None:
        """A prompt from its start to the first token, or to its end."""
        if seq_id in self.model.sequences:
            self.both("free", [seq_id])
        self.both("add", seq_id, tokens, salt=salt)
        self.both("acquire", [seq_id])
        left = len(tokens) - self.model.sequences[seq_id].scheduled
        if self.both("fit", [seq_id], [left]) == 1:
            self.both_fill(out, "schedule", [seq_id], [left])
            self.both("commit", [seq_id], [left])
        if ends:
            self.both("free", [seq_id])

    @some("running")
    @rule(data=st.data(), new_id=IDS, counts=st.lists(st.integers(1, 3), min_size=2, max_size=2))
    def fork_and_go_on(self, data: st.DataObject, new_id: int, counts: list[int]) -> None:
        """Both of a fork write, so that one of them copies."""
        seq_id = self.draw_id(data, "running")
        if self.both("fork", seq_id, new_id) is None:
            self.both_fill(True, "schedule", [seq_id, new_id], counts)
            if data.draw(st.booleans(), "commits"):
                self.both("commit", [new_id], counts[1:])

    @some("waiting")
    @rule(data=st.data())
    def acquire(self, data: st.DataObject) -> None:
        self.both("acquire", self.draw_ids(data, "waiting"))

    @some("running")
    @rule(data=st.data())
    def fit(self, data: st.DataObject) -> None:
        ids = self.draw_ids(data, "running")
        self.both("fit", ids, self.draw_counts(data, ids))

    @some("running")
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

    @some("running")
    @rule(data=st.data())
    def schedule_and_commit_the_prompt(self, data: st.DataObject) -> None:
        ids = self.draw_ids(data, "running")
        if any(i not in self.model.sequences for i in ids):
            return
        found = [self.model.sequences[i] for i in ids]
        counts = [max(len(s.tokens) - s.scheduled, 0) for s in found]
        self.both_fill(True, "schedule", ids, counts)
        self.both("commit", ids, [s.scheduled - s.committed for s in found])

    @some("running")
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        ids = self.draw_ids(data, "running")
        self.both("commit", ids, self.draw_counts(data, ids, st.integers(0, 2)))

    @some("waiting", "running", "swapped")
    @rule(data=st.data())
    def append(self, data: st.DataObject) -> None:
        ids = self.draw_ids(data, "waiting", "running", "swapped")
        counts = self.draw_counts(data, ids, st.integers(0, 3))
        token = st.integers(0, 1)
        tokens = data.draw(st.lists(token, min_size=sum(counts), max_size=sum(counts)), "tokens")
        self.both("append", ids, tokens, counts)

    @some("running")
    @rule(data=st.data(), out=st.booleans(), pad_to=st.sampled_from([None, None, 3]))
    def step(self, data: st.DataObject, out: bool, pad_to: int | None) -> None:
        ids = self.draw_ids(data, "running")
        for _ in range(data.draw(st.integers(1, 4), "steps")):
            tokens = self.draw_counts(data, ids, st.integers(0, 1))
            self.both_fill(out, "step", ids, tokens, pad_to=pad_to)

    @some("waiting", "running")
    @rule(data=st.data())
    def truncate(self, data: st.DataObject) -> None:
        ids = self.draw_ids(data, "waiting", "running")
        self.both("truncate", ids, self.draw_counts(data, ids, st.integers(0, 12)))

    @some("running")
    @rule(data=st.data())
    def accept(self, data: st.DataObject) -> None:
        seq_id = self.draw_id(data, "running")
        s = self.model.sequences.get(seq_id)
        drafts = s.scheduled - s.committed if s else 0
        offsets = st.integers(0, max(drafts - 1, 0))
        path = sorted(data.draw(st.sets(offsets, max_size=drafts), "path"))
        self.both("accept", [seq_id], [path])

    @some("waiting", "running")
    @rule(data=st.data(), new_id=IDS)
    def fork(self, data: st.DataObject, new_id: int) -> None:
        self.both("fork", self.draw_id(data, "waiting", "running"), new_id)

    @some("running")
    @rule(data=st.data())
    def preempt(self, data: st.DataObject) -> None:
        self.both("preempt", self.draw_ids(data, "running"))

    @some("waiting", "running", "swapped")
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        self.both("free", self.draw_ids(data, "waiting", "running", "swapped"))

    @some("running")
    @rule(data=st.data(), num_tokens=st.integers(0, 10))
    def hold(self, data: st.DataObject, num_tokens: int) -> None:
        self.both("hold", self.draw_id(data, "running"), num_tokens)

    @precondition(lambda self: self.model.leases)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self.both("release", data.draw(st.sampled_from([*self.model.leases, 0, 1]), "lease"))

    @some("running")
    @rule(data=st.data())
    def pin(self, data: st.DataObject) -> None:
        self.both("pin", self.draw_id(data, "running"))

    @precondition(lambda self: self.model.pins)
    @rule(data=st.data())
    def unpin(self, data: st.DataObject) -> None:
        self.both("unpin", data.draw(st.sampled_from([*self.model.pins, 0, 1]), "pinned"))

    @some("running")
    @rule(data=st.data())
    def swap_out(self, data: st.DataObject) -> None:
        self.both("swap_out", self.draw_ids(data, "running"))

    @some("swapped")
    @rule(data=st.data())
    def swap_in(self, data: st.DataObject) -> None:
        self.both("swap_in", self.draw_ids(data, "swapped"))

    @rule(tokens=PROMPTS, salt=SALTS, extras=EXTRAS)
    def probe(self, tokens: list[int], salt: bytes, extras: Any) -> None:
        self.both("probe", tokens, salt=salt, extras=extras)

    @rule(n=st.integers(0, 3))
    def evict(self, n: int) -> None:
        self.both("evict", n)

    @some("waiting", "running", "swapped")
    @rule()
    def compact(self) -> None:
        self.both("compact")

    @precondition(lambda self: self.model.node_of)
    @rule()
    def reset(self) -> None:
        self.both("reset")

    # --- after each ---

    @invariant()
    def both_agree(self) -> None:
        self.pair.agree()


STEPS = 60
RULES = {"ci": 50_000, "long": 500_000}.get(os.environ.get("HYPOTHESIS_PROFILE", ""), 3_000)
TestManager = Manager.TestCase
TestManager.settings = settings(
    settings.default,
    max_examples=int(os.environ.get("PAGEDKV_TEST_RULES") or RULES) // STEPS,
    stateful_step_count=STEPS,
)
