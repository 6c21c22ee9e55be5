"""A paged cache for Hugging Face transformers.

``PagedCache`` goes to ``generate()`` as ``past_key_values``; several of them share a ``PagedPool``.
Importing this module makes ``attn_implementation="pagedkv"`` known, with which attention reads the
blocks where they are.
"""

try:
    import torch as _torch  # noqa: F401
    import transformers as _transformers  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"[pagedkv.integrations.transformers] {error}; expected torch and transformers:"
        " pip install 'pagedkv[transformers]'",
        name=error.name,
    ) from error

from pagedkv.integrations.transformers.attention import register
from pagedkv.integrations.transformers.cache import PagedCache
from pagedkv.integrations.transformers.pool import PagedPool

__all__ = ["PagedCache", "PagedPool"]

register()
