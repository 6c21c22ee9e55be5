"""`PagedCache` of models whose layers have states: Mamba, linear attention, convolutions."""

from __future__ import annotations

import copy

import pytest
from support.hf_models import build, dense, generate, prompts, torch

from pagedkv.errors import PoolExhaustedError, UnsupportedError
from pagedkv.integrations.transformers import PagedCache, PagedPool

RESUMABLE = ["bamba", "falcon_h1", "zamba2", "qwen3_next", "lfm2"]


@pytest.mark.parametrize("name", RESUMABLE)
def test_a_prompt_is_reused_from_the_latest_checkpoint(name: str) -> None:
    model = build(name, "pagedkv")
    pool = PagedPool(model.config, 128, 4, checkpoint_interval=8)
    batch = prompts([30])
    expected = dense(model, batch)
    first = generate(model, batch, pool.cache(**batch), prefill_chunk_size=8)
    assert torch.equal(first, expected)
    longer = torch.cat([batch["input_ids"][:, :27], prompts([6], seed=3)["input_ids"]], 1)
    for ids, held in ((batch["input_ids"], 24), (longer, 24), (longer[:, :17], 16)):
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        cache = pool.cache(ids)
        assert cache.get_seq_length() == held
        assert torch.equal(generate(model, batch, cache), dense(model, batch))


def test_a_prompt_that_ended_on_no_checkpoint_is_not_reused() -> None:
    model = build("bamba", "pagedkv")
    pool = PagedPool(model.config, 128, 4, checkpoint_interval=8)
    batch = prompts([30])
    generate(model, batch, pool.cache(**batch))
    assert pool.cache(**batch).get_seq_length() == 0
    with pool.cache(batch["input_ids"][:, :24]) as cache, torch.no_grad():
        model(input_ids=batch["input_ids"][:, :24], past_key_values=cache)
    assert pool.cache(**batch).get_seq_length() == 24


def test_models_that_cannot_go_on_from_a_state_reuse_nothing() -> None:
    model, batch = build("jamba", "pagedkv"), prompts([16])
    pool = PagedPool(model.config, 128, 4, checkpoint_interval=8)
    for _ in range(2):
        cache = pool.cache(**batch)
        assert cache.get_seq_length() == 0
        assert torch.equal(generate(model, batch, cache), dense(model, batch))


def test_too_few_slots_cost_reuse_and_nothing_else() -> None:
    model = build("bamba", "pagedkv")
    pool = PagedPool(model.config, 128, 4, num_states=1, checkpoint_interval=8)
    batch = prompts([30, 30])
    said = generate(model, batch, pool.cache(**batch), prefill_chunk_size=8)
    assert torch.equal(said, dense(model, batch))
    assert pool.cache(**batch).get_seq_length() == 0


def test_a_deep_copy_has_states_of_its_own() -> None:
    model = build("qwen3_next", "pagedkv")
    ids = prompts([12])["input_ids"]
    cache = PagedCache(model.config, 128, 4)
    with torch.no_grad():
        model(input_ids=ids, past_key_values=cache)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    for seed in (1, 2):
        longer = torch.cat([ids, prompts([3], seed)["input_ids"]], 1)
        batch = {"input_ids": longer, "attention_mask": torch.ones_like(longer)}
        assert torch.equal(generate(model, batch, copy.deepcopy(cache)), dense(model, batch))


def test_a_cache_is_reset_for_a_batch_of_another_size() -> None:
    model = build("jamba", "pagedkv")
    cache = PagedCache(model.config, 128, 4)
    for lengths in ([9, 4], [7, 7, 7]):
        batch = prompts(lengths)
        assert torch.equal(generate(model, batch, cache), dense(model, batch))
        cache.reset()


