"""What `PagedCache` refuses, what interrupts it, and what is left then."""

from __future__ import annotations

import copy
import gc
import subprocess
import sys
from typing import Any

import pytest
from support.hf_models import build, dense, generate, logits, prompts, torch, transformers

from pagedkv.errors import (
    InvalidSlotError,
    PagedKvError,
    PoolExhaustedError,
    ShapeError,
    UnsupportedError,
)
from pagedkv.integrations.transformers import PagedCache, PagedPool

MODES = {"gather": "eager", "native": "pagedkv"}


@pytest.fixture(params=MODES.values(), ids=MODES.keys())
def attention(request: pytest.FixtureRequest) -> str:
    return str(request.param)


# Pools that are exhausted, and passes that are interrupted


def test_an_exhausted_pool_says_so_and_loses_nothing(attention: str) -> None:
    model = build("gemma2", attention)
    batch = prompts([18, 18])
    pool = PagedPool(model.config, 20, 4)
    cache = pool.cache()
    expected = dense(model, batch, max_new_tokens=12)
    with pytest.raises(
        PoolExhaustedError,
        match=r"\[PagedCache.update\] 4 more blocks of 4 tokens where 2 of 20 are free",
    ) as caught:
        generate(model, batch, cache, max_new_tokens=12)
    assert caught.value.needed > caught.value.free == pool.num_free_blocks
    held = cache.get_seq_length()
    assert 18 < held < 29
    # Somebody else's tokens cannot have been overwritten: with room, it goes on where it was.
    model.set_attn_implementation("eager")
    said = expected[:, : held + 1]
    cache.batch_select_indices(torch.tensor([1]))
    rest = {"input_ids": said[1:], "attention_mask": torch.ones_like(said[1:])}
    model.set_attn_implementation(attention)
    got = generate(model, rest, cache, max_new_tokens=30 - held - 1)
    assert torch.equal(got, expected[1:])


def interrupted(model: Any, layer: int) -> Any:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    return model.model.layers[layer].mlp.register_forward_pre_hook(interrupt)


def test_an_interrupted_pass_is_noticed_and_can_be_cropped(attention: str) -> None:
    model = build("llama", attention)
    ids = prompts([12])["input_ids"]
    cache = PagedCache(model.config, 32, 4)
    logits(model, ids[:, :8], cache)
    expected = logits(model, ids[:, 8:], copy.deepcopy(cache))
    hook = interrupted(model, 1)
    with pytest.raises(KeyboardInterrupt):
        logits(model, ids[:, 8:], cache)
    hook.remove()
    with pytest.raises(
        PagedKvError, match=r"layer 2 holds 8 columns where 12 have slots.*expected crop\(-4\)"
    ):
        logits(model, ids[:, 8:], cache)
    cache.crop(-4)
    assert torch.equal(logits(model, ids[:, 8:], cache), expected)


@pytest.mark.parametrize("layer", [0, 1])
def test_an_interrupted_first_pass_leaves_nothing_to_be_found(attention: str, layer: int) -> None:
    model = build("llama", attention)
    pool, batch = PagedPool(model.config, 64, 4), prompts([12])
    hook = interrupted(model, layer)
    with pytest.raises(KeyboardInterrupt), pool.cache(**batch) as cache:
        logits(model, batch["input_ids"], cache)
    hook.remove()
    cache = pool.cache(**batch)
    assert cache.get_seq_length() == 0
    assert torch.equal(generate(model, batch, cache), dense(model, batch))


def test_an_interrupted_first_pass_is_noticed_and_can_be_cropped(attention: str) -> None:
    model, ids = build("llama", attention), prompts([12])["input_ids"]
    cache = PagedCache(model.config, 32, 4)
    hook = interrupted(model, 0)
    with pytest.raises(KeyboardInterrupt):
        logits(model, ids, cache)
    hook.remove()
    said = r"layer 1 holds 0 columns where 12 have slots.*expected crop\(-12\)"
    with pytest.raises(PagedKvError, match=said):
        copy.deepcopy(cache)
    with pytest.raises(PagedKvError, match=said):
        cache.crop(-4)
    with pytest.raises(PagedKvError, match=said):
        logits(model, ids, cache)
    cache.crop(-12)
    fresh = PagedCache(model.config, 32, 4)
    assert torch.equal(logits(model, ids, cache), logits(model, ids, fresh))


