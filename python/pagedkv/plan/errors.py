"""The planner's error."""

from __future__ import annotations

from pagedkv.errors import PagedKvError

__all__ = ["PlanError"]


class PlanError(PagedKvError, ValueError):
    """A model's configuration cannot be planned for, or what was asked for cannot be."""
