"""The engine on the manager: what is reused, what it saves, and that the data are right."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagedkv.replay import (
    CacheShape,
    Engine,
    History,
    ReplayConfig,
    ReplayError,
    Request,
    RequestTokens,
    RunFigures,
    Trace,
    VerifyingStorage,
    as_dict,
    as_text,
    replay,
)

TINY = CacheShape(num_layers=1, num_kv_heads=1, head_dim=2)
HASH_TOKENS = 4


def requests_of(*rows):
    """Requests of (arrival in steps, prompt, output, hash ids or None)."""
    return [
        Request(number, 25.0 * step, prompt, output, ids if ids is None else tuple(ids))
        for number, (step, prompt, output, ids) in enumerate(rows, 1)
    ]


def replay_of(*rows, num_blocks=20, block_size=2, **options):
    config = ReplayConfig(
        num_blocks=num_blocks,
        block_size=block_size,
        shape=TINY,
        verify=True,
        hash_tokens=HASH_TOKENS,
        **options,
    )
    result = replay(Trace("test", "mooncake", requests_of(*rows)), config)
    assert result.success
    return result


def test_a_later_request_finds_the_prompt_of_an_earlier_one():
    # 10 prompt tokens, of which the hash ids share 8: four blocks of two tokens.
    result = replay_of((0, 10, 3, [1, 2]), (1, 10, 3, [1, 2]))
    assert result.paged.prompt_hits == 8
    assert result.paged.prefix_hit_rate == 8 / 20
    assert result.paged.tokens_saved == 8


def test_the_last_token_of_a_prompt_is_always_computed():
    result = replay_of((0, 8, 1, [1, 2]), (5, 8, 1, [1, 2]))
    # Three blocks as they are, and one token of the fourth by copying it.
    assert result.paged.prompt_hits == 7


def test_requests_that_start_in_one_step_do_not_find_each_other():
    assert replay_of((0, 8, 4, [1, 2]), (0, 8, 4, [1, 2])).paged.prompt_hits == 0


def test_an_id_behind_another_is_another_block():
    assert replay_of((0, 8, 1, [1, 2]), (3, 8, 1, [3, 2])).paged.prompt_hits == 0


def test_outputs_and_what_no_id_stands_for_are_never_shared():
    assert replay_of((0, 4, 8, [1]), (20, 12, 1, [1])).paged.prompt_hits == 4


@pytest.mark.parametrize("rows", [[(0, 8, 1, None), (3, 8, 1, None)], []])
def test_a_trace_without_hash_ids_reuses_nothing_and_says_so(rows):
    result = replay_of(*rows)
    report = as_dict(result)
    assert report["prefix_hit_rate"] is None
    assert report["tokens_saved"] == 0
    assert "the trace has no hash_ids" in as_text(result)


def test_prefix_caching_can_be_turned_off():
    rows = [(0, 8, 1, [1, 2]), (3, 8, 1, [1, 2])]
    result = replay_of(*rows, prefix_caching=False)
    assert result.paged.tokens_saved == 0
    assert as_dict(result)["prefix_hit_rate"] is None
    assert as_dict(replay_of(*rows))["prefix_hit_rate"] == 7 / 16
    assert "not reused, as asked for" in as_text(result)
    assert as_text(result).isascii()


def test_a_preempted_request_finds_what_it_had_computed():
    # Both grow until the pool is full; the newer one leaves, and comes back when the older ends.
    rows = [(0, 4, 12, [1]), (0, 4, 12, [2])]
    on = replay_of(*rows, num_blocks=9).paged
    off = replay_of(*rows, num_blocks=9, prefix_caching=False).paged
    assert on.preemptions == off.preemptions == 1
    assert on.resumed_hits > 0
    assert on.recomputed_tokens + on.resumed_hits == off.recomputed_tokens
    assert on.prompt_hits == off.resumed_hits == 0


def test_a_block_that_several_hold_counts_once():
    requests = requests_of((0, 8, 4, [1, 2]), (1, 9, 3, [1, 2]))
    storage = VerifyingStorage(20, 2, 40, TINY, requests, 0, hash_tokens=HASH_TOKENS)
    figures = RunFigures(40, 2, History())
    Engine(requests, storage, figures).run()
    # The first holds 9 tokens in 5 blocks, then 10; the second adds 2 tokens in a block to them.
    assert list(figures.history.held)[:2] == [9, 12]
    assert list(figures.history.reserved)[:2] == [10, 12]


shared_prompts = st.lists(
    st.tuples(
        st.integers(0, 25),  # arrival
        st.integers(1, 14),  # prompt
        st.integers(0, 12),  # output
        st.none() | st.lists(st.integers(0, 1), max_size=4),
    ),
    max_size=12,
)


@settings(max_examples=150, deadline=None)
@given(shared_prompts, st.integers(1, 5), st.integers(0, 6), st.integers(1, 6), st.booleans())
def test_every_request_ends_with_its_own_data(rows, block_size, spare, max_batch, caching):
    requests = requests_of(*rows)
    requests.sort(key=lambda request: request.timestamp_ms)
    longest = max((request.total_length for request in requests), default=1)
    num_blocks = -(-longest // block_size) + spare
    storage = VerifyingStorage(
        num_blocks,
        block_size,
        longest,
        TINY,
        requests,
        seed=0,
        prefix_caching=caching,
        hash_tokens=HASH_TOKENS,
    )
    figures = RunFigures(num_blocks * block_size, block_size, History())
    engine = Engine(requests, storage, figures, max_batch=max_batch)
    while engine.step():
        storage.manager.check()
    assert storage.mismatches == []
    assert storage.verified == figures.completed == len(requests)
    assert storage.blocks_in_use == storage.repeated_slots == 0
    assert len(storage.manager) == 0
    for reserved, held in zip(figures.history.reserved, figures.history.held, strict=True):
        assert 0 < held <= reserved <= figures.pool_slots
    told = sum(request.input_length for request in requests if request.hash_ids is not None)
    assert figures.prompt_hits <= (told if caching else 0)


def test_reuse_of_wrong_data_is_found():
    requests = requests_of((0, 8, 1, [1, 2]), (3, 8, 1, [1, 2]))
    storage = VerifyingStorage(20, 2, 20, TINY, requests, seed=1, hash_tokens=HASH_TOKENS)
    engine = Engine(requests, storage, RunFigures(40, 2))
    engine.step()
    # The first request is done; its third block waits to be reused.
    storage.pools[0].view(np.uint32)[2, 1, 0, 0] ^= 1
    engine.run()
    assert [str(mismatch) for mismatch in storage.mismatches] == [
        "request 2, layer 0, position 5: keys read back differ from those written"
    ]


def test_tokens_are_equal_where_and_only_where_prompts_are():
    requests = requests_of((0, 6, 4, [7, 8]), (0, 9, 0, [7, 8]), (0, 8, 2, [8, 7]), (0, 3, 1, None))
    tokens = RequestTokens(requests, HASH_TOKENS)
    a, b, c = (tokens.ids(i, 0, request.total_length) for i, request in enumerate(requests[:3]))
    assert np.array_equal(a[:6], b[:6])
    assert len({*a.tolist(), *b.tolist(), *c.tolist()}) == 10 + 3 + 10
    assert (a[:6] >= 0).all()
    assert (a[6:] < 0).all()
    assert np.array_equal(tokens.ids(0, 3, 8), a[3:8])
    assert tokens.ids(0, 8, 8).size == 0


def test_more_tokens_than_there_are_ids_are_refused():
    huge = replace(requests_of((0, 1, 1, [1]))[0], input_length=2**31 - 1, output_length=2)
    with pytest.raises(ReplayError, match="2,147,483,649 tokens of requests"):
        RequestTokens([huge], HASH_TOKENS)
    with pytest.raises(ReplayError, match="0 tokens a hash id; expected 1 or more"):
        ReplayConfig(hash_tokens=0)
