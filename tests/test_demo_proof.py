"""The proof finds what is wrong, calls a tie a tie, and never takes one for the other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.demo_requests import GREEDY, model, requests

from pagedkv.demo import (
    DemoConfig,
    DemoResult,
    Difference,
    Engine,
    EngineConfig,
    Proof,
    Request,
    as_dict,
    as_text,
    prove,
    run_demo,
)
from pagedkv.demo.proof import ROUNDING
from pagedkv.models import DOCSTRINGS, Llama, ModelError, PagedCache, Sampler

DRAWN = Sampler(temperature=0.9, top_k=40, seed=5)


def served(sampler: Sampler = GREEDY) -> list[Request]:
    batch = requests(16)
    for _ in Engine(model(), EngineConfig(64, block_size=4), batch, sampler).run():
        pass
    return batch


@pytest.mark.parametrize("sampler", [GREEDY, DRAWN, Sampler(temperature=2.0)])
def test_an_engine_that_is_right_is_identical(sampler: Sampler) -> None:
    batch = served(sampler)
    told: list[tuple[int, int]] = []
    proof = prove(model(), batch, sampler, progress=lambda *done: told.append(done))
    total = sum(len(request.generated) for request in batch)
    assert proof.identical
    assert proof.holds
    assert proof.compared == total
    assert proof.agreement == 1.0
    assert told[-1] == (total, total)
    assert 0 < proof.largest_logit_difference < 1e-3
    longest = max(request.max_len for request in batch)
    assert proof.dense_bytes == len(batch) * longest * model().config.token_values * 4


@pytest.mark.parametrize("place", [0, 1, 7])
def test_one_wrong_token_is_found_and_named(place: int) -> None:
    batch = served()
    wrong = batch[2]
    before = wrong.tokens[wrong.num_prompt_tokens + place]
    wrong.tokens[wrong.num_prompt_tokens + place] = 7
    proof = prove(model(), batch, GREEDY)
    assert not proof.holds
    first = proof.differences[0]
    assert (first.request, first.place, first.token, first.expected) == (2, place, 7, before)
    assert not first.tie
    assert first.shortfall > 1


def corrupt_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """From a step on keys and values of block 0, which the system prompt is in, are swapped."""
    begin = PagedCache.begin
    count = 0

    def begins(self: PagedCache, batch: Any) -> None:
        nonlocal count
        count += 1
        begin(self, batch)
        if count == steps:
            for k, v in zip(self._k, self._v, strict=True):
                k[0], v[0] = v[0].copy(), k[0].copy()

    monkeypatch.setattr(PagedCache, "begin", begins)


def test_a_cache_that_loses_a_block_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    corrupt_after(monkeypatch, 6)
    proof = prove(model(), served(), GREEDY)
    assert not proof.holds
    assert proof.largest_logit_difference > 0.01


def broken_model(value: float) -> Llama:
    """One whose last norm is no number: all logits are NaN or infinite."""
    broken = Llama.load(DOCSTRINGS)
    broken._norm[:] = value
    return broken


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("sampler", [GREEDY, DRAWN])
def test_a_model_of_no_numbers_is_an_error_and_not_identical(
    value: float, sampler: Sampler
) -> None:
    engine = Engine(broken_model(value), EngineConfig(64), batch := requests(4), sampler)
    with pytest.raises(ModelError, match=r"\[demo.Engine\] request 0: logits that are not all fin"):
        list(engine.run())
    assert all(not request.generated for request in batch)
    with pytest.raises(ModelError, match=r"\[demo.prove\] request 0: logits that are not all fini"):
        prove(broken_model(value), served(sampler), sampler)


def demo(**changes: Any) -> DemoResult:
    return run_demo(DemoConfig(num_requests=4, max_tokens=12, **changes))


def test_the_last_line_says_identical_or_where_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    result = demo()
    assert result.success
    last = as_text(result).splitlines()[-1]
    assert last.startswith("identical   all ")
    assert "greedy tokens equal those of the same model with a plain dense cache" in last
    drawn = as_text(demo(sampler=DRAWN)).splitlines()[-1]
    assert "tokens drawn with seed 5" in drawn
    corrupt_after(monkeypatch, 3)
    result = demo()
    assert not result.success
    assert as_text(result).splitlines()[-1].startswith("DIFFERENT   ")


def test_nothing_is_claimed_without_a_comparison() -> None:
    result = demo(verify=False)
    assert result.success
    assert as_text(result).splitlines()[-1].startswith("unproven ")


def test_a_cache_that_rounds_is_compared_and_not_called_identical() -> None:
    result = demo(kv_dtype="int4")
    assert result.proof is not None
    assert not result.proof.exact
    assert result.success
    last = as_text(result).splitlines()[-1]
    assert last.startswith("agreement   ")
    assert "int4 rounds keys and values" in last


def test_the_last_line_and_the_json_tell_a_tie_from_a_mistake() -> None:
    tie = Difference(request=1, place=2, token=3, expected=4, shortfall=1e-5, tie=True)
    wrong = Difference(request=5, place=6, token=7, expected=8, shortfall=2.0, tie=False)
    result = replace(demo(), proof=Proof(exact=True, compared=10, differences=[tie]))
    last = as_text(result).splitlines()[-1]
    assert last.startswith("identical   but for 1 of 10 greedy tokens")
    assert "a tie within rounding: request 1, token 2, 1.0e-05 apart" in last
    told = as_dict(result)["proof"]
    assert (told["holds"], told["identical"], told["ties"]) == (True, False, 1)
    result = replace(result, proof=Proof(exact=True, compared=10, differences=[tie, wrong]))
    last = as_text(result).splitlines()[-1]
    assert last.startswith("DIFFERENT   1 of 10 greedy tokens are not")
    assert "first request 5, token 6: 7 instead of 8" in last
    told = as_dict(result)["proof"]
    assert (told["holds"], told["agreement"]) == (False, 0.8)
    assert told["differences"][1]["shortfall"] == 2.0


def test_a_tie_within_rounding_is_shown_and_is_no_failure() -> None:
    # The bytes 0x80 and 0x81 are alike to the model; their logits are then made to be the most.
    near = model_with_twins(gap=0.0)
    tie = [Request(0, [256, 65], 1)]
    tie[0].tokens.append(0x81)
    tie[0].logits.append(near.largest)
    proof = prove(near.model, tie, GREEDY)
    assert not proof.identical
    assert proof.holds
    assert (proof.ties, proof.differences[0].expected) == (1, 0x80)
    far = model_with_twins(gap=0.01)
    proof = prove(far.model, tie, GREEDY)
    assert not proof.holds
    assert proof.differences[0].shortfall > 2 * ROUNDING * far.largest


class _Twins:
    """A model whose logits are those of the shipped one, but for 0x80 and 0x81, which are above
    all others, `gap` apart."""

    def __init__(self, gap: float) -> None:
        inner = model()
        self.largest = 30.0

        class Twins:
            config = inner.config
            forward = staticmethod(inner.forward)

            @staticmethod
            def logits(hidden: np.ndarray) -> np.ndarray:
                logits = inner.logits(hidden)
                logits[:, 0x80], logits[:, 0x81] = 30.0, 30.0 - gap
                return logits

        self.model: Any = Twins()


def model_with_twins(gap: float) -> _Twins:
    return _Twins(gap)


class _Gaps:
    """Chooses greedily, and keeps how far the second likeliest was behind."""

    def __init__(self) -> None:
        self.smallest = np.inf

    def choose(self, logits: np.ndarray, *_: int) -> int:
        second, first = np.sort(logits)[-2:]
        self.smallest = min(self.smallest, float(first - second))
        return int(logits.argmax())


@pytest.mark.parametrize("of", ["the command", "the tests"])
def test_no_text_comes_near_a_tie(of: str) -> None:
    # So that they are the same on every machine, whatever the order of its additions.
    batch = run_demo(DemoConfig(verify=False)).requests if of == "the command" else served()
    gaps = _Gaps()
    recorder: Any = gaps
    assert prove(model(), batch, recorder).identical
    assert gaps.smallest > 1e-3


@given(
    st.lists(st.floats(-8, 8, width=32), min_size=2, max_size=20),
    st.sampled_from([0.0, 0.5, 1.5]),
    st.integers(0, 6),
    st.integers(0, 2**20),
)
def test_the_shortfall_is_0_for_what_is_chosen_and_what_it_takes_for_another(
    values: list[float], temperature: float, top_k: int, seed: int
) -> None:
    sampler = Sampler(temperature, top_k, seed)
    logits = np.array(values, np.float32)
    chosen = sampler.choose(logits, 3, 4)
    assert sampler.choose(logits.copy(), 3, 4) == chosen
    assert sampler.shortfall(logits, 3, 4, chosen, 0.0) == 0.0
    if top_k:
        assert np.sum(logits > logits[chosen]) < top_k
    for token in range(len(logits)):
        short = sampler.shortfall(logits, 3, 4, token, 0.0)
        raised = logits.astype(np.float64)
        raised[token] += short + 1e-3
        if not top_k or sampler.greedy:
            assert sampler.choose(raised.astype(np.float32), 3, 4) == token


def test_draws_belong_to_seed_request_and_place_and_follow_the_probabilities() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.2], np.float32))
    draws = np.array([Sampler(1.0, 0, 1).choose(logits, 0, place) for place in range(4000)])
    share = np.bincount(draws, minlength=3) / len(draws)
    np.testing.assert_allclose(share, [0.5, 0.3, 0.2], atol=0.03)
    for sampler, request in ((Sampler(1.0, 0, 2), 0), (Sampler(1.0, 0, 1), 1)):
        other = [sampler.choose(logits, request, place) for place in range(50)]
        assert other != draws[:50].tolist()


@pytest.mark.parametrize("bad", [(-1.0, 0, 0), (float("nan"), 0, 0), (1.0, -1, 0), (1.0, 0, -1)])
def test_a_sampler_refuses_numbers_that_make_no_sense(bad: tuple[float, int, int]) -> None:
    with pytest.raises(ModelError, match=r"expected 0 or more"):
        Sampler(*bad)
