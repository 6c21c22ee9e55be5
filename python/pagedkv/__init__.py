"""pagedkv: the paged state store of language-model inference.

Keys and values of attention layers and recurrent state of SSM layers, in fixed-size blocks: one
exact C++ core for Python and C++.
"""

from pagedkv._core import (
    Batch,
    BlockAllocator,
    BlockPool,
    BlockTable,
    FullAttention,
    GroupBatch,
    GroupSpec,
    KvCache,
    KVCacheManager,
    KvCachePool,
    PagedKvCache,
    PagedSeqState,
    SlidingWindow,
    Ssm,
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
    "Batch",
    "BlockAllocator",
    "BlockPool",
    "BlockTable",
    "CapacityError",
    "FullAttention",
    "GroupBatch",
    "GroupSpec",
    "InvalidSlotError",
    "KVCacheManager",
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
    "SlidingWindow",
    "Ssm",
    "SsmSlot",
    "SsmSlotView",
    "SsmSnapshot",
    "SsmStatePool",
    "SsmStateSpec",
    "UnsupportedError",
    "__version__",
    "build_info",
]
