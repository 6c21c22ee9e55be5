"""Hit rates by policy are those of slow, plain models, and of the published figures."""

import os
import re
from collections import OrderedDict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pagedkv.replay import (
    ReplayError,
    Request,
    Trace,
    check_policies,
    number_blocks,
    policies_as_dict,
    policies_as_text,
    prompts_of,
    read_trace,
    replay_policies,
)
from pagedkv.replay.policy_plot import draw_policies


def keys_of(prompts):
    """Each block as all ids up to its own."""
    return [[tuple(prompt[: i + 1]) for i in range(len(prompt))] for prompt in prompts]


def plain_hits(cache, prompt):
    hits = 0
    while hits < len(prompt) and prompt[hits] in cache:
        hits += 1
    return hits


def plain_lru(prompts, capacity):
    cache, hits = OrderedDict(), 0
    for prompt in keys_of(prompts):
        hits += plain_hits(cache, prompt)
        for key in reversed(prompt):
            cache[key] = None
            cache.move_to_end(key)
            if len(cache) > capacity:
                cache.popitem(last=False)
    return hits


def plain_belady(prompts, capacity):
    touches = [key for prompt in keys_of(prompts) for key in reversed(prompt)]
    cache, hits, now = set(), 0, 0
    for prompt in keys_of(prompts):
        hits += plain_hits(cache, prompt)
        for key in reversed(prompt):
            now += 1
            if key not in cache and len(cache) == capacity:
                future = touches[now:]
                last = [(future.index(k) if k in future else len(touches), k) for k in cache]
                cache.remove(max(last)[1])
            cache.add(key)
    return hits


def accepted(name):
    try:
        check_policies([name])
    except ReplayError:
        return False
    return True


def manager_policies():
    """The names that the manager accepts here, by its own words."""
    with pytest.raises(ReplayError) as caught:
        check_policies(["no such policy"])
    names = [name for name in re.findall(r"[\w-]+", str(caught.value)) if accepted(name)]
    return [name for name in dict.fromkeys(names) if name != "belady"]


# Few ids and common beginnings, so that prompts share, and the same id stands behind others.
prompts_strategy = st.lists(st.lists(st.integers(0, 3), max_size=7), max_size=25)
some_capacity = st.integers(1, 12)


@settings(max_examples=200)
@given(prompts_strategy, some_capacity)
def test_lru_on_the_manager_hits_as_a_plain_lru(prompts, capacity):
    result = replay_policies(number_blocks(prompts), ["lru"], [capacity])
    assert result.hits["lru"][capacity] == plain_lru(prompts, capacity)


@settings(max_examples=200)
@given(prompts_strategy, some_capacity)
def test_belady_evicts_what_is_touched_again_last(prompts, capacity):
    result = replay_policies(number_blocks(prompts), ["belady"], [capacity])
    assert result.hits["belady"][capacity] == plain_belady(prompts, capacity)


@given(prompts_strategy, some_capacity)
def test_every_policy_hits_at_most_what_was_there_before(prompts, capacity):
    blocks = number_blocks(prompts)
    policies = manager_policies()
    assert "lru" in policies
    distinct = len({key for prompt in keys_of(prompts) for key in prompt})
    assert blocks.num_distinct == distinct
    most = blocks.num_references - distinct
    result = replay_policies(blocks, policies, [capacity, distinct + 1])
    for policy in policies:
        assert 0 <= result.hits[policy][capacity] <= most
        assert result.hits[policy][distinct + 1] == most


def test_ids_may_be_numbers_of_any_size_or_text():
    blocks = number_blocks([[2**70, "a"], [2**70, "a", 1], ["1", 1], [1]])
    assert [prompt.tolist() for prompt in blocks.prompts] == [[0, 1], [0, 1, 2], [3, 4], [5]]


def test_of_a_prompt_longer_than_the_cache_the_head_is_kept():
    prompts = [list(range(10)), list(range(10)), [20]]
    result = replay_policies(number_blocks(prompts), ["lru"], [4])
    assert result.hits["lru"][4] == 4


def test_a_prompt_may_hit_as_a_whole():
    result = replay_policies(number_blocks([[1, 2, 3], [1, 2, 3]]), ["lru", "belady"], [5])
    assert result.hit_rate("lru", 5) == result.hit_rate("belady", 5) == 0.5


