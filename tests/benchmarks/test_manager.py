"""Times of what an engine asks of the manager, to compare with an earlier run of this machine."""

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from pagedkv.bench.figure import Scale
from pagedkv.bench.manager import EVICTIONS
from pagedkv.bench.sequences import BLOCK_SIZE, Admission, Decoding, FullPool, Prefix, one_id

ROUNDS = 20


@pytest.mark.parametrize("varied", [False, True], ids=["equal lengths", "varied lengths"])
def test_sixteen_steps_of_256_sequences(benchmark: BenchmarkFixture, varied: bool) -> None:
    decoding = Decoding(256, 1024, BLOCK_SIZE, varied=varied)
    decoding.steps()
    decoding.check()
    benchmark.pedantic(decoding.steps, setup=decoding.begin_again, rounds=ROUNDS)
    decoding.check()


@pytest.mark.parametrize("tokens", [1024, 100_000])
def test_probing_a_cached_prompt(benchmark: BenchmarkFixture, tokens: int) -> None:
    prefix = Prefix(1, tokens)
    prefix.check()
    benchmark(prefix.probe_each)
    prefix.check()


def test_admitting_a_cached_prompt(benchmark: BenchmarkFixture) -> None:
    prefix = Prefix(1, 1024)
    manager, prompt, ids = prefix.manager, prefix.prompts[0], one_id(7)

    def admit() -> int:
        manager.add(7, prompt)
        cached = int(manager.acquire(ids)[0])
        manager.free(ids)
        return cached

    assert admit() == 1024
    benchmark(admit)
    prefix.check()


def test_admitting_new_prompts_of_1024_tokens(benchmark: BenchmarkFixture) -> None:
    admission = Admission(64, 1024)
    admission.admit_each()
    admission.check_admitted()
    benchmark.pedantic(admission.admit_each, setup=admission.forget, rounds=ROUNDS)
    admission.check_admitted()


def test_freeing_sequences_of_80_blocks(benchmark: BenchmarkFixture) -> None:
    admission = Admission(64, 80 * BLOCK_SIZE)

    def begin() -> None:
        admission.forget()
        admission.admit_each()

    begin()
    admission.free_each()
    admission.check_freed()
    benchmark.pedantic(admission.free_each, setup=begin, rounds=ROUNDS)
    admission.check_freed()


@pytest.mark.parametrize("eviction", EVICTIONS)
def test_evicting_a_hundred_blocks(
    benchmark: BenchmarkFixture, eviction: str, scale: Scale
) -> None:
    pool = FullPool(scale.blocks // 10, eviction)

    def evict() -> None:
        for _ in range(100):
            pool.manager.evict(1)

    evict()
    pool.check_evicted(100)
    benchmark.pedantic(evict, setup=pool.fill, rounds=ROUNDS)
    pool.check_evicted(100)


def test_forking_and_freeing_a_sequence_of_1024_tokens(benchmark: BenchmarkFixture) -> None:
    admission = Admission(1, 1024)
    admission.admit_each()
    manager, ids = admission.manager, one_id(1)

    def fork() -> None:
        manager.fork(0, 1)
        manager.free(ids)

    fork()
    benchmark(fork)
    manager.check()
    assert np.array_equal(manager.block_ids(0), np.arange(64))
