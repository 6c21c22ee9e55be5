"""``torch.ops.pagedkv``: the operations in torch's dispatcher.

By `torch.library.Library` rather than `torch.library.custom_op`, a call of which takes two to four
times as long (docs/performance.md), and which has no tensors by keyword.
"""

from __future__ import annotations

from typing import Any

import torch

from pagedkv import _core, ops
from pagedkv.integrations.torch.fakes import fake_of
from pagedkv.integrations.torch.kernels import Kernels
from pagedkv.integrations.torch.schemas import SCHEMAS

__all__ = ["overload"]

# Rows may have any stride, and a cache is written to where it lies: compilers copy neither. Older
# versions of torch have the weaker tag alone.
_STRIDES = getattr(torch.Tag, "needs_exact_strides", torch.Tag.needs_fixed_stride_order)
_TAGS = (torch.Tag.pt2_compliant_tag, _STRIDES)


def _register() -> Any:
    """The registration, which lasts as long as what is returned."""
    library = torch.library.Library("pagedkv", "FRAGMENT")
    on_cpu, elsewhere = Kernels(_core), Kernels(ops)
    for schema in SCHEMAS:
        name = schema.partition("(")[0]
        library.define(schema, tags=_TAGS)
        library.impl(name, on_cpu.of(name), "CPU")
        # Where the arrays of a call lie says which device computes, or that none does.
        library.impl(name, elsewhere.of(name), "CompositeExplicitAutograd")
        # Nothing is recorded for gradients; kernels refuse what would need it.
        library.impl(name, torch.library.fallthrough_kernel, "Autograd")
        torch.library.register_fake(f"pagedkv::{name}", fake_of(overload(name)), lib=library)
    return library


def overload(name: str) -> Any:
    """An overload of `torch.ops.pagedkv` by its name in the schema."""
    operation, _, suffix = name.partition(".")
    return getattr(getattr(torch.ops.pagedkv, operation), suffix or "default")


_LIBRARY = _register()
