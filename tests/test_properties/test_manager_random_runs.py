"""Long seeded runs of KVCacheManager beside the plain model, with calls in an engine's mix.

Where the state machine finds small strange cases, these reach full pools, deep sharing and much
eviction. `PAGEDKV_TEST_RULES=5000000` runs as many calls.
"""

import os
from typing import Any

import numpy as np
import pytest
from support.manager_pair import Pair

CALLS = int(os.environ.get("PAGEDKV_TEST_RULES") or 0) or (
    50_000 if os.environ.get("HYPOTHESIS_PROFILE") == "ci" else 5_000
)
RUN = 500  # calls on one manager
TEXTS = ([1] * 20, list(range(24)), [1, 1, 1, 1, 2, 2, 2, 2, 1, 1, 1, 1], [])
WEIGHTS = {
    "admit": 14,
    "prefill": 12,
    "decode": 16,
    "step": 12,
    "schedule": 6,
    "commit": 6,
    "append": 4,
    "truncate": 5,
    "accept": 4,
    "fork": 6,
    "preempt": 4,
    "acquire": 8,
    "free": 9,
    "hold": 2,
    "release": 3,
    "pin": 2,
    "unpin": 3,
    "swap_out": 3,
    "swap_in": 5,
    "probe": 3,
    "evict": 1,
    "compact": 2,
    "reset": 0.3,
    "wrong": 2,
}


