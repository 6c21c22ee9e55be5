"""Prefix reuse: exact, apart by salt and extras, bounded by priority, ttl and limits."""

import hashlib
import struct

import numpy as np
import pytest
from support.managers import prefill, serve

from pagedkv import CacheEvent, KVCacheManager, ReuseStats, Stats


def test_the_last_token_of_a_prompt_is_always_computed() -> None:
    m = KVCacheManager(20, 4)
    serve(m, 1, range(12))
    assert m.probe(range(12)) == 11
    assert m.probe(range(13)) == 12
    assert m.probe([]) == m.probe([0]) == 0


def test_the_start_of_the_next_block_is_reused_by_copy() -> None:
    m = KVCacheManager(20, 4)
    serve(m, 1, range(8))
    m.add(2, [0, 1, 2, 3, 4, 5, 99])
    assert m.acquire([2]).tolist() == [6]
    assert m.block_ids(2).tolist() == [0]
    batch = m.schedule([2], [1])
    assert batch.copies.tolist() == [[1, 2]]
    assert batch.slot_mapping.tolist() == [2 * 4 + 2]
    assert m.num_free_blocks == 20 - 3  # its source stays until the copy is committed
    m.commit([2], [1])
    assert m.num_free_blocks == 20 - 2
    m.check()


def test_of_many_siblings_the_recent_ones_are_tried() -> None:
    m = KVCacheManager(2000, 4)
    for i in range(1000):
        serve(m, 1, [0, 0, 0, 0, i + 1, 5, 5, 5])
    recent, old = m.probe([0, 0, 0, 0, 1000, 5, 9]), m.probe([0, 0, 0, 0, 1, 5, 9])
    assert (recent, old) == (6, 4)
    assert m.probe([0, 0, 0, 0, 1, 5, 5, 5, 9]) == 8  # whole blocks are found among any number


def test_two_that_compute_the_same_block_end_with_one_entry() -> None:
    m = KVCacheManager(20, 4)
    for seq_id in (1, 2):
        m.add(seq_id, range(9))
    m.acquire([1, 2])
    m.schedule([1, 2], [9, 9])
    m.commit([1, 2], [9, 9])
    tables = m.block_ids(1).tolist(), m.block_ids(2).tolist()
    assert not set(tables[0]) & set(tables[1])
    assert m.stats().num_cached_blocks == 2
    m.free([1])
    assert m.block_ids(2).tolist() == tables[1]
    m.free([2])
    assert m.num_free_blocks == 20
    m.check()


def test_salts_never_share(rng: np.random.Generator) -> None:
    m = KVCacheManager(4000, 4)
    prompts = [rng.integers(0, 2, 24).tolist() for _ in range(300)]
    for i, prompt in enumerate(prompts):
        serve(m, i, prompt, salt=b"one")
    for _ in range(20_000):
        prompt = prompts[rng.integers(300)]
        cut = int(rng.integers(1, 25))
        changed = prompt[:cut] + rng.integers(0, 2, 3).tolist()
        salt = bytes(rng.integers(0, 256, rng.integers(0, 4), dtype=np.uint8))
        assert m.probe(changed, salt=salt) == 0
    assert m.probe(prompts[0], salt=b"one") == 23
    assert m.salt_stats(b"one").hit_tokens > 0
    assert m.salt_stats(b"two").queries == 0


def test_extras_part_only_the_blocks_that_they_touch() -> None:
    m = KVCacheManager(40, 4, partial_reuse=False)
    prompt = range(21)
    serve(m, 1, prompt, extras=[(6, 5, b"cat")])  # tokens 6 to 10: blocks 1 and 2
    assert m.probe(prompt, extras=[(6, 5, b"cat")]) == 20
    assert m.probe(prompt, extras=[(6, 5, b"dog")]) == 4
    assert m.probe(prompt, extras=[(6, 5, b"")]) == 4
    assert m.probe(prompt) == 4
    assert m.probe(prompt, extras=[(6, 6, b"cat")]) == 4
    assert m.probe(prompt, extras=[(7, 4, b"cat")]) == 4
    # Beyond what is asked for they matter to nobody.
    assert m.probe(range(6), extras=[(6, 5, b"dog")]) == 4
    assert m.probe(prompt, extras=[(6, 5, b"cat"), (20, 9, b"dog")]) == 20


