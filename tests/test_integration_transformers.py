"""`generate()` says the same with `PagedCache` as with `DynamicCache`, for models of each kind."""

from __future__ import annotations

from typing import Any

import pytest
from support.hf_models import FAMILIES, HYBRIDS, build, prompts, torch, transformers

from pagedkv.errors import UnsupportedError
from pagedkv.integrations.transformers import PagedCache, PagedPool

NEW_TOKENS = 16
MODES = {"gather": "eager", "native": "pagedkv"}
SAID: dict[Any, Any] = {}


def generate(model: Any, batch: dict[str, Any], cache: Any, **options: Any) -> Any:
    options = {"max_new_tokens": NEW_TOKENS, "do_sample": False, **options}
    return model.generate(**batch, past_key_values=cache, **options)


def dense(model: Any, batch: dict[str, Any], **options: Any) -> Any:
    """What the model says with a plain cache; asked once, though both modes want to know."""
    key = (model.config.model_type, model.dtype, str(batch), str(options))
    if key not in SAID:
        model.set_attn_implementation("eager")
        cache = transformers.DynamicCache(config=model.config)
        SAID[key] = generate(model, batch, cache, **options)
    return SAID[key]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


CASES = [
    (name, mode)
    for name in [*FAMILIES, *HYBRIDS]
    for mode in MODES
    if (name, mode) != ("deepseek_v3", "native")  # refused, see below
]


