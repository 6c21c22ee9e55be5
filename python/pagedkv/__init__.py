"""pagedkv: the paged state store of language-model inference.

Keys and values of attention layers and recurrent state of SSM layers, in fixed-size blocks: one
exact C++ core for Python and C++.
"""

from pagedkv._core import (
    BlockAllocator,
    BlockPool,
    BlockTable,
    KvCache,
    KvCachePool,
    PagedKvCache,
    PagedSeqState,
    SsmSlot,
    SsmSlotView,
    SsmSnapshot,
    SsmStatePool,
    SsmStateSpec,
    __version__,
    build_info,
)
from pagedkv.errors import (
    CapacityError,
    InvalidSlotError,
    PagedKvError,
    PoolError,
    PoolExhaustedError,
    SequenceError,
    ShapeError,
    UnsupportedError,
)
from pagedkv.sequence_pool import SequencePool

__all__ = [
    "BlockAllocator",
    "BlockPool",
    "BlockTable",
    "CapacityError",
    "InvalidSlotError",
    "KvCache",
    "KvCachePool",
    "PagedKvCache",
    "PagedKvError",
    "PagedSeqState",
    "PoolError",
    "PoolExhaustedError",
    "SequenceError",
    "SequencePool",
    "ShapeError",
    "SsmSlot",
    "SsmSlotView",
    "SsmSnapshot",
    "SsmStatePool",
    "SsmStateSpec",
    "UnsupportedError",
    "__version__",
    "build_info",
]
