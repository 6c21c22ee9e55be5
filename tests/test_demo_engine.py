"""The demo's engine: whatever the pool and the batches are, each request gets the same tokens."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.demo_requests import GREEDY, PROMPTS, SYSTEM, model, requests

from pagedkv.demo import Engine, EngineConfig, Request, prove
from pagedkv.models import ModelError, Sampler


def served(
    config: EngineConfig, sampler: Sampler = GREEDY, max_tokens: int = 20
) -> tuple[list[Request], Engine]:
    batch = requests(max_tokens)
    engine = Engine(model(), config, batch, sampler)
    for _ in engine.run():
        assert engine.blocks_held <= config.num_blocks
        assert len(engine.running) + engine.num_waiting <= len(batch)
    assert all(request.finish_reason for request in batch)
    assert engine.blocks_held == 0
    assert engine.step() == []
    return batch, engine


@cache
def expected(sampler: Sampler = GREEDY) -> list[list[int]]:
    """Each request alone in a pool of its own: nothing is shared, nothing preempted."""
    alone = []
    for request in requests():
        engine = Engine(model(), EngineConfig(64, max_batch_tokens=1000), [request], sampler)
        for _ in engine.run():
            pass
        assert engine.stats.hit_tokens == engine.stats.preemptions == 0
        alone.append(request.generated)
    return alone


def tokens(batch: list[Request]) -> list[list[int]]:
    return [request.generated for request in batch]


def test_many_at_once_get_the_tokens_that_each_gets_alone() -> None:
    batch, engine = served(EngineConfig(64))
    assert tokens(batch) == expected()
    assert engine.progress.peak_running == len(PROMPTS)
    assert engine.progress.generated_tokens == sum(map(len, expected()))
    assert engine.progress.steps < engine.progress.generated_tokens


def test_a_pool_too_small_for_all_preempts_and_gives_the_same_tokens() -> None:
    batch, engine = served(EngineConfig(20, block_size=4))
    assert engine.stats.preemptions > 0
    assert sum(request.preemptions for request in batch) == engine.stats.preemptions
    assert engine.progress.peak_blocks <= 20
    assert tokens(batch) == expected()


def test_the_system_prompt_is_computed_once() -> None:
    first = requests()[0].num_prompt_tokens  # alone in the first step
    batch, engine = served(EngineConfig(64, block_size=4, max_batch_tokens=first))
    shared = len(SYSTEM) + 3
    assert batch[0].cached_tokens == 0
    assert all(request.cached_tokens >= shared for request in batch[1:])
    assert engine.stats.hit_tokens == sum(request.cached_tokens for request in batch)
    prompt_tokens = sum(request.num_prompt_tokens for request in batch)
    generated = engine.progress.generated_tokens
    # The last token of a text is never computed.
    assert engine.progress.computed_tokens == (
        prompt_tokens - engine.stats.hit_tokens + generated - len(batch)
    )


def test_a_prompt_longer_than_a_step_is_computed_in_chunks_beside_the_others_decoding() -> None:
    long = Request(1, [256, *SYSTEM * 4], 4)
    short = Request(0, [256, *b"Return "], 30)
    engine = Engine(model(), EngineConfig(64, max_batch_tokens=16), [short, long], GREEDY)
    got = {0: 0, 1: 0}
    before = None
    for advanced in engine.run():
        for request in advanced:
            got[request.number] += 1
            if request is long and before is None:
                before = got[0]
    assert before is not None
    assert before >= 8  # 121 tokens at no more than 16 a step


@pytest.mark.parametrize("most", [1, 2, 3])
def test_no_more_run_at_once_than_was_asked_for(most: int) -> None:
    batch, engine = served(EngineConfig(64, max_running=most))
    assert engine.progress.peak_running == most
    assert tokens(batch) == expected()


def test_a_request_that_begins_like_a_cached_text_runs_in_a_pool_of_its_own_size() -> None:
    # The block it has to copy from is held, and with its own no block is left for the copy.
    first = Request(0, list(range(40, 51)), 1)
    second = Request(1, [*range(40, 50), 99], 1)
    config = EngineConfig(3, block_size=4, max_running=1)
    engine = Engine(model(), config, [first, second], GREEDY)
    for _ in engine.run():
        pass
    assert second.finish_reason
    assert second.preemptions == 0
    assert prove(model(), [first, second], GREEDY).identical


@given(
    num_blocks=st.integers(0, 30),
    block_size=st.sampled_from([1, 2, 4, 16, 64]),
    max_batch_tokens=st.integers(1, 70),
    max_running=st.none() | st.integers(1, 5),
    drawn=st.booleans(),
)
@settings(deadline=None, max_examples=25)
def test_any_pool_any_batches_the_same_tokens(
    num_blocks: int, block_size: int, max_batch_tokens: int, max_running: int | None, drawn: bool
) -> None:
    sampler = Sampler(0.8, 20, 7) if drawn else GREEDY
    longest = max(request.max_len for request in requests())
    config = EngineConfig(
        -(-longest // block_size) + num_blocks,
        block_size,
        max_running=max_running,
        max_batch_tokens=max_batch_tokens,
    )
    batch, _ = served(config, sampler)
    assert tokens(batch) == expected(sampler)


def test_requests_stop_at_an_end_of_text_or_at_their_length() -> None:
    batch, _ = served(EngineConfig(300), max_tokens=150)
    reasons = {request.finish_reason for request in batch}
    assert "stop" in reasons
    for request in batch:
        ended = request.generated[-1] == 257
        assert request.finish_reason == ("stop" if ended else "length")
        assert ended or len(request.generated) == 150
        assert 257 not in request.generated[:-1]
        assert len(request.logits) == len(request.generated)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request(3, [], 5), "request 3 has no tokens, or wants none"),
        (Request(3, [1], 0), "request 3 has no tokens, or wants none"),
        (Request(3, [1], 256), "takes 257 tokens; expected at most the 256 positions of the model"),
        (Request(3, [1] * 60, 5), "takes 65 tokens; expected at most the 64 of the pool"),
        (Request(3, [1, 258], 5), "has token 258; expected ids below 258"),
        (Request(3, [-1], 5), "has token -1; expected ids below 258"),
    ],
)
def test_what_can_never_run_is_refused_at_once(request_: Request, message: str) -> None:
    with pytest.raises(ModelError) as raised:
        Engine(model(), EngineConfig(4), [request_], GREEDY)
    assert message in str(raised.value)


def test_an_engine_without_requests_has_nothing_to_do() -> None:
    assert list(Engine(model(), EngineConfig(4), [], GREEDY).run()) == []


def test_the_cache_of_an_engine_is_of_the_dtype_that_was_asked_for() -> None:
    sizes = {
        dtype: Engine(model(), EngineConfig(4, kv_dtype=dtype), [], GREEDY).block_bytes
        for dtype in ("float32", "bfloat16", "int8", "int4")
    }
    config = model().config
    assert sizes["float32"] == 16 * config.token_values * 4
    assert sizes["bfloat16"] * 2 == sizes["float32"]
    scales = sizes["float32"] // config.head_dim
    assert sizes["int8"] == sizes["float32"] // 4 + scales
    assert sizes["int4"] == sizes["float32"] // 8 + scales


def test_greedy_takes_the_lowest_of_equals() -> None:
    assert GREEDY.choose(np.array([1, 5, 5, 0], np.float32), 0, 0) == 1