def test_a_block_with_extras_lends_no_start() -> None:
    m = KVCacheManager(40, 4)
    serve(m, 1, range(9), extras=[(6, 2, b"cat")])
    assert m.probe([*range(7), 99]) == 4
    assert m.probe(range(8), extras=[(6, 2, b"dog")]) == 4


def test_lower_priority_is_evicted_first() -> None:
    m = KVCacheManager(40, 4)
    serve(m, 1, [1] * 8, priority=60)
    serve(m, 2, [2] * 8)
    serve(m, 3, [3] * 8, priority=100)
    m.evict(2)
    assert [m.probe([i] * 9) for i in (1, 2, 3)] == [8, 0, 8]
    m.evict(2)
    assert [m.probe([i] * 9) for i in (1, 2, 3)] == [0, 0, 8]


@pytest.mark.parametrize("reuse", [True, False])
def test_a_block_has_the_highest_priority_of_what_hangs_on_it(reuse: bool) -> None:
    m = KVCacheManager(40, 4)
    serve(m, 1, [1] * 8)
    serve(m, 2, [2] * 8, priority=50)
    serve(m, 3, [1] * 8 + [9] * 4, priority=90, reuse=reuse)
    m.evict(2)
    assert m.probe([2] * 9) == 0
    assert m.probe([1] * 8 + [9] * 5) == 12
    m.check()


def test_ttl_ends_blocks_after_that_many_steps_without_use() -> None:
    m = KVCacheManager(40, 4)
    serve(m, 1, [1] * 8, ttl=3)
    serve(m, 2, [2] * 8)
    m.add(9, [])
    m.acquire([9])
    for _ in range(2 - 1):
        m.schedule([9], [0])
        assert m.probe([1] * 9) == 8
    prefill(m, 3, [1] * 9, ttl=3)  # a use: the time starts when it ends
    for _ in range(5):
        m.schedule([9], [0])
    assert m.probe([1] * 9) == 8
    m.free([3])
    for _ in range(3):
        assert m.probe([1] * 9) == 8
        m.schedule([9], [0])
    assert m.probe([1] * 9) == 0
    assert m.probe([2] * 9) == 8
    m.check()


def test_a_parent_whose_time_is_over_goes_with_its_last_child() -> None:
    m = KVCacheManager(40, 4)
    serve(m, 1, [1] * 8, ttl=1)
    serve(m, 2, [1] * 8 + [2] * 4)  # no limit: it keeps its parents
    m.add(9, [])
    m.acquire([9])
    for _ in range(3):
        m.schedule([9], [0])
    assert m.probe([1] * 8 + [2] * 5) == 12
    serve(m, 3, [1] * 8, ttl=1)  # the last who used them had one
    for _ in range(3):
        m.schedule([9], [0])
    assert m.probe([1] * 8 + [2] * 5) == 12
    m.evict(1)
    m.schedule([9], [0])
    assert m.stats().num_cached_blocks == 0
    m.check()


def test_salts_that_nobody_uses_any_more_are_forgotten() -> None:
    m = KVCacheManager(8, 4)
    empty = m.memory_bytes
    for i in range(20_000):
        serve(m, 1, [i] * 9, salt=str(i).encode())
    assert m.memory_bytes < empty + 200_000
    assert m.salt_stats(b"0").queries == 0
    assert m.salt_stats(b"19999").queries == 1
    assert m.stats().queries == 20_000
    m.check()


