"""What KVCacheManager refuses, and that nothing has changed then."""

import pickle
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support.errors import refuses
from support.managers import prefill
from support.state import state_of

from pagedkv import (
    CapacityError,
    FullAttention,
    KVCacheManager,
    PoolError,
    PoolExhaustedError,
    SequenceError,
    ShapeError,
    SlidingWindow,
    Ssm,
    UnsupportedError,
)


def crowded() -> KVCacheManager:
    """Sequence 1 waits, 2 and 3 run, 4 is swapped out."""
    m = KVCacheManager(16, 4, num_host_blocks=8)
    m.add(1, range(5))
    prefill(m, 2, range(10, 16))
    prefill(m, 3, range(20, 28))
    prefill(m, 4, range(30, 33))
    m.swap_out([4])
    return m


BATCH_CALLS: dict[str, Callable[[KVCacheManager, Any], Any]] = {
    "acquire": lambda m, ids: m.acquire(ids),
    "fit": lambda m, ids: m.fit(ids, [1] * len(ids)),
    "schedule": lambda m, ids: m.schedule(ids, [1] * len(ids)),
    "commit": lambda m, ids: m.commit(ids, [0] * len(ids)),
    "append": lambda m, ids: m.append(ids, [1] * len(ids)),
    "step": lambda m, ids: m.step(ids, [1] * len(ids)),
    "truncate": lambda m, ids: m.truncate(ids, [1] * len(ids)),
    "accept": lambda m, ids: m.accept(ids, [[]] * len(ids)),
    "preempt": lambda m, ids: m.preempt(ids),
    "free": lambda m, ids: m.free(ids),
    "swap_out": lambda m, ids: m.swap_out(ids),
    "swap_in": lambda m, ids: m.swap_in(ids),
}
FITS = {"acquire": 1, "swap_in": 4}  # others take sequence 2


@pytest.mark.parametrize("name", BATCH_CALLS)
def test_an_unknown_sequence_is_refused(name: str) -> None:
    m = crowded()
    with refuses(SequenceError, f"KVCacheManager.{name}", "sequence 99 is unknown", unchanged=m):
        BATCH_CALLS[name](m, [FITS.get(name, 2), 99])
    with pytest.raises(KeyError):
        BATCH_CALLS[name](m, [99])


@pytest.mark.parametrize("name", BATCH_CALLS)
def test_a_sequence_that_is_named_twice_is_refused(name: str) -> None:
    m = crowded()
    one = FITS.get(name, 2)
    with refuses(SequenceError, f"KVCacheManager.{name}", f"{one} is named twice", unchanged=m):
        BATCH_CALLS[name](m, [one, one])


@pytest.mark.parametrize("name", sorted(set(BATCH_CALLS) - {"append", "free", "truncate"}))
@pytest.mark.parametrize("seq_id", [1, 2, 4])
def test_a_sequence_in_another_state_is_refused(name: str, seq_id: int) -> None:
    m = crowded()
    if seq_id == FITS.get(name, 2):
        return
    with refuses(SequenceError, f"KVCacheManager.{name}", f"sequence {seq_id} is", unchanged=m):
        BATCH_CALLS[name](m, [FITS.get(name, 3), seq_id])


@pytest.mark.parametrize("name", BATCH_CALLS)
@pytest.mark.parametrize(
    "ids", ["12", [[1]], [1.0], [-1], [2**64], [True], np.zeros((1, 1), np.int64), [None]]
)
def test_ids_are_a_list_or_an_array_of_integers(name: str, ids: Any) -> None:
    m = crowded()
    with pytest.raises((ShapeError, TypeError)):
        BATCH_CALLS[name](m, ids)
    m.check()


@pytest.mark.parametrize("name", BATCH_CALLS)
@pytest.mark.parametrize("kind", [np.uint64, np.int64, np.int32, np.uint8, list])
def test_ids_may_be_integers_of_any_kind(name: str, kind: Any) -> None:
    m = crowded()
    ids = [FITS.get(name, 2)]
    if name == "step":
        m.schedule([2], [1])
    BATCH_CALLS[name](m, ids if kind is list else np.array(ids, kind))
    m.check()


def test_ids_go_up_to_64_bits() -> None:
    m = KVCacheManager(4)
    top = 2**64 - 1
    m.add(top, [1])
    m.acquire([top])
    m.schedule(np.array([top], np.uint64), [1])
    assert top in m
    assert -1 not in m
    assert 2**64 not in m


