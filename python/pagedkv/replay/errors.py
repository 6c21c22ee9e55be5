"""Errors of the trace replay."""

from __future__ import annotations

from pagedkv.errors import PagedKvError

__all__ = ["ReplayError", "TraceError"]


class ReplayError(PagedKvError, ValueError):
    """The replay was asked for something that cannot be done."""


class TraceError(ReplayError):
    """A trace cannot be read, or holds a line that strict reading refuses."""