def test_a_salt_may_carry_a_maximum_of_blocks() -> None:
    m = KVCacheManager(100, 4)
    m.set_salt_limit(b"small", 3)
    for i in range(6):
        serve(m, 1, [i] * 8, salt=b"small")
        serve(m, 2, [i] * 8)
        m.check()
    kept = [m.probe([i] * 9, salt=b"small") for i in range(6)]
    assert sum(kept) <= 3 * 4
    assert kept[-1] == 8  # what was released first goes first
    assert all(m.probe([i] * 9) == 8 for i in range(6))
    m.set_salt_limit(b"small", 1)
    assert sum(m.probe([i] * 9, salt=b"small") for i in range(6)) <= 4
    m.set_salt_limit(b"small", None)
    serve(m, 1, [7] * 16, salt=b"small")
    assert m.probe([7] * 17, salt=b"small") == 16
    m.check()


def test_under_a_maximum_what_was_used_last_stays() -> None:
    m = KVCacheManager(100, 4)
    m.set_salt_limit(b"s", 2)
    serve(m, 1, [1] * 4, salt=b"s")
    serve(m, 1, [2] * 4, salt=b"s")
    for _ in range(50):
        serve(m, 1, [1] * 5, salt=b"s")
    serve(m, 1, [3] * 4, salt=b"s")
    assert [m.probe([i] * 5, salt=b"s") for i in (1, 2, 3)] == [4, 0, 4]
    m.check()


def test_pinned_and_held_blocks_are_not_evicted() -> None:
    m = KVCacheManager(40, 4)
    prefill(m, 1, [1] * 8)
    m.pin(1)
    prefill(m, 2, [2] * 8)
    lease = m.hold(2, 4)
    m.free([1, 2])
    m.evict(100)
    assert (m.probe([1] * 9), m.probe([2] * 9)) == (8, 4)
    m.unpin(1)
    m.release(lease)
    assert m.evict(100) == 3
    m.check()


def test_reuse_and_store_may_be_declined() -> None:
    m = KVCacheManager(40, 4)
    serve(m, 1, [1] * 8, store=False)
    assert m.probe([1] * 9) == 0
    serve(m, 1, [1] * 8)
    assert serve(m, 2, [1] * 9, reuse=False) == 0
    assert m.probe([1] * 9) == 8
    off = KVCacheManager(40, 4, prefix_caching=False)
    serve(off, 1, [1] * 8)
    assert off.probe([1] * 9) == 0


def field(tag: bytes, content: bytes) -> bytes:
    return tag + struct.pack("<Q", len(content)) + content


def name_of(parent: bytes, tokens: list[int], extras: bytes = b"") -> bytes:
    text = field(b"p", parent) + field(b"t", struct.pack(f"<{len(tokens)}i", *tokens))
    return hashlib.sha256(text + (field(b"x", extras) if extras else b"")).digest()


def test_events_name_blocks_by_content() -> None:
    m = KVCacheManager(40, 4, events=True)
    digest = b"cat"
    serve(m, 1, [5, -6, 7, 8, 1, 2, 3, 4], salt=b"tenant", extras=[(6, 1, digest)])
    root = hashlib.sha256(field(b"s", b"tenant")).digest()
    first = name_of(root, [5, -6, 7, 8])
    second = name_of(first, [1, 2, 3, 4], struct.pack("<QQQ", 2, 1, len(digest)) + digest)
    stored = m.take_events()
    assert [(e.kind, e.parent_hash, e.hash, e.tokens.tolist()) for e in stored] == [
        ("stored", root, first, [5, -6, 7, 8]),
        ("stored", first, second, [1, 2, 3, 4]),
    ]
    assert m.take_events() == []
    m.evict(2)
    assert [(e.kind, e.hash) for e in m.take_events()] == [
        ("removed", second),
        ("removed", first),
    ]


def test_the_hash_of_the_tokens_1_2_3_4_without_a_salt() -> None:
    m = KVCacheManager(4, 4, events=True)
    serve(m, 1, [1, 2, 3, 4])
    (event,) = m.take_events()
    expected = "bc3cdb9273685a7969f3ab91caf81a96fd226d0044ca0ea86a71a4865bc2f2e9"
    assert event.hash.hex() == expected


