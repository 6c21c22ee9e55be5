"""One pool a model: pages of keys and values, or slots of recurrent state."""

import operator
from typing import NoReturn, Self, SupportsIndex

import numpy.typing as npt

from pagedkv._core import KvCachePool, SsmSlot, SsmSlotView, SsmStatePool, SsmStateSpec
from pagedkv.errors import InvalidSlotError

__all__ = ["SequencePool"]


class SequencePool:
    """The pool that a model's architecture asks for, chosen when the model is loaded.

    ``SequencePool.kv`` for a transformer, ``SequencePool.ssm`` for a Mamba-like model. Calls of the
    other kind raise InvalidSlotError, or give None where they look a slot up.
    """

    __slots__ = ("_kv", "_ssm")

    _kv: KvCachePool | None
    _ssm: SsmStatePool | None

    def __init__(self, pool: KvCachePool | SsmStatePool) -> None:
        if not isinstance(pool, KvCachePool | SsmStatePool):
            raise TypeError(
                f"[SequencePool] {type(pool).__name__}; expected a KvCachePool or an SsmStatePool"
            )
        self._kv = pool if isinstance(pool, KvCachePool) else None
        self._ssm = pool if isinstance(pool, SsmStatePool) else None

    @classmethod
    def kv(
        cls, page_size: SupportsIndex, num_pages: SupportsIndex, dtype: npt.DTypeLike = "float32"
    ) -> Self:
        """A pool of ``num_pages`` slabs of ``page_size`` values."""
        return cls(KvCachePool(page_size, num_pages, dtype))

    @classmethod
    def ssm(cls, capacity: SupportsIndex, spec: SsmStateSpec) -> Self:
        """A pool of ``capacity`` slots of ``spec``."""
        return cls(SsmStatePool(capacity, spec))

    def alloc_kv(self) -> int:
        """One page. Raises PoolExhaustedError when full. O(1)."""
        if self._kv is None:
            self._wrong_kind("alloc_kv", InvalidSlotError.NO_SLOT)
        return self._kv.alloc()

    def free_kv(self, page: SupportsIndex) -> None:
        """Gives a page back. Raises InvalidSlotError for one out of range or already free. O(1)."""
        if self._kv is None:
            self._wrong_kind("free_kv", page)
        self._kv.free(page)

    def alloc_ssm(self, request_id: SupportsIndex) -> int:
        """A zeroed slot for the request. Raises PoolExhaustedError when full."""
        if self._ssm is None:
            self._wrong_kind("alloc_ssm", InvalidSlotError.NO_SLOT)
        return self._ssm.alloc(request_id)

    def release_ssm(self, slot: SupportsIndex) -> None:
        """Gives a slot back. Raises InvalidSlotError for one out of range or already free. O(1)."""
        if self._ssm is None:
            self._wrong_kind("release_ssm", slot)
        self._ssm.release(slot)

    def ssm_slot(self, slot: SupportsIndex) -> SsmSlotView | None:
        """The slot for reading; None when it is not live or this is a KV pool."""
        return None if self._ssm is None else self._ssm.slot_view(slot)

    def ssm_slot_mut(self, slot: SupportsIndex) -> SsmSlot | None:
        """The slot for writing; None when it is not live or this is a KV pool."""
        return None if self._ssm is None else self._ssm.slot(slot)

    @property
    def is_kv_based(self) -> bool:
        return self._kv is not None

    @property
    def is_ssm(self) -> bool:
        return self._ssm is not None

    @property
    def pool(self) -> KvCachePool | SsmStatePool:
        """The pool itself."""
        pool = self._kv if self._kv is not None else self._ssm
        assert pool is not None  # noqa: S101  the constructor sets one of them
        return pool

    def __repr__(self) -> str:
        return f"SequencePool({self.pool!r})"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("[SequencePool] cannot be pickled or copied; save what its slots hold")

    def _wrong_kind(self, function: str, slot: SupportsIndex) -> NoReturn:
        kinds = ("a KV", "an SSM") if self.is_kv_based else ("an SSM", "a KV")
        raise InvalidSlotError(
            f"[SequencePool.{function}] called on {kinds[0]} pool; expected {kinds[1]} pool",
            operator.index(slot),
        )