@pytest.mark.parametrize(("name", "call"), [("commit", 1), ("acquire", 2), ("append", 2)])
def test_an_error_of_the_manager_keeps_no_blocks(name: str, call: int, monkeypatch: Any) -> None:
    model, batch = build("llama", "pagedkv"), prompts([12, 10])
    pool = PagedPool(model.config, 32, 4)
    with pool.cache(**batch) as cache:
        logits(model, batch["input_ids"], cache)
    cache = pool.cache()
    logits(model, batch["input_ids"], cache)

    class Failing:
        """The pool's manager, one of whose functions fails once."""

        def __init__(self, manager: Any) -> None:
            self.manager = manager
            self.calls = 0

        def __getattr__(self, asked: str) -> Any:
            if asked == name:
                self.calls += 1
                if self.calls == call:
                    raise MemoryError(name)
            return getattr(self.manager, asked)

    manager = pool.manager
    monkeypatch.setattr(pool, "manager", Failing(manager))
    with pytest.raises(MemoryError, match=name):
        cache.reuse(**batch)
    assert pool.usage == 0.0
    assert (cache.get_seq_length(), cache.batch_size) == (0, -1)
    assert len(manager) == 0


def test_blocks_go_back_with_the_cache() -> None:
    model = build("llama", "pagedkv")
    pool = PagedPool(model.config, 16, 4)
    ids = prompts([10])["input_ids"]
    cache = pool.cache()
    logits(model, ids, cache)
    assert pool.usage > 0
    cache.reset()
    assert (pool.usage, cache.get_seq_length()) == (0.0, 0)
    logits(model, ids, cache)
    gc.disable()  # without a collection: nothing holds it in a circle
    try:
        del cache
        assert pool.usage == 0.0
    finally:
        gc.enable()


# What is refused


def test_a_wrong_batch_is_refused(attention: str) -> None:
    model = build("llama", attention)
    cache = PagedCache(model.config, 32, 4)
    logits(model, prompts([5, 5])["input_ids"], cache)
    with pytest.raises(ShapeError, match="a batch of 3; expected a multiple of the 2 rows"):
        logits(model, prompts([1, 1, 1])["input_ids"], cache)
    assert cache.get_seq_length() == 5
    assert cache.batch_size == 2


def test_holes_in_a_mask_are_refused() -> None:
    model, batch = build("llama", "pagedkv"), prompts([9, 9])
    batch["attention_mask"][1, 4] = 0
    cache = PagedCache(model.config, 32, 4)
    with pytest.raises(ShapeError, match="zeros behind the first token of a row; expected padding"):
        generate(model, batch, cache)
    assert (cache.get_seq_length(), cache.pool.usage) == (0, 0.0)
    with pytest.raises(ShapeError, match=r"\[PagedCache.reuse\] a mask with zeros behind"):
        cache.reuse(**batch)


def test_a_mask_that_disagrees_with_what_is_held_is_refused() -> None:
    model, batch = build("llama", "pagedkv"), prompts([9, 6])
    cache = PagedCache(model.config, 32, 4)
    said = generate(model, batch, cache)
    mask = torch.ones_like(said)
    mask[0, :5] = 0
    with pytest.raises(ShapeError, match=r"a mask of \[11, 16\] tokens; expected \[16, 13\]"):
        generate(model, {"input_ids": said, "attention_mask": mask}, cache)


