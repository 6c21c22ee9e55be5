"""Sliding windows, states, and mixes of them with full attention."""

import numpy as np
import pytest
from support.errors import refuses
from support.managers import prefill, serve

from pagedkv import CapacityError, FullAttention, KVCacheManager, ShapeError, SlidingWindow, Ssm


def decode(m: KVCacheManager, seq_id: int, tokens: list[int]) -> None:
    for token in tokens:
        m.append([seq_id], [token])
        m.schedule([seq_id], [1])
        m.commit([seq_id], [1])


@pytest.mark.parametrize(("window", "sinks"), [(1, 0), (4, 0), (7, 0), (16, 5), (33, 4)])
def test_the_memory_of_a_window_is_bounded_by_it(window: int, sinks: int) -> None:
    size = 4
    m = KVCacheManager(200, groups=[SlidingWindow(window, sinks, block_size=size)])
    m.add(1, [0])
    m.acquire([1])
    m.schedule([1], [1])
    most = -(-sinks // size) + (window - 2) // size + 2
    for step in range(500):
        m.step([1], [step])
        held = m.block_ids(1)
        assert (held != -1).sum() <= max(most, 1)
    assert len(held) == -(-501 // size)
    m.check()


def test_a_long_sequence_lives_in_a_pool_of_the_size_of_its_window() -> None:
    m = KVCacheManager(6, groups=[SlidingWindow(16, block_size=4)])
    m.add(1, [0])
    m.acquire([1])
    m.schedule([1], [1])
    for step in range(2000):
        m.step([1], [step % 5])
    m.check()


def test_sinks_stay_and_what_lies_between_is_a_hole() -> None:
    m = KVCacheManager(20, groups=[SlidingWindow(4, sink_tokens=3, block_size=2)])
    prefill(m, 1, range(12))
    # The next token is at 12 and sees 9 to 12, and 0 to 2.
    assert (m.block_ids(1) == -1).tolist() == [False, False, True, True, False, False]
    batch = m.schedule([1], [1])
    assert batch.kv_start.tolist() == [8]
    assert len(batch.kv_indices) == 5


def test_a_window_needs_only_itself_for_a_hit() -> None:
    m = KVCacheManager(8, groups=[SlidingWindow(4, block_size=2)], partial_reuse=False)
    serve(m, 1, range(14))
    m.evict(1)  # the first that left the window
    assert m.probe([*range(14), 99]) == 14
    m.add(2, [*range(14), 99])
    assert m.acquire([2]).tolist() == [14]
    assert (m.block_ids(2) == -1).tolist() == [True] * 5 + [False] * 2
    m.check()


def test_a_hit_is_what_every_group_can_serve() -> None:
    groups = [FullAttention(block_size=4), Ssm(8, block_size=4)]
    m = KVCacheManager(40, groups=groups)
    m.add(1, range(21))
    m.acquire([1])
    for count in (8, 8, 5):
        m.schedule([1], [count])
        m.commit([1], [count])
    assert m.probe([*range(21), 5]) == 16  # five blocks of keys and values, states at 8 and 16
    assert m.probe([*range(15), 5]) == 8
    assert m.probe([*range(7), 5]) == 0


def test_states_are_kept_where_a_commit_ends_on_a_checkpoint() -> None:
    m = KVCacheManager(40, groups=[Ssm(8, block_size=4)])
    prefill(m, 1, range(20))  # in one piece: no commit ended on 8 or 16
    assert m.probe(range(30)) == 0
    decode(m, 1, list(range(20, 24)))
    assert m.probe(range(30)) == 24
    m.check()


def test_a_state_that_was_kept_is_copied_before_it_goes_on() -> None:
    m = KVCacheManager(40, groups=[Ssm(4, block_size=4)])
    m.add(1, range(4))
    m.acquire([1])
    first = m.schedule([1], [4]).state_slots.tolist()
    m.commit([1], [4])
    m.append([1], [4])
    batch = m.schedule([1], [1])
    assert batch.copies.tolist() == [[first[0], batch.state_slots[0]]]
    m.free([1])
    m.add(2, range(9))
    assert m.acquire([2]).tolist() == [4]
    batch = m.schedule([2], [5])
    assert batch.copies[:, 0].tolist() == first
    m.check()


def test_truncate_goes_back_to_the_latest_checkpoint() -> None:
    groups = [FullAttention(block_size=4), Ssm(8, block_size=4)]
    m = KVCacheManager(40, groups=groups)
    m.add(1, range(30))
    m.acquire([1])
    for count in (8, 8, 8, 3):
        m.schedule([1], [count])
        m.commit([1], [count])
    assert m.truncate([1], [26]).tolist() == [24]
    assert m.num_tokens(1) == 26  # known, and to be computed again
    assert m.truncate([1], [23]).tolist() == [16]
    assert m.truncate([1], [7]).tolist() == [0]
    batch = m.schedule([1], [3])
    assert batch.positions.tolist() == [0, 1, 2]
    m.check()


def test_truncate_into_a_window_that_was_given_back() -> None:
    m = KVCacheManager(20, groups=[SlidingWindow(4, block_size=2)])
    prefill(m, 1, range(16))
    assert m.truncate([1], [7]).tolist() == [7]  # the index still has its window
    batch = m.schedule([1], [1])
    assert set(batch.block_tables[0, 2:4].tolist()).isdisjoint({-1})
    m.check()
    n = KVCacheManager(20, groups=[SlidingWindow(4, block_size=2)], prefix_caching=False)
    prefill(n, 1, range(16))
    assert n.truncate([1], [7]).tolist() == [0]
    n.check()


def test_a_fork_of_a_state_continues_from_what_is_committed() -> None:
    m = KVCacheManager(40, groups=[Ssm(4, block_size=4)])
    prefill(m, 1, range(6))
    slot = m.block_ids(1).tolist()
    m.fork(1, 2)
    a, b = m.schedule([1, 2], [1, 1]).state_slots.tolist()
    assert a != b
    assert m.schedule([1], [0]).copies.tolist() == []
    m.commit([1, 2], [1, 1])
    assert len(slot) == 1
    m.schedule([1], [1])
    with refuses(CapacityError, "KVCacheManager.fork", "not committed", unchanged=m):
        m.fork(1, 3)


def miss(m: KVCacheManager, tokens: object, **options: object) -> str:
    """The one reason that a look-up adds."""
    before = m.stats().miss_reasons
    m.add(63, tokens, **options)
    m.acquire([63])
    after = m.stats().miss_reasons
    m.free([63])
    (reason,) = [name for name in after if after[name] != before[name]]
    assert after[reason] == before[reason] + 1
    return str(reason)


def test_why_a_hit_was_short() -> None:
    full = KVCacheManager(20, 4)
    assert miss(full, range(9)) == "never_seen"
    serve(full, 1, range(8))
    assert miss(full, [0, 1, 2, 3, 9, 9, 9, 9, 9]) == "never_seen"
    assert miss(full, range(9), salt=b"x") == "other_salt"
    full.evict(1)
    assert miss(full, range(9)) == "evicted"

    ssm = KVCacheManager(20, groups=[FullAttention(block_size=4), Ssm(8, block_size=4)])
    m = ssm
    m.add(1, range(12))
    m.acquire([1])
    for count in (8, 4):
        m.schedule([1], [count])
        m.commit([1], [count])
    assert miss(m, [*range(12), 99, 99, 99, 99, 99]) == "no_checkpoint"

    window = KVCacheManager(
        20, groups=[FullAttention(block_size=2), SlidingWindow(4, block_size=2)]
    )
    serve(window, 1, range(12))
    # Evicts what left the window first: of a shorter prompt its window is gone.
    window.evict(3)
    assert miss(window, [*range(6), 99, 99]) == "window_lost"
    window.check()


def test_a_group_of_larger_blocks_that_knows_less_has_lost_nothing() -> None:
    groups = [FullAttention(block_size=2), SlidingWindow(8, block_size=8)]
    m = KVCacheManager(40, groups=groups)
    serve(m, 1, range(12))  # six blocks of the one, one of the other
    assert miss(m, range(20)) == "never_seen"
    assert miss(m, range(20), salt=b"x") == "other_salt"


def state_manager() -> KVCacheManager:
    """A sequence of 6 tokens whose state lies in block 0 or, with attention, behind it."""
    m = KVCacheManager(20, groups=[Ssm(4, block_size=4), FullAttention(block_size=4)])
    m.add(1, range(6))
    m.acquire([1])
    for count in (4, 2):
        m.schedule([1], [count])
        m.commit([1], [count])
    return m


def test_a_lease_keeps_a_state_as_it_is() -> None:
    m = state_manager()
    (state,) = m.block_ids(1).tolist()
    lease = m.hold(1, 6)
    assert m.block_ids(1).tolist() == [state]
    batch = m.schedule([1], [1])
    assert batch.copies.tolist() == [[state, batch.state_slots[0]]]
    assert batch.state_slots[0] != state
    m.commit([1], [1])
    m.free([1])
    assert m.usage == pytest.approx(3 / 20)  # the state and two blocks of attention
    m.release(lease)
    assert m.usage == 0
    m.check()


def test_a_state_that_was_let_go_again_is_not_copied() -> None:
    m = state_manager()
    (state,) = m.block_ids(1).tolist()
    m.release(m.hold(1, 6))
    batch = m.schedule([1], [1])
    assert (batch.copies.tolist(), batch.state_slots.tolist()) == ([], [state])


def test_a_lease_keeps_a_checkpoint_and_refuses_where_no_state_is() -> None:
    m = state_manager()
    with refuses(CapacityError, "KVCacheManager.hold", "5 tokens", "checkpoint", unchanged=m):
        m.hold(1, 5)
    lease = m.hold(1, 4)
    m.free([1])
    assert m.evict(20) == 0
    assert m.probe(range(5)) == 4
    m.release(lease)
    m.add(2, range(9))
    m.acquire([2])
    m.schedule([2], [2])
    with refuses(CapacityError, "KVCacheManager.hold", "no state kept", unchanged=m):
        m.hold(2, 6)  # the step that was issued may have changed it already
    m.check()


def test_a_pin_keeps_the_latest_checkpoint() -> None:
    m = state_manager()
    m.pin(1)
    m.free([1])
    m.evict(20)
    assert m.probe(range(7)) == 4
    m.unpin(1)
    assert m.evict(20) == 2
    m.check()


def test_a_whole_hit_is_no_miss() -> None:
    m = KVCacheManager(20, 4)
    serve(m, 1, range(9))
    before = m.stats().miss_reasons
    serve(m, 2, range(9))
    assert m.stats().miss_reasons == before


def test_groups_take_from_one_space_of_ids() -> None:
    groups = [FullAttention(block_size=4), SlidingWindow(8, block_size=4), Ssm(4, block_size=4)]
    m = KVCacheManager(20, groups=groups)
    prefill(m, 1, range(10))
    ids = [b for g in range(3) for b in m.block_ids(1, g).tolist() if b != -1]
    assert len(set(ids)) == len(ids)
    assert m.num_free_blocks <= 20 - len(ids)


@pytest.mark.parametrize(
    "make",
    [
        lambda: KVCacheManager(4, groups=[]),
        lambda: KVCacheManager(4, groups=[FullAttention()] * 16),
        lambda: KVCacheManager(4, groups=[SlidingWindow(0)]),
        lambda: KVCacheManager(4, groups=[Ssm(0)]),
        lambda: KVCacheManager(4, groups=[Ssm(24, block_size=16)]),
        lambda: KVCacheManager(4, 0),
        lambda: KVCacheManager(4, watermark=1.0),
        lambda: KVCacheManager(4, watermark=-0.1),
        lambda: KVCacheManager(4, watermark=float("nan")),
        lambda: KVCacheManager(0, null_block=True),
        lambda: KVCacheManager(4, hash_key=b"short"),
        lambda: KVCacheManager(-1),
    ],
)
def test_options_that_make_no_sense_are_refused(make: object) -> None:
    with pytest.raises(ShapeError):
        make()  # type: ignore[operator]


def test_an_empty_pool_is_a_pool() -> None:
    m = KVCacheManager(0)
    m.add(1, [1])
    m.acquire([1])
    assert m.fit([1], [1]) == 0
    assert m.usage == 0.0
    assert isinstance(m.block_ids(1), np.ndarray)
