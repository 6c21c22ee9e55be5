"""Errors of the models."""

from __future__ import annotations

from pagedkv.errors import PagedKvError

__all__ = ["ModelError"]


class ModelError(PagedKvError, ValueError):
    """A model's folder cannot be read, or the model was asked for something it cannot do."""
