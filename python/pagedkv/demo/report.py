"""The demo's figures, as text and as JSON."""

from __future__ import annotations

from typing import Any

import pagedkv
from pagedkv.demo.job import DemoResult
from pagedkv.demo.proof import Proof
from pagedkv.sizes import format_bytes, format_count

__all__ = ["as_dict", "as_text"]


def as_dict(result: DemoResult) -> dict[str, Any]:
    """JSON values only."""
    config, engine, model = result.config, result.engine, result.model.config
    progress, stats = result.progress, result.stats
    return {
        "pagedkv": pagedkv.__version__,
        "model": {
            "folder": str(config.model),
            "parameters": result.model.num_parameters,
            "layers": model.num_hidden_layers,
            "heads": model.num_attention_heads,
            "kv_heads": model.num_key_value_heads,
            "head_dim": model.head_dim,
        },
        "config": {
            "blocks": engine.num_blocks,
            "block_size": engine.block_size,
            "block_bytes": result.block_bytes,
            "kv_dtype": engine.kv_dtype,
            "max_running": engine.max_running,
            "max_batch_tokens": engine.max_batch_tokens,
            "max_tokens": config.max_tokens,
            "temperature": config.sampler.temperature,
            "top_k": config.sampler.top_k,
            "seed": config.sampler.seed,
            "system": config.system,
        },
        "requests": [
            {
                "prompt": result.prompt(request),
                "text": result.text(request),
                "prompt_tokens": request.num_prompt_tokens,
                "cached_tokens": request.cached_tokens,
                "tokens": request.generated,
                "finish_reason": request.finish_reason,
                "preemptions": request.preemptions,
            }
            for request in result.requests
        ],
        "steps": progress.steps,
        "generated_tokens": progress.generated_tokens,
        "computed_tokens": progress.computed_tokens,
        "seconds": progress.seconds,
        "tokens_per_second": _rate(result),
        "peak_running": progress.peak_running,
        "preemptions": stats.preemptions,
        "hit_tokens": stats.hit_tokens,
        "queried_tokens": stats.queried_tokens,
        "hit_rate": stats.hit_rate,
        "peak_blocks": progress.peak_blocks,
        "peak_bytes": result.peak_bytes,
        "pool_bytes": engine.num_blocks * result.block_bytes,
        "contiguous_bytes": result.contiguous_bytes,
        "proof": None if result.proof is None else _proof_dict(result.proof),
    }


def as_text(result: DemoResult) -> str:
    """About seven lines, in ASCII; the last one is the proof."""
    model, progress, stats = result.model.config, result.progress, result.stats
    block_size = result.engine.block_size
    held, contiguous = result.peak_bytes, result.contiguous_bytes
    lines = [
        f"model       {result.config.model.name}: {result.model.num_parameters:,} weights, "
        f"{format_count(model.num_hidden_layers, 'layer')}, "
        f"{format_count(model.num_attention_heads, 'head')} over "
        f"{model.num_key_value_heads} of keys and values",
        f"speed       {format_count(progress.generated_tokens, 'token')} in "
        f"{progress.seconds:.2f} s: {_rate(result):,.0f} tokens a second",
        f"batches     {format_count(len(result.requests), 'request')} in "
        f"{format_count(progress.steps, 'step')}, "
        f"{progress.peak_running:,} at once at most, {stats.preemptions:,} preempted",
        f"prefixes    {stats.hit_tokens:,} of {stats.queried_tokens:,} prompt tokens found "
        f"({100 * stats.hit_rate:.1f} %)",
        f"memory      {progress.peak_blocks:,} of "
        f"{format_count(result.engine.num_blocks, 'block')} of "
        f"{format_count(block_size, 'token')} at most: "
        f"{format_bytes(held)} of {result.engine.kv_dtype}",
        f"contiguous  {len(result.requests):,} x {result.reserved_tokens:,} tokens reserved: "
        f"{format_bytes(contiguous)}, {contiguous / held:.1f} times as much",
        _proof_line(result),
    ]
    return "\n".join(lines)


def _proof_line(result: DemoResult) -> str:
    proof = result.proof
    if proof is None:
        return "unproven    nothing was compared, as asked for"
    sampler = result.config.sampler
    kind = "greedy" if sampler.greedy else f"tokens drawn with seed {sampler.seed}"
    kind = f"{kind} tokens" if sampler.greedy else kind
    beside = (
        f"the same model with a plain dense cache ({format_bytes(proof.dense_bytes)} of float32)"
    )
    apart = f"logits differ by {proof.largest_logit_difference:.1e} at most"
    if not proof.exact:
        return (
            f"agreement   {100 * proof.agreement:.1f} % of {proof.compared:,} {kind} are those of "
            f"{beside}: {result.engine.kv_dtype} rounds keys and values, {apart}"
        )
    if proof.identical:
        return f"identical   all {proof.compared:,} {kind} equal those of {beside}; {apart}"
    first = proof.differences[0]
    if proof.holds:
        return (
            f"identical   but for {proof.ties} of {proof.compared:,} {kind}, where "
            f"{beside} has a tie within rounding: request {first.request}, token "
            f"{first.place}, {first.shortfall:.1e} apart; {apart}"
        )
    first = next(each for each in proof.differences if not each.tie)
    return (
        f"DIFFERENT   {len(proof.differences) - proof.ties:,} of {proof.compared:,} {kind} are not "
        f"those of {beside}: first request {first.request}, token {first.place}: "
        f"{first.token} instead of {first.expected}; {apart}"
    )


def _proof_dict(proof: Proof) -> dict[str, Any]:
    return {
        "holds": proof.holds,
        "identical": proof.identical,
        "exact": proof.exact,
        "compared": proof.compared,
        "agreement": proof.agreement,
        "ties": proof.ties,
        "largest_logit_difference": proof.largest_logit_difference,
        "dense_bytes": proof.dense_bytes,
        "seconds": proof.seconds,
        "differences": [
            {
                "request": each.request,
                "place": each.place,
                "token": each.token,
                "expected": each.expected,
                "shortfall": each.shortfall,
                "tie": each.tie,
            }
            for each in proof.differences
        ],
    }


def _rate(result: DemoResult) -> float:
    seconds = result.progress.seconds
    return result.progress.generated_tokens / seconds if seconds else 0.0