def test_removed_comes_when_the_last_copy_goes() -> None:
    m = KVCacheManager(40, 4, events=True)
    for seq_id in (1, 2):
        m.add(seq_id, range(4))
    m.acquire([1, 2])
    m.schedule([1, 2], [4, 4])
    m.commit([1, 2], [4, 4])
    assert len(m.take_events()) == 1
    m.free([1])
    m.free([2])
    assert m.take_events() == []
    m.evict(1)
    assert [e.kind for e in m.take_events()] == ["removed"]


def test_no_events_without_being_asked() -> None:
    m = KVCacheManager(40, 4)
    serve(m, 1, range(8))
    assert m.take_events() == []


def test_statistics_have_their_denominators() -> None:
    m = KVCacheManager(40, 4)
    serve(m, 1, range(9), salt=b"a")
    serve(m, 2, range(9), salt=b"a")
    serve(m, 3, range(5), salt=b"b")
    stats = m.stats()
    assert (stats.queries, stats.queried_tokens, stats.hit_tokens) == (3, 20, 8)
    assert stats.hit_rate == 8 / 20
    a, b = m.salt_stats(b"a"), m.salt_stats(b"b")
    assert (a.queried_tokens, a.hit_tokens, a.hit_rate) == (16, 8, 0.5)
    assert (b.queried_tokens, b.hit_tokens, b.hit_rate) == (4, 0, 0.0)
    assert m.salt_stats(b"nobody").hit_rate == 0.0
    assert stats.num_blocks == 40
    assert stats.num_cached_blocks == 3
    assert stats.steps == 3
    assert stats.num_sequences == 0


@pytest.mark.parametrize("pins", [False, True])
def test_a_lease_and_a_pin_cover_the_block_that_a_partial_hit_will_copy(pins: bool) -> None:
    m = KVCacheManager(20, 4)
    serve(m, 1, range(8))
    m.add(2, [0, 1, 2, 3, 4, 5, 99])
    assert m.acquire([2]).tolist() == [6]
    if pins:
        m.pin(2)
    else:
        lease = m.hold(2, 6)
    m.free([2])
    assert m.evict(20) == 0
    assert m.probe(range(8)) == 7
    if pins:
        m.unpin(2)
    else:
        m.release(lease)
    assert m.evict(20) == 2
    m.check()


def test_no_new_tokens_after_a_partial_hit_show_whole_blocks_alone() -> None:
    m = KVCacheManager(20, 4)
    serve(m, 1, range(8))
    m.add(2, [0, 1, 2, 3, 4, 5, 99])
    m.add(3, [0, 1, 9])
    assert m.acquire([2, 3]).tolist() == [6, 2]
    batch = m.schedule([2, 3], [0, 0])
    assert batch.seq_lens.tolist() == [4, 0]
    assert batch.kv_last_page_len.tolist() == [4, 0]
    assert batch.kv_indices.tolist() == [0]
    batch = m.schedule([2, 3], [1, 1])
    assert batch.seq_lens.tolist() == [7, 3]
    assert batch.kv_last_page_len.tolist() == [3, 3]
    assert batch.positions.tolist() == [6, 2]


def grow(m: KVCacheManager, seq_id: int, tokens: list[int]) -> None:
    """The sequence computes these tokens and goes on."""
    m.append([seq_id], tokens, [len(tokens)])
    m.schedule([seq_id], [len(tokens)])
    m.commit([seq_id], [len(tokens)])


def test_a_block_that_a_full_salt_kept_out_is_tried_again() -> None:
    m = KVCacheManager(40, 4)
    m.set_salt_limit(b"", 1)
    prefill(m, 1, range(8))
    assert m.stats().num_cached_blocks == 1
    m.set_salt_limit(b"", None)
    grow(m, 1, [8, 9, 10])
    assert m.stats().num_cached_blocks == 1  # at the next full block
    grow(m, 1, [11])
    assert m.stats().num_cached_blocks == 3
    assert m.probe(range(13)) == 12
    m.check()