def test_the_native_mode_refuses_what_its_kernels_do_not_do() -> None:
    model, batch = build("llama", "pagedkv"), prompts([6])
    cache = PagedCache(model.config, 32)
    with pytest.raises(UnsupportedError, match="expected past_key_values=PagedCache"):
        generate(model, batch, transformers.DynamicCache(config=model.config))
    with pytest.raises(UnsupportedError, match="output_attentions=True; expected 'eager'"):
        generate(model, batch, cache, output_attentions=True, return_dict_in_generate=True)
    with (
        pytest.raises(UnsupportedError, match=r"a mask torch.float32 \(1, 1, 6, 6\)"),
        torch.no_grad(),
    ):
        model(
            input_ids=batch["input_ids"],
            attention_mask=torch.zeros(1, 1, 6, 6),
            past_key_values=cache,
        )
    model.train()
    model.config.attention_dropout = 0.1
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.1
    with pytest.raises(UnsupportedError, match=r"dropout 0.1; expected model.eval"):
        logits(model, batch["input_ids"], cache)
    assert cache.get_seq_length() == 0


def test_a_configuration_that_is_not_the_running_model_s_is_noticed() -> None:
    model, batch = build("llama", "pagedkv"), prompts([9])
    cache = PagedCache(copy.deepcopy(model.config), 32, 4)
    model.set_attn_implementation("sdpa")
    for _ in range(2):
        with pytest.raises(UnsupportedError, match=r"the configuration of the model that runs"):
            generate(model, batch, cache)
    assert (cache.get_seq_length(), cache.pool.usage) == (0, 0.0)
    model.set_attn_implementation("pagedkv")
    cache.reset()
    assert torch.equal(generate(model, batch, cache), dense(model, batch))


def test_a_mask_of_the_model_s_own_is_refused() -> None:
    model = build("gemma3", "pagedkv", use_bidirectional_attention=True)
    with pytest.raises(UnsupportedError, match="a mask with a pattern of its own"):
        generate(model, prompts([6]), PagedCache(model.config, 64))


def test_models_that_it_cannot_hold_are_refused() -> None:
    with pytest.raises(UnsupportedError, match=r"encoder-decoder \(t5\)"):
        PagedPool(transformers.T5Config())
    with pytest.raises(UnsupportedError, match="a model without attention layers"):
        PagedPool(transformers.MambaConfig(num_hidden_layers=2))
    config = build("llama").config
    config.layer_types = ["full_attention", "compressed_sparse_attention", "full_attention"]
    with pytest.raises(UnsupportedError, match="layers of type compressed_sparse_attention"):
        PagedPool(config)


def test_a_cache_has_a_configuration_or_a_pool() -> None:
    config = build("llama").config
    with pytest.raises(ShapeError, match="neither of config and pool"):
        PagedCache()
    with pytest.raises(ShapeError, match="both of config and pool"):
        PagedCache(config, pool=PagedPool(config, 4))
    with pytest.raises(PagedKvError, match="block_size"):
        PagedCache(config, 4, 0)


@pytest.mark.parametrize(
    "own", [{"num_blocks": 3}, {"block_size": 16}, {"dtype": torch.float16}, {"device": "cpu"}]
)
def test_a_pool_has_its_own_sizes_dtype_and_device(own: dict[str, Any]) -> None:
    pool = PagedPool(build("llama").config, 4)
    with pytest.raises(ShapeError, match=rf"\[PagedCache\] {next(iter(own))} beside a pool"):
        PagedCache(pool=pool, **own)


@pytest.mark.parametrize("name", ["num_blocks", "block_size", "num_states", "checkpoint_interval"])
@pytest.mark.parametrize("size", [0, -2])
def test_sizes_of_a_pool_are_above_0(name: str, size: int) -> None:
    with pytest.raises(ShapeError, match=rf"\[PagedPool\] {name} {size}; expected more than 0"):
        PagedPool(build("llama").config, **{name: size})


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.complex64, "bfloat16"])
def test_a_pool_stores_floats(dtype: Any) -> None:
    with pytest.raises(UnsupportedError, match=rf"\[PagedPool\] dtype {dtype!r}; .*bfloat16"):
        PagedPool(build("llama").config, 4, dtype=dtype)


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2", "float16"])
def test_a_pool_of_few_bits_is_close(attention: str, dtype: str) -> None:
    model, ids = build("llama", attention), prompts([20])["input_ids"]
    expected = logits(model, ids, PagedCache(model.config, 16))
    got = logits(model, ids, PagedCache(model.config, 16, dtype=getattr(torch, dtype)))
    error = (got - expected).norm() / expected.norm()
    assert 0 < error < (0.01 if dtype == "float16" else 0.5)


