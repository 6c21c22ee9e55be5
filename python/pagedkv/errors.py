"""The error tree. Every message reads ``[Type.function] what was given; what was expected``.

After an error nothing has changed: not the object, not the pool behind it, not the device.
"""

__all__ = [
    "CapacityError",
    "InvalidSlotError",
    "PagedKvError",
    "PoolError",
    "PoolExhaustedError",
    "SequenceError",
    "ShapeError",
    "UnsupportedError",
]


class PagedKvError(Exception):
    """Root of every error that pagedkv raises on its own account."""

    def __str__(self) -> str:
        # KeyError, a base of SequenceError, would show the message quoted.
        return str(self.args[0]) if self.args else ""


class PoolError(PagedKvError):
    """Something about handing out or giving back blocks, pages or slots."""


class PoolExhaustedError(PoolError, MemoryError):
    """A pool has fewer free entries than were asked for.

    Attributes:
        needed: entries that the call needed.
        free: entries that were free.
    """

    def __init__(self, message: str = "", needed: int = 0, free: int = 0) -> None:
        super().__init__(message)
        self.needed = needed
        self.free = free


class InvalidSlotError(PoolError, IndexError):
    """An id or index is out of range, is not live, or belongs to a pool of another kind.

    Attributes:
        slot: the id or index that was given; ``NO_SLOT`` where no slot could have done.
    """

    NO_SLOT = 2**64 - 1

    def __init__(self, message: str = "", slot: int = NO_SLOT) -> None:
        super().__init__(message)
        self.slot = slot


class ShapeError(PagedKvError, ValueError):
    """A shape, size or dtype is not what the call takes."""


class CapacityError(PagedKvError):
    """A fixed limit of the object (tokens, blocks of one sequence) would be passed."""


class UnsupportedError(PagedKvError):
    """The build, the device or the object cannot do this."""


class SequenceError(PagedKvError, KeyError):
    """A sequence id is unknown or already taken."""