def test_decoding_on_a_full_salt_goes_on_to_store_once_there_is_room() -> None:
    m = KVCacheManager(40, 4)
    m.set_salt_limit(b"", 1)
    prefill(m, 1, range(5))
    m.schedule([1], [1])
    for token in range(5, 40):
        if token == 20:
            m.set_salt_limit(b"", None)
        m.step([1], [token])
        m.check()
    assert m.probe(range(41)) == 40


def test_a_block_that_a_fork_was_told_otherwise_is_tried_again_after_truncate() -> None:
    m = KVCacheManager(40, 4)
    m.add(1, [0])
    m.acquire([1])
    m.schedule([1], [8])
    m.commit([1], [8])
    m.fork(1, 2)
    m.append([1], range(1, 8), [7])
    m.append([2], range(11, 18), [7])  # other tokens for the blocks that both have
    assert m.stats().num_cached_blocks == 2
    m.truncate([2], [0])
    m.append([2], range(20, 28), [8])
    m.schedule([2], [8])
    m.commit([2], [8])
    assert m.probe(range(20, 29)) == 8
    m.check()


def test_statistics_are_values() -> None:
    m = KVCacheManager(8, 4)
    before = m.stats()
    assert before == m.stats()
    serve(m, 1, range(5), salt=b"a")
    assert (before.queries, m.stats().queries) == (0, 1)
    assert before != m.stats()
    reuse = m.salt_stats(b"a")
    assert isinstance(reuse, ReuseStats)
    assert repr(reuse) == (
        "ReuseStats(queries=1, queried_tokens=4, hit_tokens=0, hit_rate=0.0, miss_reasons="
        "{'never_seen': 1, 'evicted': 0, 'other_salt': 0, 'no_checkpoint': 0, 'window_lost': 0})"
    )
    stats = m.stats()
    assert isinstance(stats, Stats)
    assert stats.to_dict().items() >= reuse.to_dict().items()
    assert all(stats.to_dict()[name] == getattr(stats, name) for name in stats.to_dict())
    with pytest.raises(AttributeError):
        stats.steps = 3  # type: ignore[misc]


def test_events_are_values() -> None:
    a, b = KVCacheManager(8, 4, events=True), KVCacheManager(8, 4, events=True)
    for m in (a, b):
        serve(m, 1, range(4))
    (event,), others = a.take_events(), b.take_events()
    assert [event] == others
    assert isinstance(event, CacheEvent)
    assert repr(event) == f"CacheEvent(kind='stored', group=0, hash={event.hash.hex()})"


def decisions(m: KVCacheManager, seed: int) -> list[object]:
    """What a manager decides on random calls."""
    rng = np.random.default_rng(seed)
    out: list[object] = []
    alive: list[int] = []
    for i in range(400):
        m.add(i, rng.integers(0, 2, rng.integers(1, 40)), salt=bytes([rng.integers(2)]))
        out.append(m.acquire([i]).tolist())
        left = m.num_tokens(i) - m.num_cached(i)
        while m.fit([i], [left]) == 0 and alive:
            m.free([alive.pop(int(rng.integers(len(alive))))])
        batch = m.schedule([i], [left])
        out += [batch.block_tables.tolist(), batch.copies.tolist()]
        m.commit([i], [left])
        alive.append(i)
        if rng.random() < 0.1:
            out.append(m.compact().tolist())
        out.append((m.num_free_blocks, m.stats()))
    m.check()
    return out


def test_ranks_with_different_hash_keys_decide_the_same(rng: np.random.Generator) -> None:
    seed = int(rng.integers(2**31))
    first, *others = [
        decisions(KVCacheManager(60, 4, hash_key=key), seed)
        for key in (bytes(16), b"0123456789abcdef", None)
    ]
    assert all(other == first for other in others)