def test_keys_are_stored_on_the_device_of_the_model(attention: str) -> None:
    model, ids = build("llama", attention), prompts([5])["input_ids"]
    cache = PagedCache(model.config, 8, device="meta")
    with pytest.raises(UnsupportedError, match=r"device 'meta' under keys on 'cpu'; expected None"):
        logits(model, ids, cache)
    assert (cache.batch_size, cache.pool.usage) == (-1, 0.0)
    with pytest.raises(UnsupportedError, match=r"\[PagedPool\] device 'gpu'; expected None"):
        PagedCache(model.config, 8, device="gpu")
    cache = PagedCache(model.config, 8, device="cpu")
    logits(model, ids, cache)
    assert cache.get_seq_length() == 5


def test_a_configuration_is_the_model_s() -> None:
    with pytest.raises(ShapeError, match=r"\[PagedPool\] config: str; expected model.config"):
        PagedCache("gpt2")


@pytest.mark.parametrize("count", [-1.7, "2", None])
def test_a_crop_is_of_whole_tokens(count: Any) -> None:
    cache = PagedCache(build("llama").config, 8)
    with pytest.raises(ShapeError, match=r"\[PagedCache.crop\] .* tokens; expected an integer"):
        cache.crop(count)


def test_rows_that_are_not_held_are_refused() -> None:
    model = build("llama", "pagedkv")
    cache = PagedCache(model.config, 32, 4)
    logits(model, prompts([5, 5])["input_ids"], cache)
    for choose in (cache.batch_select_indices, cache.reorder_cache):
        with pytest.raises(InvalidSlotError, match=r"row 5; expected one of the 2 rows") as caught:
            choose(torch.tensor([0, 5]))
        assert caught.value.slot == 5
    with pytest.raises(ShapeError, match=r"torch.bool \(3,\); expected .* a mask \(2,\)"):
        cache.batch_select_indices(torch.tensor([True, False, True]))
    with pytest.raises(ShapeError, match="0 times; expected 1 or more"):
        cache.batch_repeat_interleave(0)
    assert (cache.batch_size, cache.get_seq_length()) == (2, 5)
    cache.batch_select_indices([-1])
    assert cache.batch_size == 1


@pytest.mark.parametrize("name", ["llama", "bamba"])
def test_a_selection_of_no_rows_empties(name: str) -> None:
    model, batch = build(name, "pagedkv"), prompts([9])
    cache = PagedCache(model.config, 32, 4)
    logits(model, prompts([9, 9])["input_ids"], cache)
    cache.batch_select_indices(torch.tensor([False, False]))
    assert (cache.batch_size, cache.get_seq_length(), cache.pool.usage) == (-1, 0, 0.0)
    assert torch.equal(generate(model, batch, cache), dense(model, batch))


def test_a_reordered_empty_cache_may_be_remembered() -> None:
    model, batch = build("llama", "pagedkv"), prompts([9])
    cache = PagedPool(model.config, 32, 4).cache()
    cache.reorder_cache(torch.tensor([1, 0]))
    cache.remember(generate(model, batch, cache))


@pytest.mark.parametrize("name", ["indices", "block_indices", "sinks"])
def test_keys_that_a_model_picks_are_refused(name: str) -> None:
    model, ids = build("llama", "pagedkv"), prompts([5])["input_ids"]
    cache = PagedCache(model.config, 8)
    with (
        torch.no_grad(),
        pytest.raises(UnsupportedError, match=rf"\[attn_implementation='pagedkv'\] {name}="),
    ):
        model(input_ids=ids, past_key_values=cache, **{name: torch.zeros(1)})
    assert cache.get_seq_length() == 0


