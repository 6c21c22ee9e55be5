"""A paged cache for Hugging Face transformers.

``PagedCache`` goes to ``generate()`` as ``past_key_values``; several of them share a ``PagedPool``.
Importing this module makes ``attn_implementation="pagedkv"`` known, with which attention reads the
blocks where they are.
"""

_EXPECTED = (
    "expected torch, and transformers 5.23 or later, below 6: pip install 'pagedkv[transformers]'"
)

try:
    import torch as _torch  # noqa: F401
    import transformers as _transformers
except ImportError as error:
    raise ImportError(
        f"[pagedkv.integrations.transformers] {error}; {_EXPECTED}", name=error.name
    ) from error
if not (5, 23) <= tuple(map(int, _transformers.__version__.split(".")[:2])) < (6,):
    raise ImportError(
        f"[pagedkv.integrations.transformers] transformers {_transformers.__version__}; {_EXPECTED}"
    )

from pagedkv.integrations.transformers.attention import register  # noqa: E402
from pagedkv.integrations.transformers.cache import PagedCache  # noqa: E402
from pagedkv.integrations.transformers.pool import PagedPool  # noqa: E402

__all__ = ["PagedCache", "PagedPool"]

register()
