"""``attn_implementation="pagedkv"``: attention that reads the pages where they are."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface

from pagedkv import ops
from pagedkv.errors import UnsupportedError
from pagedkv.integrations.transformers.handover import received

__all__ = ["NAME", "attention", "padding_mask", "register"]

NAME = "pagedkv"

NOT_READ = ("indices", "block_indices", "sinks")
"""What models of sparse attention pass to say which keys count."""


def register() -> None:
    """Makes the name known to ``from_pretrained`` and ``set_attn_implementation``."""
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, padding_mask)


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,  # noqa: ARG001 (handed over with the keys)
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    is_causal: bool | None = None,
    position_bias: torch.Tensor | None = None,
    output_attentions: bool | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Writes the new keys and values that ``PagedCache.update`` handed over, and attends.

    Args:
        module: the layer.
        query: ``[batch, num_q_heads, count, head_dim]``; layers that share keys may drop all but
            the last columns.
        key: what ``update`` returned.
        value: likewise.
        attention_mask: what ``padding_mask`` gave; None: no padding.
        scaling: factor of the products.
        dropout: 0.
        sliding_window: how many tokens a query sees, its own counted.
        softcap: scores become ``softcap * tanh(score / softcap)``.
        s_aux: ``[num_q_heads]`` sinks, which join the softmax.
        is_causal: not False.
        position_bias: None.
        output_attentions: not True: the weights are never in memory.
        others: what does not change which keys are seen; ``NOT_READ`` must be None.

    Returns:
        ``[batch, count, num_q_heads, head_dim]``, zero in columns of padding; and None.

    Raises:
        UnsupportedError: keys that no ``PagedCache`` handed over, and what is said above.
    """
    handover = received(key)
    if handover is None:
        raise _refusal(
            "keys that did not come from PagedCache.update()",
            "past_key_values=PagedCache(model.config), and a model that passes them on as they are"
            " (latents of MLA it expands: 'eager' and 'sdpa' gather them)",
        )
    layer = handover.layer
    if is_causal is False or getattr(module, "is_causal", True) is False:
        raise _refusal("attention that is not causal", "a model that decodes")
    if layer.place.is_chunked:
        raise _refusal("attention in chunks", "full attention or a sliding window")
    if position_bias is not None:
        raise _refusal("a bias of positions", "rotary or no position embeddings")
    if dropout:
        raise _refusal(f"dropout {dropout}", "model.eval()")
    if output_attentions:
        raise _refusal("output_attentions=True", "'eager' for the weights")
    for name in NOT_READ:
        if others.get(name) is not None:
            raise _refusal(f"{name}=", "attention to all keys of a window, sinks as s_aux")
    padding = None
    if attention_mask is not None:
        if attention_mask.dtype != torch.bool or attention_mask.shape[1:-1] != (1, 1):
            raise _refusal(
                f"a mask {attention_mask.dtype} {tuple(attention_mask.shape)}",
                "attention_mask [batch, columns] of padding, or None",
            )
        padding = attention_mask[:, 0, 0]
    step = handover.store(padding).of_last(query.shape[2])
    tables = step.groups[layer.place.group].block_tables
    window = layer.place.window if sliding_window is None else sliding_window
    out = ops.paged_attention(
        step.queries(query),
        *layer.arrays,
        tables,
        step.seq_lens,
        query_start_loc=step.query_start_loc,
        scale=scaling,
        window=window,
        softcap=softcap,
        sink_logits=None if s_aux is None else s_aux.detach().to(torch.float32),
    )
    return step.in_columns(out), None


def padding_mask(
    *,
    attention_mask: torch.Tensor | None = None,
    allow_is_causal_skip: bool = True,
    use_vmap: bool = False,
    **_: Any,
) -> torch.Tensor | None:
    """What the attention function is given instead of a mask of all pairs: the padding.

    Args:
        attention_mask: bool ``[batch, columns]``, False in padding.
        allow_is_causal_skip: False where the pattern is not simply causal.
        use_vmap: True where the model adds a pattern of its own.

    Returns:
        ``[batch, 1, 1, columns]``, which models may slice as they do masks of all pairs; None where
        there is no padding.

    Raises:
        UnsupportedError: a pattern that is neither causal nor a window.
    """
    if use_vmap or not allow_is_causal_skip:
        raise _refusal("a mask with a pattern of its own", "a causal mask, or a sliding window")
    if attention_mask is None or bool(attention_mask.all()):
        return None
    return attention_mask[:, None, None]


def _refusal(what: str, expected: str) -> UnsupportedError:
    return UnsupportedError(f"[attn_implementation={NAME!r}] {what}; expected {expected}")