def test_only_true_token_ids_are_remembered() -> None:
    model, batch = build("llama", "pagedkv"), prompts([9])
    pool = PagedPool(model.config, 64, 4)
    cache = pool.cache(batch["input_ids"])
    said = generate(model, batch, cache)
    with pytest.raises(ShapeError, match=r"sequences \(1, 15\); expected \(1, 16 or more\)"):
        cache.remember(said[:, :15])
    wrong = said.clone()
    wrong[0, 3] += 1
    with pytest.raises(ShapeError, match="row 0 begins otherwise than the prompt"):
        cache.remember(wrong)
    beams = pool.cache(batch["input_ids"])
    best = generate(model, batch, beams, num_beams=3)
    assert torch.equal(best, dense(model, batch, num_beams=3))
    with pytest.raises(UnsupportedError, match="rows that beam search reordered"):
        beams.remember(best)


def test_padding_that_a_cache_was_not_told_of_is_not_remembered() -> None:
    model, batch = build("llama"), prompts([9, 5])
    pool = PagedPool(model.config, 64, 4)
    mask = batch["attention_mask"]
    cache = pool.cache()
    said = generate(model, batch, cache)
    with pytest.raises(ShapeError, match=r"\[0, 4\] columns of padding; expected \[0, 0\]"):
        cache.remember(said, mask)
    for wrong in (mask.tolist(), mask[:1], torch.ones(2, 30)):
        with pytest.raises(ShapeError, match=r"\[PagedCache.remember\] attention_mask: "):
            cache.remember(said, wrong)
    cache.close()
    assert pool.cache(**batch).get_seq_length() == 0
    cache = pool.cache(**batch)
    said = generate(model, batch, cache)
    cache.remember(said, mask)
    cache.close()
    whole = torch.cat([mask, torch.ones(2, 8, dtype=mask.dtype)], 1)
    cache = pool.cache(said, whole)
    assert cache.get_seq_length() == 16
    cache.remember(said, whole)


@pytest.mark.parametrize("wrong", [[[1, 2]], torch.zeros(1, 20), torch.zeros(20)])
def test_what_is_remembered_are_integers_of_two_dimensions(wrong: Any) -> None:
    cache = PagedPool(build("llama").config, 4).cache()
    with pytest.raises(ShapeError, match=r"\[PagedCache.remember\] sequences: .*expected integer"):
        cache.remember(wrong)


def test_ids_masks_and_salts_of_another_type_are_refused() -> None:
    model, batch = build("llama", "pagedkv"), prompts([9])
    ids = batch["input_ids"]
    cache = PagedPool(model.config, 32, 4).cache()
    logits(model, ids, cache)
    with pytest.raises(ShapeError, match=r"attention_mask: list; expected the shape of input_ids"):
        cache.reuse(ids, [[1] * 9])
    with pytest.raises(ShapeError, match=r"\[PagedCache.reuse\] salt: str; expected bytes"):
        cache.reuse(ids, salt="tenant")
    with pytest.raises(ShapeError, match=rf"the id {int(ids[0, 0]) + 2**32}; expected ids of 32"):
        cache.reuse(ids + 2**32)
    with pytest.raises(ShapeError, match=r"sequences: the id \d+; expected ids of 32 bits"):
        cache.remember(ids + 2**32)
    assert cache.get_seq_length() == 9


@pytest.mark.parametrize("ids", [[1, 2], torch.zeros(3, dtype=torch.long), torch.zeros(1, 3)])
def test_prompts_are_integers_of_two_dimensions(ids: Any) -> None:
    pool = PagedPool(build("llama").config, 4)
    with pytest.raises(ShapeError, match=r"\[PagedCache.reuse\] input_ids: .*expected integers"):
        pool.cache(ids)


@pytest.mark.parametrize(
    ("preparation", "said"),
    [
        ("import sys; sys.modules['transformers'] = None", "transformers"),
        ("import transformers; transformers.__version__ = '5.22.1'", "transformers 5.22.1"),
        ("import transformers; transformers.__version__ = '6.0.0'", "transformers 6.0.0"),
    ],
)
def test_without_the_right_transformers_the_error_names_the_extra(
    preparation: str, said: str
) -> None:
    program = (
        f"{preparation}\n"
        "try:\n    import pagedkv.integrations.transformers\n"
        "except ImportError as error:\n    print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "[pagedkv.integrations.transformers]" in done.stdout
    assert said in done.stdout
    assert "pip install 'pagedkv[transformers]'" in done.stdout
