"""pagedkv.ops as operations of torch: in `torch.compile` and `torch.export`, without a graph break.

Importing this module registers ``torch.ops.pagedkv``; the functions here have the names and options
of ``pagedkv.ops``, take tensors (integers also as NumPy arrays or lists), and call those. What is
written to is declared, results have shapes before they have contents, and nothing is copied.

For inference alone: a tensor that requires grad raises ``UnsupportedError`` unless gradients are
off.
Needs torch: ``pip install 'pagedkv[torch]'``.
"""

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"[integrations.torch] torch cannot be imported ({error}); expected it to be installed: "
        "pip install 'pagedkv[torch]'"
    ) from error

from pagedkv.integrations.torch.attention import mla_decode, paged_attention
from pagedkv.integrations.torch.data import (
    copy_blocks,
    gather_kv,
    merge_attention_states,
    mla_write,
    move_slots,
    rope_write_kv,
    swap_blocks,
    write_kv,
)

__all__ = [
    "copy_blocks",
    "gather_kv",
    "merge_attention_states",
    "mla_decode",
    "mla_write",
    "move_slots",
    "paged_attention",
    "rope_write_kv",
    "swap_blocks",
    "write_kv",
]
