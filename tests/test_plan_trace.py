"""The batch that fits: a trace in the planned pool."""

from __future__ import annotations

import pytest
from support.models import SMALL

from pagedkv.plan import PlanError, plan
from pagedkv.plan.trace_fit import GroupedStorage
from pagedkv.replay import Request, Trace, make_workload


def trace_of(*requests):
    return Trace("made", "made", list(requests))


def equal_requests(count, total, apart_ms=0.0, hash_ids=None):
    """Requests of one length that generate one token: each runs for a step."""
    return trace_of(
        *(Request(n, n * apart_ms, total - 1, 1, hash_ids) for n in range(1, count + 1))
    )


def planned(name="llama", memory=2**20, **options):
    chosen = {"block_size": 4, "prefill_chunk": 8, "lengths": [40], "kv_dtype": "float32"}
    return plan(SMALL[name], memory, **{**chosen, **options})


@pytest.mark.parametrize("name", ["llama", "gemma3", "jamba", "mistral", "deepseek", "mamba"])
def test_a_packed_batch_of_equal_requests_is_what_fits_of_that_length(name):
    fits = planned(name).sequences(40)
    batch = planned(name, trace=equal_requests(5 * fits, 40)).trace.packed
    assert (batch.peak, batch.mean) == (fits, fits)
    assert batch.preemptions == 0
    assert batch.steps == 4  # in the fifth nothing waits


def test_what_comes_one_by_one_runs_one_by_one():
    fit = planned(trace=equal_requests(20, 40, apart_ms=1000.0)).trace
    assert (fit.as_it_came.peak, fit.as_it_came.mean, fit.as_it_came.steps) == (1, 1.0, 20)
    assert fit.packed.peak == 20  # all of it fits at once


def test_requests_that_never_fit_are_counted_and_left_out():
    most = planned().max_tokens
    trace = trace_of(
        Request(1, 0.0, 30, 10), Request(2, 0.0, most, 1), Request(3, 0.0, most - 1, 1)
    )
    fit = planned(trace=trace).trace
    assert (fit.requests, fit.rejected) == (3, 1)
    assert fit.packed.peak == 1


def test_a_trace_of_which_nothing_fits_is_refused():
    with pytest.raises(PlanError, match=r"'made' has no request of [\d,]+ tokens or fewer"):
        planned(trace=equal_requests(2, planned().max_tokens + 1))
    with pytest.raises(PlanError, match="'made' has no requests; expected at least one"):
        planned(trace=trace_of())


def test_prompts_share_blocks_where_hash_ids_tell_and_one_table_serves_all_layers():
    shared = equal_requests(400, 512, hash_ids=("same",))
    alone = equal_requests(400, 512)
    fits = planned().sequences(512)
    fit = planned(trace=shared).trace
    assert fit.prefix_reuse
    # The first ones compute their prompts side by side; later ones find them.
    assert fit.as_it_came.peak > 2 * fits
    assert planned(trace=alone).trace.packed.peak == fits
    assert not planned(trace=alone).trace.prefix_reuse
    assert not planned("gemma3", trace=shared).trace.prefix_reuse
    assert not planned("jamba", trace=shared).trace.prefix_reuse


def test_states_bound_the_batch():
    fit = planned("jamba", max_seqs=3, trace=equal_requests(20, 8)).trace
    assert (fit.packed.peak, fit.as_it_came.peak) == (3, 3)


def test_a_long_output_may_preempt_and_all_requests_end():
    few = planned("gemma3", memory=2**18)
    trace = trace_of(*(Request(n, 0.0, 10, 200) for n in range(1, 40)))
    fit = planned("gemma3", memory=2**18, trace=trace).trace
    assert few.sequences(210) <= fit.packed.peak <= few.sequences(10)
    assert fit.packed.preemptions > 0
    assert fit.packed.mean < fit.packed.peak


def test_the_counting_storage_counts_what_the_layout_says():
    pool = planned("gemma3").pool
    storage, layout = GroupedStorage(pool), pool.layout
    request = Request(1, 0.0, 5, 95)
    sequence = storage.open(request, 5)
    for length in range(6, 100):
        if length > sequence.capacity:
            assert storage.grow(sequence, length)
        assert storage.blocks_in_use == layout.blocks(length) <= pool.num_blocks
        assert sequence.capacity >= length
    storage.release(sequence, completed=True)
    assert storage.blocks_in_use == 0


def test_a_made_workload_goes_through_every_kind_of_model():
    workload = make_workload(seed=3, count=200)
    for name in ("llama", "gemma2", "qwen3-next"):
        fit = planned(name, memory=2**26, trace=workload).trace
        assert 0 < fit.packed.mean <= fit.packed.peak <= 200
        assert 0 < fit.as_it_came.mean <= fit.as_it_came.peak <= 200