class Run:
    """One manager and its model under random calls."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.pair = Pair(
            int(rng.integers(3, 40)),
            int(rng.integers(1, 5)),
            num_host_blocks=int(rng.integers(0, 12)),
            prefix_caching=bool(rng.random() < 0.9),
            partial_reuse=bool(rng.random() < 0.7),
            watermark=float(rng.choice([0.0, 0.0, 0.15])),
            null_block=bool(rng.random() < 0.3),
        )
        self.both = self.pair.both
        self.next_id = 0
        self.names = list(WEIGHTS)
        chances = np.array([WEIGHTS[name] for name in self.names])
        self.chances = chances / chances.sum()

    def call(self) -> None:
        name = str(self.rng.choice(self.names, p=self.chances))
        getattr(self, name)()
        self.pair.agree()

    # --- what calls are about ---

    def below(self, end: int) -> int:
        return int(self.rng.integers(end))

    def ids(self, *statuses: str, most: int = 4) -> list[int]:
        fitting = [i for i, s in self.pair.sequences.items() if s.status in statuses]
        self.rng.shuffle(fitting)
        return fitting[: 1 + self.below(most)]

    def prompt(self) -> list[int]:
        text = TEXTS[self.below(len(TEXTS))]
        end = self.rng.integers(0, 3, self.below(4)).tolist()
        return [*text[: self.below(len(text) + 1)], *end]

    def salt(self) -> bytes:
        return b"tenant" if self.rng.random() < 0.15 else b""

    def extras(self) -> tuple[Any, ...]:
        if self.rng.random() < 0.8:
            return ()
        return ((self.below(8), 1 + self.below(4), [b"cat", b"dog"][self.below(2)]),)

    def fill(self, name: str, *args: Any, **kwargs: Any) -> None:
        pad_to = 6 if self.rng.random() < 0.2 else None
        self.pair.both_fill(self.rng.random() < 0.7, name, *args, pad_to=pad_to, **kwargs)

    # --- calls ---

    def admit(self) -> None:
        if len(self.pair.sequences) >= 8:
            return
        self.next_id += 1
        options: dict[str, Any] = {"salt": self.salt(), "extras": self.extras()}
        if self.rng.random() < 0.2:
            options["priority"] = self.below(101)
        if self.rng.random() < 0.15:
            options["ttl"] = 1 + self.below(4)
        if self.rng.random() < 0.1:
            options["reuse"] = False
        if self.rng.random() < 0.1:
            options["store"] = False
        self.both("add", self.next_id, self.prompt(), **options)
        if self.rng.random() < 0.8:
            self.both("acquire", [self.next_id])

    def prefill(self) -> None:
        ids = self.ids("running", most=3)
        found = [self.pair.sequences[i] for i in ids]
        most = [3, 8, 100][self.below(3)]
        counts = [min(max(len(s.tokens) - s.scheduled, 0), most) for s in found]
        self.both("fit", ids, counts)
        self.fill("schedule", ids, counts)
        if self.rng.random() < 0.9:
            self.both("commit", ids, [s.scheduled - s.committed for s in found])

    def decode(self) -> None:
        ids = self.ids("running")
        self.fill("schedule", ids, [1] * len(ids))
        found = [self.pair.sequences[i] for i in ids]
        ready = [i for i, s in zip(ids, found, strict=True) if s.scheduled > s.committed]
        self.both("commit", ready, [1] * len(ready))
        self.both("append", ready, self.rng.integers(0, 2, len(ready)).tolist(), [1] * len(ready))

    def step(self) -> None:
        ids = self.ids("running")
        ids = [
            i for i in ids if self.pair.sequences[i].scheduled > self.pair.sequences[i].committed
        ]
        for _ in range(1 + self.below(4)):
            self.fill("step", ids, self.rng.integers(0, 2, len(ids)).tolist())

    def schedule(self) -> None:
        ids = self.ids("running")
        counts = [self.below(5) for _ in ids]
        self.fill("schedule", ids, counts, lookahead=int(self.rng.choice([0, 0, 1, 6])))

    def commit(self) -> None:
        ids = self.ids("running")
        found = [self.pair.sequences[i] for i in ids]
        self.both("commit", ids, [self.below(s.scheduled - s.committed + 1) for s in found])

    def append(self) -> None:
        ids = self.ids("waiting", "running", "swapped")
        counts = [self.below(4) for _ in ids]
        self.both("append", ids, self.rng.integers(0, 2, sum(counts)).tolist(), counts)

    def truncate(self) -> None:
        ids = self.ids("waiting", "running", most=2)
        self.both("truncate", ids, [self.below(self.pair.sequences[i].scheduled + 3) for i in ids])

    def accept(self) -> None:
        ids = self.ids("running", most=2)
        paths = []
        for i in ids:
            s = self.pair.sequences[i]
            drafts = s.scheduled - s.committed
            known = min(max(len(s.tokens) - s.committed, 0), drafts)
            free = [o for o in range(known, drafts) if self.rng.random() < 0.5]
            paths.append([*range(known), *free])
        self.both("accept", ids, paths)

    def fork(self) -> None:
        for i in self.ids("running", "waiting", most=1):
            if len(self.pair.sequences) < 8:
                self.next_id += 1
                self.both("fork", i, self.next_id)

    def preempt(self) -> None:
        self.both("preempt", self.ids("running", most=2))

    def acquire(self) -> None:
        self.both("acquire", self.ids("waiting"))

    def free(self) -> None:
        self.both("free", self.ids("waiting", "running", "running", "swapped", most=3))

    def hold(self) -> None:
        for i in self.ids("running", most=1):
            self.both("hold", i, self.below(self.pair.sequences[i].scheduled + 2))

    def release(self) -> None:
        for lease in list(self.pair.model.leases)[:1]:
            self.both("release", lease)

    def pin(self) -> None:
        for i in self.ids("running", most=1):
            self.both("pin", i)

    def unpin(self) -> None:
        for i in list(self.pair.model.pins)[:1]:
            self.both("unpin", i)

    def swap_out(self) -> None:
        self.both("swap_out", self.ids("running", most=2))

    def swap_in(self) -> None:
        self.both("swap_in", self.ids("swapped", most=2))

    def probe(self) -> None:
        self.both("probe", self.prompt(), salt=self.salt(), extras=self.extras())

    def evict(self) -> None:
        self.both("evict", self.below(4))

    def compact(self) -> None:
        self.both("compact")

    def reset(self) -> None:
        self.both("reset")

    def wrong(self) -> None:
        """Ids that are not there, twice there, or in any state."""
        ids = [self.below(self.next_id + 2) for _ in range(1 + self.below(3))]
        name = ["acquire", "preempt", "swap_out", "swap_in", "free"][self.below(5)]
        if self.rng.random() < 0.5:
            self.both(name, ids)
        else:
            self.both(["commit", "fit"][self.below(2)], ids, [self.below(4) for _ in ids])


@pytest.mark.parametrize("_part", range(CALLS // RUN))
def test_a_random_run_decides_as_the_model_does(_part: int, rng: np.random.Generator) -> None:
    run = Run(rng)
    for _ in range(RUN):
        run.call()
