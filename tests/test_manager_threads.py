"""Long calls of a manager let other threads run, and those are refused, never raced with."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import pytest
from support.busy import refusal, repeated

from pagedkv import Batch, KVCacheManager, PagedKvError

LONG = 4_000_000  # tokens: a call with so many takes milliseconds


@contextmanager
def busy(m: KVCacheManager) -> Iterator[None]:
    """Another thread adds, computes and frees one long sequence again and again."""
    tokens = np.arange(LONG, dtype=np.int32)

    def again(call: Callable[..., Any], *args: object) -> Any:
        while True:  # a call of the other thread may be in the way
            try:
                return call(*args)
            except PagedKvError as error:
                if "another thread" not in str(error):
                    raise

    def run() -> None:
        again(m.add, 1, tokens)
        again(m.acquire, [1])
        left = LONG - again(m.num_cached, 1)
        again(m.schedule, [1], [left])
        again(m.commit, [1], [left])
        again(m.free, [1])

    with repeated(run):
        yield
    m.check()


@pytest.mark.parametrize(
    ("where", "call"),
    [
        ("num_free_blocks", lambda m: m.num_free_blocks),
        ("usage", lambda m: m.usage),
        ("memory_bytes", lambda m: m.memory_bytes),
        ("num_sequences", len),
        ("contains", lambda m: 1 in m),
        ("stats", lambda m: m.stats()),
        ("take_events", lambda m: m.take_events()),
        ("probe", lambda m: m.probe([1, 2, 3])),
        ("fit", lambda m: m.fit([], [])),
        ("schedule", lambda m: m.schedule([], [])),
        ("evict", lambda m: m.evict(0)),
    ],
)
def test_a_busy_manager_refuses_a_second_thread(
    where: str, call: Callable[[KVCacheManager], object]
) -> None:
    m = KVCacheManager(LONG // 16, 16)
    with busy(m):
        message = refusal(lambda: call(m))
    assert message == (
        f"[KVCacheManager.{where}] called while another thread is inside a call; "
        "expected one caller at a time"
    )


def test_a_busy_manager_can_be_shown() -> None:
    m = KVCacheManager(LONG // 16, 16)
    shown = set()
    deadline = time.monotonic() + 30
    with busy(m):
        while not any("busy" in text for text in shown) and time.monotonic() < deadline:
            shown.add(repr(m))
    assert f"KVCacheManager(num_blocks={LONG // 16}, busy)" in shown


def test_what_another_thread_writes_into_the_arguments_does_not_matter() -> None:
    tokens = np.zeros(LONG, np.int32)

    def scribble() -> None:
        tokens[:] += 1

    with repeated(scribble):
        for seq_id in range(3):
            m = KVCacheManager(LONG // 16, 16)
            m.add(seq_id, tokens)
            m.acquire([seq_id])
            m.schedule([seq_id], [LONG])
            m.commit([seq_id], [LONG])
            m.check()


def test_a_batch_is_filled_by_one_manager_at_a_time() -> None:
    first, second = (KVCacheManager(LONG // 16, 16) for _ in range(2))
    batch: Batch = first.new_batch(1, LONG, LONG // 16)
    first.add(1, np.zeros(LONG, np.int32))
    first.acquire([1])

    def fill() -> None:
        with suppress(PagedKvError):  # the test looks at it
            first.schedule([1], [LONG], out=batch)
            first.truncate([1], [0])

    with repeated(fill):
        for call in (lambda: second.schedule([], [], out=batch), lambda: batch.num_seqs):
            assert "called while another thread is inside a call" in refusal(call)
        assert repr(batch).startswith("Batch(groups=1")
    second.check()
