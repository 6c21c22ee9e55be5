"""`PagedCache` as an object: reuse, copies, crops."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from support.hf_models import build, dense, generate, logits, prompts, torch, transformers

from pagedkv.errors import CapacityError, ShapeError
from pagedkv.integrations.transformers import PagedCache, PagedPool

MODES = {"gather": "eager", "native": "pagedkv"}


@pytest.fixture(params=MODES.values(), ids=MODES.keys())
def attention(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Computed:
    """Counts the tokens that a model is given."""

    def __init__(self, model: Any) -> None:
        self.counts: list[int] = []
        model.get_input_embeddings().register_forward_pre_hook(
            lambda _, args: self.counts.append(args[0].shape[1])
        )


# Reuse


def test_a_known_prompt_is_computed_once(attention: str) -> None:
    model = build("llama", attention)
    pool = PagedPool(model.config, 128, 4)
    first, second = prompts([50]), prompts([50])
    second["input_ids"][0, 40:] += 1  # the same beginning of 40 tokens
    expected = dense(model, first), dense(model, second)
    computed = Computed(model)
    with pool.cache(first["input_ids"]) as cache:
        assert torch.equal(generate(model, first, cache), expected[0])
    assert computed.counts == [50] + [1] * 7
    assert pool.usage == 0.0
    computed.counts.clear()
    with pool.cache(second["input_ids"]) as cache:
        assert cache.get_seq_length() == 40
        assert torch.equal(generate(model, second, cache), expected[1])
    assert computed.counts == [10] + [1] * 7
    assert pool.stats().hit_tokens == 40


def test_a_window_is_reused_too(attention: str) -> None:
    model = build("gemma3", attention)
    pool = PagedPool(model.config, 256, 4)
    batch = prompts([32])
    expected = dense(model, batch)
    for held in (0, 28):  # of 32 tokens at least one is computed, and blocks are whole
        with pool.cache(batch["input_ids"]) as cache:
            assert cache.get_seq_length() == held
            assert torch.equal(generate(model, batch, cache), expected)


def test_what_was_generated_is_reused_when_the_cache_was_told(attention: str) -> None:
    model = build("mistral", attention)
    pool = PagedPool(model.config, 128, 4)
    batch = prompts([10])
    with pool.cache(batch["input_ids"]) as cache:
        said = generate(model, batch, cache, max_new_tokens=20)
        cache.remember(said)
    longer = torch.cat([said, prompts([5])["input_ids"]], 1)
    batch = {"input_ids": longer, "attention_mask": torch.ones_like(longer)}
    expected = dense(model, batch)
    cache = pool.cache(longer)
    assert cache.get_seq_length() == 28  # of 29 that were written, whole blocks
    assert torch.equal(generate(model, batch, cache), expected)


def test_a_padded_batch_reuses_as_much_as_its_least_known_row(attention: str) -> None:
    model = build("llama", attention)
    pool = PagedPool(model.config, 128, 4)
    batch = prompts([30, 22])
    expected = dense(model, batch)
    generate(model, batch, pool.cache(**batch))
    cache = pool.cache(**batch)
    assert cache.get_seq_length() == 28  # 7 full blocks; and 8 of padding and 5
    assert torch.equal(generate(model, batch, cache), expected)
    other = prompts([30, 22], seed=9)
    batch["input_ids"][1] = other["input_ids"][1]  # the second row is new, behind 8 of padding
    expected = dense(model, batch)
    cache = pool.cache(**batch)
    assert cache.get_seq_length() == 8
    assert torch.equal(generate(model, batch, cache), expected)


def test_samples_of_a_known_prompt_hold_it_once(attention: str) -> None:
    model = build("llama", attention)
    pool = PagedPool(model.config, 128, 4)
    batch = prompts([41])
    cache = pool.cache(batch["input_ids"])
    torch.manual_seed(0)
    options = {"do_sample": True, "num_return_sequences": 4, "top_k": 30}
    got = generate(model, batch, cache, **options)
    assert round(pool.usage * 128) == 10 + 4 * 2  # 7 tokens behind a 41st that each one copied
    torch.manual_seed(0)
    assert torch.equal(got, dense(model, batch, **options))
    cache.remember(got)
    cache.close()
    assert all(pool.cache(row[None]).get_seq_length() >= 44 for row in got)


def test_different_salts_share_nothing() -> None:
    model = build("llama", "pagedkv")
    pool = PagedPool(model.config, 128, 4)
    batch = prompts([20])
    with pool.cache(batch["input_ids"], salt=b"a") as cache:
        generate(model, batch, cache)
    assert pool.cache(batch["input_ids"], salt=b"b").get_seq_length() == 0
    assert pool.cache(batch["input_ids"], salt=b"a").get_seq_length() == 19


def test_a_cache_may_be_reused_for_another_prompt(attention: str) -> None:
    model = build("llama", attention)
    cache = PagedPool(model.config, 64, 4).cache()
    for seed in (1, 2, 1):
        batch = prompts([20], seed)
        held = cache.reuse(**batch)
        assert torch.equal(generate(model, batch, cache), dense(model, batch))
    assert held == 19


# Copies


def test_a_deep_copy_shares_blocks_until_one_side_writes(attention: str) -> None:
    model = build("gemma2", attention)
    system, tails = prompts([18])["input_ids"], [prompts([6], seed)["input_ids"] for seed in (1, 2)]
    cache = PagedCache(model.config, 128, 4)
    logits(model, system, cache)
    cache.crop(0)  # what the window has left is given back
    held = cache.pool.usage
    for tail in tails:
        branch = copy.deepcopy(cache)
        assert cache.pool.usage == held
        ids = torch.cat([system, tail], 1)
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        assert torch.equal(generate(model, batch, branch), dense(model, batch))
        assert cache.get_seq_length() == 18
        branch.close()


def test_rows_are_selected_and_repeated(attention: str) -> None:
    model = build("qwen2", attention)
    batch = prompts([14, 14, 14])["input_ids"]
    paged, plain = PagedCache(model.config, 128, 4), transformers.DynamicCache(config=model.config)
    logits(model, batch, paged)
    model.set_attn_implementation("eager")
    logits(model, batch, plain)
    steps = iter(range(1, 9))

    def agree(rows: int) -> None:
        ids = prompts([1] * rows, next(steps))["input_ids"]
        model.set_attn_implementation("eager")
        expected = logits(model, ids, plain)
        model.set_attn_implementation(attention)
        torch.testing.assert_close(logits(model, ids, paged), expected, rtol=1e-4, atol=1e-4)

    for cache in (paged, plain):
        cache.batch_select_indices(torch.tensor([2, 0]))
    agree(2)
    for cache in (paged, plain):
        cache.batch_repeat_interleave(2)
    agree(4)
    for cache in (paged, plain):
        cache.reorder_cache(torch.tensor([3, 3, 0, 1]))
    agree(4)
    for cache in (paged, plain):
        cache.batch_select_indices(torch.tensor([True, False, False, True]))
    agree(2)


# Crops


def test_a_crop_takes_back_the_last_tokens(attention: str) -> None:
    model = build("gemma3", attention)
    ids = prompts([6, 6])["input_ids"]  # shorter than the window of 9
    cache = PagedCache(model.config, 128, 4)
    logits(model, ids, cache)
    again = logits(model, ids[:, 3:], copy.deepcopy(cache))
    other = logits(model, ids[:, :3], cache)
    assert cache.get_seq_length() == 9
    cache.crop(-3)
    assert cache.get_seq_length() == 6
    assert torch.equal(logits(model, ids[:, 3:], cache), again)
    assert not torch.equal(other, again)


def test_what_one_pass_wrote_can_go_whatever_the_window(attention: str) -> None:
    model = build("mistral", attention)
    ids = prompts([40])["input_ids"]
    cache = PagedCache(model.config, 128, 4)
    logits(model, ids[:, :30], cache)
    expected = logits(model, ids[:, 30:34], copy.deepcopy(cache))
    logits(model, ids[:, 32:], cache)
    cache.crop(-8)
    assert torch.equal(logits(model, ids[:, 30:34], cache), expected)


def test_what_a_window_gave_back_cannot_be_cropped_to_unless_it_was_recorded() -> None:
    model = build("mistral", "pagedkv")
    ids = prompts([40])["input_ids"]
    cache = PagedCache(model.config, 128, 4)
    for token in ids.split(1, dim=1):
        logits(model, token, cache)
    with pytest.raises(CapacityError, match=r"-20 tokens with a window of 9 .*at most the 1 token"):
        cache.crop(-20)
    assert cache.get_seq_length() == 40
    recorded = PagedCache(model.config, 128, 4)
    recorded.activate_past_recording()
    for token in ids.split(1, dim=1):
        logits(model, token, recorded)
    assert round(recorded.pool.usage * 128) == 10
    recorded.crop(-20)
    assert round(recorded.pool.usage * 128) == 2
    expected = logits(model, ids[:, 20:], recorded)
    fresh = PagedCache(model.config, 128, 4)
    logits(model, ids[:, :20], fresh)
    torch.testing.assert_close(expected, logits(model, ids[:, 20:], fresh), rtol=1e-4, atol=1e-4)


def test_a_crop_of_none_changes_nothing_and_one_of_all_empties() -> None:
    model = build("llama", "pagedkv")
    ids = prompts([10])["input_ids"]
    cache = PagedCache(model.config, 16, 4)
    expected = logits(model, ids, cache)
    cache.crop(0)
    assert cache.get_seq_length() == 10
    cache.crop(-10)
    assert cache.get_seq_length() == 0
    assert cache.pool.usage == 0.0
    assert torch.equal(logits(model, ids, cache), expected)


@pytest.mark.parametrize("count", [5, -11])
def test_a_crop_is_a_count_to_remove_negated(count: int) -> None:
    model = build("llama", "pagedkv")
    cache = PagedCache(model.config, 16, 4)
    logits(model, prompts([10])["input_ids"], cache)
    with pytest.raises(ShapeError, match=rf"\[PagedCache.crop\] {count} tokens; expected -10 to 0"):
        cache.crop(count)
    assert cache.get_seq_length() == 10