@pytest.mark.parametrize(("name", "mode"), CASES)
def test_greedy_tokens_are_those_of_a_dynamic_cache(name: str, mode: str) -> None:
    model, batch = build(name), prompts([25, 7, 18])
    expected = dense(model, batch)
    model.set_attn_implementation(MODES[mode])
    cache = PagedCache(model.config, num_blocks=400, block_size=4)
    assert torch.equal(generate(model, batch, cache), expected)
    assert len(set(expected[0, 25:].tolist())) > 4  # it does say something
    assert cache.get_seq_length() == 25 + NEW_TOKENS - 1


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2", "gemma3"])
def test_gathered_keys_suit_torch_sdpa(name: str) -> None:
    model, batch = build(name), prompts([25, 7, 18])
    expected = dense(model, batch)
    model.set_attn_implementation("sdpa")
    assert torch.equal(generate(model, batch, PagedCache(model.config)), expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("block_size", [1, 16, 64])
def test_any_block_size_gives_the_same_tokens(block_size: int, mode: str) -> None:
    model, batch = build("gemma2"), prompts([20, 33])
    expected = dense(model, batch)
    model.set_attn_implementation(MODES[mode])
    assert torch.equal(generate(model, batch, PagedCache(model.config, 300, block_size)), expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_the_model_s_own_dtype_is_stored(dtype: str, mode: str) -> None:
    model, batch = build("llama").to(getattr(torch, dtype)), prompts([12])
    expected = dense(model, batch)
    model.set_attn_implementation(MODES[mode])
    cache = PagedCache(model.config, 64)
    got = generate(model, batch, cache)
    bytes_of = 8 if dtype == "float64" else 2
    assert cache.pool.bytes_per_block == 3 * 2 * 2 * 16 * 16 * bytes_of
    if dtype == "float64":
        assert torch.equal(got, expected)
    else:  # sums in another order round to other bfloat16: the first tokens agree
        assert torch.equal(got[:, :16], expected[:, :16])


@pytest.mark.parametrize("mode", MODES)
def test_a_cache_of_fewer_bits_than_the_model_halves_the_memory(mode: str) -> None:
    model, batch = build("llama", attention=MODES[mode]), prompts([40, 40])
    whole, half = PagedCache(model.config, 64), PagedCache(model.config, 64, dtype=torch.bfloat16)
    with torch.no_grad():
        expected = model(**batch, past_key_values=whole).logits
        got = model(**batch, past_key_values=half).logits
    assert half.pool.bytes_per_block * 2 == whole.pool.bytes_per_block
    error = (got - expected).norm() / expected.norm()
    assert 0 < error < 0.05


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["llama", "mistral", "gpt_oss"])
def test_a_prompt_in_chunks_gives_the_same_tokens(name: str, mode: str) -> None:
    # The second row's padding is longer than the first two chunks.
    model, batch = build(name), prompts([29, 6])
    expected = dense(model, batch)
    model.set_attn_implementation(MODES[mode])
    cache = PagedCache(model.config, 300, 4)
    assert torch.equal(generate(model, batch, cache, prefill_chunk_size=8), expected)


@pytest.mark.parametrize("mode", MODES)
def test_samples_are_those_of_a_dynamic_cache(mode: str) -> None:
    model, batch = build("llama"), prompts([15, 9])
    options = {"do_sample": True, "num_return_sequences": 3, "top_k": 20, "temperature": 0.8}
    torch.manual_seed(3)
    expected = dense(model, batch, **options)
    model.set_attn_implementation(MODES[mode])
    torch.manual_seed(3)
    got = generate(model, batch, PagedCache(model.config, 200, 4), **options)
    assert torch.equal(got, expected)
    assert len({tuple(row) for row in got.tolist()}) == 6


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma2", "jamba", "zamba2", "lfm2"])
def test_beams_are_those_of_a_dynamic_cache(name: str, mode: str) -> None:
    model, batch = build(name), prompts([21, 13])
    options = {"num_beams": 4, "num_return_sequences": 2}
    expected = dense(model, batch, **options)
    model.set_attn_implementation(MODES[mode])
    cache = PagedCache(model.config, 400, 4)
    assert torch.equal(generate(model, batch, cache, **options), expected)


def test_beams_share_blocks_until_they_write() -> None:
    model, batch = build("llama", attention="pagedkv"), prompts([41])
    cache = PagedCache(model.config, 200, 4)
    generate(model, batch, cache, num_beams=8)
    held = round(cache.pool.usage * 200)
    alone = 8 * -(-cache.get_seq_length() // 4)
    # The prompt's ten full blocks are held once, not eight times.
    assert held <= alone - 7 * 10
    assert cache.pool.stats().block_copies > 0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["llama", "gemma2", "mistral"])
def test_assisted_decoding_with_a_small_model_is_exact(name: str, mode: str) -> None:
    model, batch = build(name), prompts([17])
    # The assistant agrees often, and not always: some drafts are taken, some cropped.
    torch.manual_seed(1)
    assistant = build(name)
    for weight in assistant.parameters():
        weight.data += 0.02 * torch.randn_like(weight)
    expected = dense(model, batch, max_new_tokens=24)
    model.set_attn_implementation(MODES[mode])
    cache = PagedCache(model.config, 200, 4)
    got = generate(model, batch, cache, assistant_model=assistant, max_new_tokens=24)
    assert torch.equal(got, expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["llama", "gpt_oss"])
def test_prompt_lookup_is_exact(name: str, mode: str) -> None:
    model, batch = build(name), prompts([12])
    ids = batch["input_ids"].repeat(1, 3)  # something to look up
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    expected = dense(model, batch)
    model.set_attn_implementation(MODES[mode])
    cache = PagedCache(model.config, 200, 4)
    assert torch.equal(generate(model, batch, cache, prompt_lookup_num_tokens=4), expected)


@pytest.mark.parametrize("mode", MODES)
def test_a_conversation_goes_on_in_the_same_cache(mode: str) -> None:
    model, first = build("qwen2"), prompts([14])
    more = prompts([9], seed=8)["input_ids"]

    def talk(cache: Any) -> Any:
        said = generate(model, first, cache)
        ids = torch.cat([said, more], 1)
        return generate(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, cache)

    model.set_attn_implementation("eager")
    expected = talk(transformers.DynamicCache(config=model.config))
    model.set_attn_implementation(MODES[mode])
    assert torch.equal(talk(PagedCache(model.config, 200, 4)), expected)


def test_the_two_modes_may_take_turns_on_one_cache() -> None:
    model, batch = build("gemma3"), prompts([19, 11])
    expected = dense(model, batch)
    model.set_attn_implementation("pagedkv")
    cache = PagedCache(model.config, 300, 4)
    some = generate(model, batch, cache, max_new_tokens=5)
    assert torch.equal(some, expected[:, : some.shape[1]])
    model.set_attn_implementation("sdpa")
    padding = (batch["input_ids"] == 0).long()
    mask = torch.cat([1 - padding, torch.ones(2, 5, dtype=torch.long)], 1)
    rest = generate(
        model, {"input_ids": some, "attention_mask": mask}, cache, max_new_tokens=NEW_TOKENS - 5
    )
    assert torch.equal(rest, expected)


@pytest.mark.parametrize("mode", MODES)
def test_padding_is_attended_by_nobody_whatever_it_holds(mode: str) -> None:
    model, batch = build("llama", attention=MODES[mode]), prompts([16, 5])
    expected = generate(model, batch, PagedCache(model.config, 100, 4))
    batch["input_ids"][1, :11] = 77
    got = generate(model, batch, PagedCache(model.config, 100, 4))
    assert torch.equal(got[:, 16:], expected[:, 16:])


def test_the_native_mode_keeps_no_padding() -> None:
    model, batch = build("llama", attention="pagedkv"), prompts([64, 1])
    cache = PagedCache(model.config, 100, 4)
    generate(model, batch, cache, max_new_tokens=1)
    assert round(cache.pool.usage * 100) == 16 + 1


def test_blocks_outside_a_window_are_given_back() -> None:
    model, batch = build("mistral", attention="pagedkv"), prompts([100])
    cache = PagedCache(model.config, 100, 4)
    generate(model, batch, cache, max_new_tokens=40)
    # The window is 9; what is pending may be a block more.
    assert round(cache.pool.usage * 100) <= 4


def test_layers_of_rare_and_common_kinds_share_arrays() -> None:
    model = build("gemma3")
    pool = PagedPool(model.config, 64, 4)
    assert pool.layout.windows == [9, 9, 9, None]  # 5 + 2 layers, in groups of 2
    generate(model, prompts([10]), pool.cache())
    assert pool.bytes_per_block == 2 * 2 * 4 * 2 * 16 * 4  # 2 layers, keys and values


@pytest.mark.parametrize("name", ["llama", "jamba"])
def test_pure_and_hybrid_models_need_no_gradients(name: str) -> None:
    model, batch = build(name), prompts([6])
    with pytest.raises(UnsupportedError, match="record gradients; expected torch"):
        model(**batch, past_key_values=PagedCache(model.config, 16))


def test_latents_are_stored_compressed_and_refused_where_they_would_have_to_be_expanded() -> None:
    model, batch = build("deepseek_v3"), prompts([6])
    cache = PagedCache(model.config, 16)
    generate(model, batch, cache, max_new_tokens=1)
    assert cache.pool.bytes_per_block == 2 * 16 * (16 + 8) * 4  # rank and rotary dims, no heads
    model.set_attn_implementation("pagedkv")
    with pytest.raises(UnsupportedError, match="keys that did not come from PagedCache"):
        generate(model, batch, PagedCache(model.config, 16))