@pytest.mark.parametrize("name", ["fit", "schedule", "commit", "truncate"])
@pytest.mark.parametrize("counts", [[], [1, 2], [-1], [2**31], [0.5], 1])
def test_counts_are_one_a_sequence_and_not_negative(name: str, counts: Any) -> None:
    m = crowded()
    before = state_of(m)
    with pytest.raises((ShapeError, TypeError)):
        getattr(m, name)([2], counts)
    assert state_of(m) == before


def test_commit_goes_as_far_as_what_is_scheduled() -> None:
    m = crowded()
    m.schedule([2, 3], [2, 2])
    with refuses(CapacityError, "KVCacheManager.commit", "sequence 3 and 3 tokens", unchanged=m):
        m.commit([2, 3], [2, 3])


def test_step_needs_a_token_that_is_scheduled() -> None:
    m = crowded()
    m.schedule([2], [1])
    with refuses(CapacityError, "KVCacheManager.step", "sequence 3", unchanged=m):
        m.step([2, 3], [1, 1])


def test_append_counts_its_tokens() -> None:
    m = crowded()
    for tokens, counts in [([1], None), ([1, 2, 3], [1, 1]), ([1], [1, 1]), ([1, 2], [2])]:
        with refuses(ShapeError, "KVCacheManager.append", unchanged=m):
            m.append([2, 3], tokens, counts)


@pytest.mark.parametrize("tokens", [[2**31], [-(2**31) - 1], [0.5], ["a"], [[1]], 5, None])
def test_tokens_are_integers_of_32_bits(tokens: Any) -> None:
    m = crowded()
    before = state_of(m)
    for call in (lambda: m.add(9, tokens), lambda: m.probe(tokens)):
        with pytest.raises((ShapeError, TypeError)):
            call()
    assert state_of(m) == before


def test_tokens_of_64_bits_are_taken_when_they_fit() -> None:
    m = KVCacheManager(4)
    m.add(1, np.array([2**31 - 1, -(2**31)], np.int64))
    m.add(2, np.arange(10)[::2])
    assert (m.num_tokens(1), m.num_tokens(2)) == (2, 5)


@pytest.mark.parametrize(
    "options",
    [
        {"priority": 101},
        {"priority": -1},
        {"ttl": -1},
        {"salt": "text"},
        {"extras": [(1, 0, b"")]},
        {"extras": [(-1, 2, b"")]},
        {"extras": [(1, 2)]},
        {"extras": [5]},
        {"extras": [(1, 2, 3)]},
        {"extras": [(2**64, 2, b"")]},
        {"extras": 5},
    ],
)
def test_add_refuses_options_out_of_range(options: dict[str, Any]) -> None:
    m = crowded()
    before = state_of(m)
    with pytest.raises((ShapeError, TypeError)):
        m.add(9, [1], **options)
    assert state_of(m) == before


def test_ids_of_sequences_are_taken_once() -> None:
    m = crowded()
    with refuses(SequenceError, "KVCacheManager.add", "sequence 2 is there", unchanged=m):
        m.add(2, [1])
    with refuses(SequenceError, "KVCacheManager.fork", "sequence 3 is there", unchanged=m):
        m.fork(2, 3)
    m.free([2])
    m.add(2, [1])


def test_one_sequence_calls_refuse_what_they_cannot_take() -> None:
    m = crowded()
    for name, args in [
        ("fork", (99, 100)),
        ("fork", (4, 100)),
        ("hold", (99, 1)),
        ("hold", (1, 0)),
        ("hold", (4, 1)),
        ("pin", (99,)),
        ("pin", (1,)),
        ("unpin", (2,)),
        ("release", (1,)),
        ("num_tokens", (99,)),
        ("num_scheduled", (99,)),
        ("num_committed", (99,)),
        ("num_cached", (99,)),
        ("block_ids", (99,)),
    ]:
        with refuses(SequenceError, f"KVCacheManager.{name}", unchanged=m):
            getattr(m, name)(*args)
    with pytest.raises(IndexError):
        m.block_ids(2, 1)
    with pytest.raises(ShapeError):
        m.evict(-1)


def test_reset_refuses_while_anything_is_held() -> None:
    m = KVCacheManager(8, 4)
    prefill(m, 1, range(8))
    with refuses(PoolError, "KVCacheManager.reset", "2 blocks are held", unchanged=m):
        m.reset()
    m.free([1])
    m.reset()
    assert m.stats().num_cached_blocks == 0
    assert m.probe(range(9)) == 0


def test_an_unknown_policy_is_named_with_those_there_are() -> None:
    with refuses(UnsupportedError, "KVCacheManager", "eviction 'mru'", "lru"):
        KVCacheManager(4, eviction="mru")


def test_a_manager_does_not_pickle() -> None:
    m = crowded()
    for thing in (m, m.new_batch(1, 1, 1), FullAttention()):
        with pytest.raises(TypeError):
            pickle.dumps(thing)