@pytest.mark.parametrize("name", ["jamba", "falcon_h1"])
@pytest.mark.parametrize("attention", ["eager", "pagedkv"])
def test_an_exhausted_pool_is_noticed_before_a_state_has_changed(name: str, attention: str) -> None:
    model = build(name, attention)
    batch = prompts([15, 15])
    expected = dense(model, batch, max_new_tokens=12)
    num_blocks = 10
    cache = PagedCache(model.config, num_blocks, 4)
    with pytest.raises(
        PoolExhaustedError, match="2 more blocks of 4 tokens where 0 of 10 are free"
    ):
        generate(model, batch, cache, max_new_tokens=12)
    assert cache.get_seq_length() == 20
    cache.batch_select_indices(torch.tensor([1]))
    said = expected[1:, :21]
    rest = {"input_ids": said, "attention_mask": torch.ones_like(said)}
    assert torch.equal(generate(model, rest, cache, max_new_tokens=6), expected[1:])


@pytest.mark.parametrize("attention", ["eager", "pagedkv"])
def test_a_first_pass_that_found_no_room_leaves_no_states(attention: str) -> None:
    model, batch = build("bamba", attention), prompts([10])
    cache = PagedCache(model.config, 4, 4)
    with pytest.raises(PoolExhaustedError):
        generate(model, prompts([20], seed=3), cache)
    assert cache.get_seq_length() == 0
    assert not cache.has_previous_state(0)
    options = {"max_new_tokens": 5}
    assert torch.equal(generate(model, batch, cache, **options), dense(model, batch, **options))


def test_checkpoints_of_inference_mode_serve_passes_without_it() -> None:
    model, batch = build("bamba", "pagedkv"), prompts([24])
    pool = PagedPool(model.config, 128, 4, checkpoint_interval=8)
    with torch.inference_mode(), pool.cache(**batch) as cache:
        model(input_ids=batch["input_ids"][:, :16], past_key_values=cache)
    with torch.no_grad(), pool.cache(**batch) as cache:
        assert cache.get_seq_length() == 16
        model(input_ids=batch["input_ids"][:, 16:], past_key_values=cache)
    cache = pool.cache(**prompts([32], seed=5))
    assert cache.get_seq_length() == 0
    assert torch.equal(generate(model, batch, pool.cache(**batch)), dense(model, batch))


def test_rows_are_repeated_with_their_states() -> None:
    model = build("zamba2", "pagedkv")
    batch = prompts([10])
    cache = PagedCache(model.config, 128, 4)
    with torch.no_grad():
        model(input_ids=batch["input_ids"][:, :-1], past_key_values=cache)
    cache.batch_repeat_interleave(3)
    torch.manual_seed(0)
    options = {"do_sample": True, "num_return_sequences": 3, "top_k": 20}
    got = generate(model, batch, cache, **options)
    torch.manual_seed(0)
    assert torch.equal(got, dense(model, batch, **options))


def test_recurrent_states_cannot_be_cropped() -> None:
    model, batch = build("bamba", "pagedkv"), prompts([10])
    cache = PagedCache(model.config, 128, 4)
    generate(model, batch, cache)
    with pytest.raises(UnsupportedError, match="-2 tokens of a model with recurrent states"):
        cache.crop(-2)
    cache.crop(0)
    assert cache.get_seq_length() == 17


def test_convolutions_can_be_cropped_when_the_past_was_recorded() -> None:
    model, ids = build("lfm2", "pagedkv"), prompts([14])["input_ids"]
    cache = PagedCache(model.config, 128, 4)
    with torch.no_grad():
        model(input_ids=ids[:, :10], past_key_values=cache)
        with pytest.raises(UnsupportedError, match=r"expected activate_past_recording\(\) before"):
            cache.crop(-2)
        expected = model(input_ids=ids[:, 10:], past_key_values=copy.deepcopy(cache)).logits
        cache.activate_past_recording()
        model(input_ids=ids[:, :3], past_key_values=cache)
        cache.crop(-3)
        got = model(input_ids=ids[:, 10:], past_key_values=cache).logits
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_which_layers_have_what_is_told_to_the_masks() -> None:
    cache = PagedCache(build("falcon_h1").config, 8)
    assert (cache.is_linear, cache.is_sliding) == ([False] * 2, [False] * 2)
    cache = PagedCache(build("jamba").config, 8)
    assert cache.is_linear == [True, False] * 2
    assert not cache.has_previous_state(0)