def trace_of(*prompts):
    requests = [
        Request(number, 0.0, 1, 1, None if ids is None else tuple(ids))
        for number, ids in enumerate(prompts, 1)
    ]
    return Trace("test", "mooncake", requests)


def test_the_gap_is_closed_from_lru_to_belady():
    # 1 comes back after 2 and 3: with two blocks LRU has lost it, Belady keeps it.
    trace = trace_of([1], [2], [3], [1], [2], [3])
    result = replay_policies(prompts_of(trace), ["lru", "belady"], [2, 3])
    assert result.gap_closed("lru", 2) == 0.0
    assert result.gap_closed("belady", 2) == 1.0
    assert result.gap_closed("lru", 3) is None
    alone = replay_policies(prompts_of(trace), ["belady"], [2])
    assert alone.gap_closed("belady", 2) is None


def test_the_report_has_rates_by_policy_and_capacity():
    trace = trace_of([1], [2], [3], [1], [2], [3], None)
    result = replay_policies(prompts_of(trace), ["lru", "belady"], [2, 3])
    report = policies_as_dict(trace, result)
    assert report["hit_rates"] == {
        "lru": {"2": 0.0, "3": 0.5},
        "belady": {"2": pytest.approx(2 / 6), "3": 0.5},
    }
    assert report["gap_closed"]["belady"] == {"2": 1.0, "3": None}
    assert report["infinite_hit_rate"] == 0.5
    assert report["requests"] == 6
    assert report["skipped_lines"] == 1
    assert policies_as_text(trace, result).isascii()


def test_no_requests_are_a_result():
    result = replay_policies(prompts_of(trace_of()), ["lru", "belady"], [10])
    assert result.hit_rate("lru", 10) == result.hit_rate("belady", 10) == 0.0


def test_a_trace_that_does_not_tell_what_is_shared_is_refused():
    with pytest.raises(ReplayError, match="has no hash_ids; expected JSON lines with hash_ids"):
        prompts_of(trace_of(None, None))


def test_an_unknown_policy_is_refused_with_those_there_are():
    with pytest.raises(ReplayError, match=r"policy 'mru'; expected .*lru.*, or belady"):
        check_policies(["lru", "mru"])


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("capacities", [[3], [1, 2], list(range(1, 20))])
def test_a_picture_is_drawn_of_few_and_of_many_capacities(tmp_path, capacities):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    result = replay_policies(number_blocks([[1, 2], [1, 2]]), ["lru", "belady"], capacities)
    draw_policies(result, str(tmp_path / "picture"), "png")
    assert (tmp_path / "picture").read_bytes().startswith(b"\x89PNG")


@pytest.fixture(scope="module")
def conversation():
    path = os.environ.get("PAGEDKV_MOONCAKE_TRACE")
    if path is None or not Path(path).is_file():
        pytest.skip("PAGEDKV_MOONCAKE_TRACE names no copy of Mooncake's conversation trace")
    return prompts_of(read_trace(path))


def test_the_published_conversation_trace_gives_the_published_figures(conversation):
    result = replay_policies(conversation, ["lru", "belady"], [50_000, 30_000, 10_000, 5859, 1000])
    rates = {
        policy: [round(result.hit_rate(policy, capacity), 3) for capacity in result.capacities]
        for policy in result.policies
    }
    assert rates == {
        "lru": [0.355, 0.326, 0.212, 0.136, 0.045],
        "belady": [0.366, 0.366, 0.366, 0.350, 0.179],
    }


def test_our_own_policy_closes_a_tenth_of_the_gap_there_and_never_falls_below_lru(conversation):
    result = replay_policies(
        conversation, ["lru", "own", "belady"], [1000, 3000, 5859, 10_000, 20_000, 40_000, 50_000]
    )
    gaps = {capacity: result.gap_closed("own", capacity) for capacity in result.capacities}
    assert min(gaps[5859], gaps[10_000]) > 0.10, gaps
    for capacity in result.capacities:
        assert result.hits["own"][capacity] >= 0.99 * result.hits["lru"][capacity], gaps