MIXES = {
    "full": [FullAttention(block_size=2)],
    "window": [SlidingWindow(4, 1, block_size=2)],
    "hybrid": [
        FullAttention(block_size=2),
        SlidingWindow(3, block_size=2),
        Ssm(4, block_size=2),
    ],
}


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("num_blocks", range(1, 40))
def test_exhaustion_at_any_point_changes_nothing(mix: str, num_blocks: int) -> None:
    """One run of calls in every size of pool: whichever call is the first that does not fit."""
    m = KVCacheManager(num_blocks, groups=MIXES[mix], num_host_blocks=4)

    def everything(m: KVCacheManager) -> object:
        tables = [[m.block_ids(i, g).tolist() for g in range(len(MIXES[mix]))] for i in (1, 2, 3)]
        return state_of(m), tables

    steps: list[Callable[[], Any]] = [
        lambda: m.schedule([1, 2, 3], [5, 5, 7]),
        lambda: m.commit([1, 2, 3], [5, 5, 7]),
        lambda: m.fork(1, 4),
        lambda: m.append([1, 2, 3, 4], [1, 2, 3, 4]),
        lambda: m.schedule([4, 1, 2, 3], [1, 1, 1, 1], lookahead=2),
        *[lambda i=i: m.step([1, 2, 3, 4], [i, i, i, i]) for i in range(8)],
        lambda: m.schedule([2, 3], [9, 9]),
        lambda: m.commit([1, 2, 3, 4], [1, 10, 10, 1]),
        lambda: m.swap_out([4, 1]),
        lambda: m.schedule([2, 3], [6, 6]),
        lambda: m.swap_in([1, 4]),
    ]
    for seq_id, tokens in ((1, range(5)), (2, range(5)), (3, range(7))):
        m.add(seq_id, tokens)
    m.acquire([1, 2, 3])
    for step in steps:
        before = everything(m)
        try:
            step()
        except PoolExhaustedError:
            assert everything(m) == before
            m.check()
            return
        m.check()
    assert num_blocks > 10


def test_threads_that_share_a_manager_take_turns_or_are_told() -> None:
    """From Python a call is never interrupted by another one, so that all of them come through."""
    m = KVCacheManager(400, 4)
    failed: list[BaseException] = []

    def work(first: int) -> None:
        try:
            for i in range(first, first + 50):
                prefill(m, i, [i] * 9)
                m.free([i])
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(100 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    m.check()


@pytest.mark.parametrize("priority", [-1, 101, 256, 2**70])
def test_a_priority_out_of_range_is_named(priority: int) -> None:
    m = KVCacheManager(4, 4)
    with refuses(ShapeError, "KVCacheManager.add", f"priority {priority}", "0 to 100"):
        m.add(1, [1], priority=priority)
    assert 1 not in m


def test_ids_may_be_any_number_of_64_bits() -> None:
    m = KVCacheManager(16, 4)
    ids = [0, 2**63 - 1, 2**63, 2**64 - 1]
    for seq_id in ids:
        m.add(seq_id, [1, 2])
    assert all(seq_id in m for seq_id in ids)
    assert 2**64 not in m
    m.acquire(ids)
    m.schedule(np.array(ids, np.uint64), [2] * 4)
    m.commit(ids[1:], [2] * 3)
    assert [m.num_committed(seq_id) for seq_id in ids] == [0, 2, 2, 2]
    for wrong in ([2**64], [-1], [1, 2**64], np.array([-1])):
        with refuses(
            ShapeError, "KVCacheManager.commit", str(wrong[-1]), "unsigned integers of 64"
        ):
            m.commit(wrong, [1] * len(wrong))
    m.free(ids)
    m.check()


@pytest.mark.parametrize("token", [2**31, -(2**31) - 1, 2**63, 2**64])
def test_a_token_that_32_bits_do_not_hold_is_named(token: int) -> None:
    m = KVCacheManager(4, 4)
    given = [[1, token], [token]]
    if token < 2**63:
        given.append(np.array([1, token]))  # type: ignore[arg-type]
    for tokens in given:
        with refuses(ShapeError, "KVCacheManager.add", f"tokens with {token}", "of 32 bits"):
            m.add(1, tokens)
    for tokens in ([1.5], [1, 2.0], [1, "2"], [None]):
        with refuses(ShapeError, "KVCacheManager.add", "tokens of dtype"):
            m.add(1, tokens)
    assert len(m) == 0


def test_a_pool_that_the_index_cannot_number_is_refused() -> None:
    with refuses(CapacityError, "KVCacheManager", "num_blocks 134217729", "at most 2^27"):
        KVCacheManager(2**27 + 1, 1)
