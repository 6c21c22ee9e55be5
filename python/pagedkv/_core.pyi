# Written by tools/stubs.py from what is built; do not edit.
# ruff: noqa
"""
The compiled core of pagedkv; import pagedkv instead.
"""

from __future__ import annotations
import collections.abc
import numpy
import numpy.typing
import types
import typing

__all__: list[str] = [
    "Batch",
    "BlockAllocator",
    "BlockPool",
    "BlockTable",
    "CacheEvent",
    "FullAttention",
    "GroupBatch",
    "GroupSpec",
    "KVCacheManager",
    "KvCache",
    "KvCachePool",
    "PagedKvCache",
    "PagedSeqState",
    "ReuseStats",
    "SlidingWindow",
    "Ssm",
    "SsmSlot",
    "SsmSlotView",
    "SsmSnapshot",
    "SsmStatePool",
    "SsmStateSpec",
    "Stats",
    "build_info",
    "copy_blocks",
    "gather_kv",
    "get_num_threads",
    "merge_attention_states",
    "mla_decode",
    "mla_write",
    "move_slots",
    "paged_attention",
    "rope_write_kv",
    "set_num_threads",
    "swap_blocks",
    "write_kv",
]

class BlockAllocator:
    """
    Hands out block ids ``0 .. capacity - 1`` and counts who holds them.

    An id that was given back is handed out before a fresh one, last in first out; fresh ids come 0
    first. Every id that comes back is checked for range and liveness. One id costs O(1), n cost O(n).
    """
    def __contains__(self, id: typing.SupportsIndex) -> bool: ...
    def __init__(self, capacity: typing.SupportsIndex) -> None:
        """
        A pool of ``capacity`` ids (0 to 2**31 - 1), all free.
        """
    def __reduce_ex__(self, protocol: typing.SupportsIndex) -> typing.NoReturn: ...
    def __repr__(self) -> str: ...
    def acquire(
        self,
        ids: typing.SupportsIndex
        | collections.abc.Sequence[typing.SupportsIndex]
        | numpy.typing.NDArray[numpy.integer[typing.Any]],
    ) -> None:
        """
        Holds each id once more (one id, or a list or array of them): all or none. Raises InvalidSlotError for an id that is out of range or not live.
        """
    def allocate(self) -> int:
        """
        One block, held once. Raises PoolExhaustedError when none is free. O(1).
        """
    def allocate_n(self, n: typing.SupportsIndex) -> numpy.typing.NDArray[numpy.int32]:
        """
        int32 ids ``[n]``, each held once: all or none. Raises PoolExhaustedError.
        """
    def free(
        self,
        ids: typing.SupportsIndex
        | collections.abc.Sequence[typing.SupportsIndex]
        | numpy.typing.NDArray[numpy.integer[typing.Any]],
    ) -> None:
        """
        Gives one hold of each id back (one id, or a list or array of them): all or none. Raises InvalidSlotError for an id that is out of range, not live, or named more often than it is held; nothing has changed then.
        """
    def is_live(self, id: typing.SupportsIndex) -> bool:
        """
        Whether anybody holds the id; any integer will do.
        """
    def ref_count(self, id: typing.SupportsIndex) -> int:
        """
        How often the id is held; 0 when it is free.
        """
    @property
    def capacity(self) -> int:
        """
        All blocks.
        """
    @property
    def free_count(self) -> int:
        """
        Blocks that nobody holds.
        """
    @property
    def in_use(self) -> int:
        """
        Blocks that somebody holds.
        """
    @property
    def peak_in_use(self) -> int:
        """
        Most blocks that were ever held at once.
        """

class BlockPool:
    """
    A fixed number of pages in host memory, allocated and zeroed here.

    A page holds the keys and the values ``[num_kv_heads, block_size, head_dim]`` of one layer.
    ``num_layers`` is for information: each layer has its own block list in ``BlockTable``. Contents are
    not zeroed when a page is freed. A view of a freed page stays readable memory of the pool, but
    whoever gets the page next writes there.
    """
    def __init__(
        self,
        capacity: typing.SupportsIndex,
        block_size: typing.SupportsIndex,
        num_layers: typing.SupportsIndex,
        num_kv_heads: typing.SupportsIndex,
        head_dim: typing.SupportsIndex,
        dtype: numpy.typing.DTypeLike = "float32",
    ) -> None:
        """
        Raises ShapeError for a dimension of 0, UnsupportedError for an unknown dtype.
        """
    def __reduce_ex__(self, protocol: typing.SupportsIndex) -> typing.NoReturn: ...
    def __repr__(self) -> str: ...
    def allocate(self) -> int | None:
        """
        The id of one page, or None when the pool is exhausted. O(1).
        """
    def free(self, id: typing.SupportsIndex) -> None:
        """
        Gives a page back. Raises InvalidSlotError for an id out of range or not live. O(1).
        """
    def keys(self, id: typing.SupportsIndex) -> numpy.typing.NDArray[typing.Any]:
        """
        A writable view ``[num_kv_heads, block_size, head_dim]`` of the page's keys. bfloat16 is shown as uint16, fp8 and int4 (two values a byte) as uint8.
        """
    def utilization(self) -> float:
        """
        Share of pages in use, in [0, 1]; 0.0 for a pool without pages.
        """
    def values(self, id: typing.SupportsIndex) -> numpy.typing.NDArray[typing.Any]:
        """
        A writable view of the page's values, likewise.
        """
    @property
    def block_size(self) -> int:
        """
        Tokens a page.
        """
    @property
    def dtype(self) -> str:
        """
        Name of the element type.
        """
    @property
    def free_count(self) -> int:
        """
        Pages free.
        """
    @property
    def head_dim(self) -> int: ...
    @property
    def num_kv_heads(self) -> int: ...
    @property
    def num_layers(self) -> int: ...
    @property
    def total_count(self) -> int:
        """
        All pages.
        """

class BlockTable:
    """
    Logical to physical: for each layer the block ids of its tokens.

    It refers to blocks, it does not own them; the same id may stand in it more than once.
    """

    __hash__: typing.ClassVar[None]  # type: ignore[assignment]
    def __copy__(self) -> BlockTable: ...
    def __deepcopy__(self, memo: typing.Any) -> BlockTable: ...
    def __eq__(self, other: typing.Any) -> bool: ...
    def __getitem__(self, layer: typing.SupportsIndex) -> numpy.typing.NDArray[numpy.int32]:
        """
        A layer's ids as an int32 array, a copy; -1 is the last layer.
        """
    def __init__(self, num_layers: typing.SupportsIndex, block_size: typing.SupportsIndex) -> None:
        """
        Empty lists for ``num_layers`` layers. Raises ShapeError for a block_size of 0.
        """
    def __iter__(self) -> collections.abc.Iterator[numpy.typing.NDArray[numpy.int32]]: ...
    def __len__(self) -> int: ...
    def __reduce_ex__(self, protocol: typing.SupportsIndex) -> typing.NoReturn: ...
    def __repr__(self) -> str: ...
    def append_block(self, layer: typing.SupportsIndex, id: typing.SupportsIndex) -> None:
        """
        Appends a block id to a layer. Raises InvalidSlotError for a layer out of range.
        """
    def as_array(self) -> numpy.typing.NDArray[numpy.int32]:
        """
        The table as int32 ``[num_layers, max_blocks]``, rows padded with -1; a copy.
        """
    def get_block(self, layer: typing.SupportsIndex, logical: typing.SupportsIndex) -> int | None:
        """
        The id of a layer's block number ``logical``, or None past its end.
        """
    def num_blocks(self, layer: typing.SupportsIndex) -> int:
        """
        Blocks of a layer.
        """
    def token_capacity(self, layer: typing.SupportsIndex) -> int:
        """
        Tokens that a layer's blocks have room for.
        """
    def truncate(
        self, layer: typing.SupportsIndex, num_tokens: typing.SupportsIndex
    ) -> numpy.typing.NDArray[numpy.int32]:
        """
        Keeps the blocks that the first ``num_tokens`` tokens need and returns the int32 ids of the others, in logical order, for the caller to free.
        """
    @property
    def block_size(self) -> int:
        """
        Tokens a block.
        """
    @property
    def num_layers(self) -> int: ...

class PagedSeqState:
    """
    The paged state of one sequence.

    Its blocks on the host, and on the device the block table and the context length that kernels read.
    The device is written only where it differs from the host; table entries without a block hold -1.
    Blocks belong to the allocator that they were taken from: pass the same one each time, and release
    before the last reference goes.
    """
    def __bool__(self) -> bool: ...
    def __init__(
        self,
        block_size: typing.SupportsIndex,
        max_blocks_per_seq: typing.SupportsIndex,
        device: str = "cpu",
    ) -> None:
        """
        Takes no block. Raises ShapeError for a block_size of 0, UnsupportedError for a device that is not there.
        """
    def __len__(self) -> int: ...
    def __reduce_ex__(self, protocol: typing.SupportsIndex) -> typing.NoReturn: ...
    def __repr__(self) -> str: ...
    def ensure_capacity(
        self, alloc: BlockAllocator, target_len: typing.SupportsIndex, ctx: None = None
    ) -> None:
        """
        Takes as many blocks as ``target_len`` tokens need and uploads the new table entries; never shrinks. Raises CapacityError beyond max_blocks_per_seq, PoolExhaustedError when the blocks are not there; nothing has changed then.
        """
    def release(self, alloc: BlockAllocator, ctx: None = None) -> None:
        """
        Gives every block back and sets ``len`` to 0; twice is harmless. Without a context the device is rewritten by the next ensure_capacity and sync_context_len.
        """
    def sync_context_len(self, ctx: None = None) -> None:
        """
        Writes ``len`` to the device. Raises CapacityError when it is beyond the blocks held.
        """
    def truncate(self, alloc: BlockAllocator, num_tokens: typing.SupportsIndex) -> None:
        """
        Back to ``num_tokens`` tokens, if there are more; gives back the blocks that they do not need.
        """
    @property
    def block_size(self) -> int:
        """
        Tokens a block.
        """
    @property
    def block_table_buf(self) -> numpy.typing.NDArray[numpy.int32]:
        """
        Read-only view of the device's table, int32 ``[max_blocks_per_seq]``, -1 where there is no block.
        """
    @property
    def blocks(self) -> list[int]:
        """
        Block ids in logical order; a copy.
        """
    @property
    def context_lens_buf(self) -> numpy.typing.NDArray[numpy.int32]:
        """
        Read-only view of the length on the device, int32 ``[1]``.
        """
    @property
    def device(self) -> str: ...
    @property
    def len(self) -> int:
        """
        Tokens held; checked against the blocks by sync_context_len.
        """
    @len.setter
    def len(self, arg1: typing.SupportsIndex) -> None: ...
    @property
    def max_blocks_per_seq(self) -> int: ...

class KvCache:
    """
    The keys and values of one layer for one sequence.

    Made by ``KvCache.contiguous`` (``k``, ``v`` are ``[num_kv_heads, capacity, head_dim]``) or
    ``KvCache.paged`` (``k``, ``v`` are pools ``[num_blocks, num_kv_heads, block_size, head_dim]`` that
    any number of sequences share through ``share()``). As a context manager it gives its blocks back at
    the end.
    """
    @staticmethod
    def contiguous(
        capacity: typing.SupportsIndex,
        num_kv_heads: typing.SupportsIndex,
        head_dim: typing.SupportsIndex,
        dtype: numpy.typing.DTypeLike = "float32",
    ) -> KvCache:
        """
        A cache for ``capacity`` tokens in one piece.
        """
    @staticmethod
    def paged(
        num_blocks: typing.SupportsIndex,
        num_kv_heads: typing.SupportsIndex,
        head_dim: typing.SupportsIndex,
        block_size: typing.SupportsIndex,
        max_blocks_per_seq: typing.SupportsIndex,
        allocator: BlockAllocator,
        dtype: numpy.typing.DTypeLike = "float32",
    ) -> KvCache:
        """
        A pool of ``num_blocks`` blocks, whose ids ``allocator`` hands out, and the first sequence's cache over it.
        """
    def __bool__(self) -> bool: ...
    def __enter__(self) -> KvCache: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None: ...
    def __len__(self) -> int: ...
    def __reduce_ex__(self, protocol: typing.SupportsIndex) -> typing.NoReturn: ...
    def __repr__(self) -> str: ...
    def append(self, k: numpy.typing.ArrayLike, v: numpy.typing.ArrayLike) -> None:
        """
        Appends ``[n, num_kv_heads, head_dim]`` keys and values: all or none. Raises ShapeError, CapacityError beyond ``capacity``, PoolExhaustedError when blocks are short. O(bytes).
        """
    def release(self) -> None:
        """
        Empties the cache and gives its blocks back; twice is harmless.
        """
    def share(self) -> KvCache:
        """
        Another sequence's cache, empty, over the same pool and allocator. Raises UnsupportedError for a contiguous cache.
        """
    def to_dense(self) -> tuple[numpy.typing.NDArray[typing.Any], numpy.typing.NDArray[typing.Any]]:
        """
        Copies of keys and values, each ``[len, num_kv_heads, head_dim]``. O(bytes).
        """
    def truncate(self, num_tokens: typing.SupportsIndex) -> None:
        """
        Back to ``num_tokens`` tokens, if there are more; blocks that are not needed go back.
        """
    @property
    def allocator(self) -> BlockAllocator | None:
        """
        The shared allocator; None for the contiguous layout.
        """
    @property
    def block_size(self) -> int:
        """
        Tokens a block; 0 for the contiguous layout.
        """
    @property
    def block_table(self) -> numpy.typing.NDArray[numpy.int32] | None:
        """
        Read-only int32 view ``[max_blocks_per_seq]``, -1 where there is no block; None for the contiguous layout.
        """
    @property
    def capacity(self) -> int:
        """
        Most tokens that the cache takes.
        """
    @property
    def context_lens(self) -> numpy.typing.NDArray[numpy.int32] | None:
        """
        Read-only int32 view ``[1]`` of the length; None for the contiguous layout.
        """
    @property
    def dtype(self) -> str:
        """
        Name of the element type.
        """
    @property
    def head_dim(self) -> int: ...
    @property
    def k(self) -> numpy.typing.NDArray[typing.Any]:
        """
        Writable view of the keys' storage: ``[num_kv_heads, capacity, head_dim]``, or the pool ``[num_blocks, num_kv_heads, block_size, head_dim]``.
        """
    @property
    def len(self) -> int:
        """
        Tokens held.
        """
    @property
    def num_blocks(self) -> int:
        """
        Blocks of the pool; 0 for the contiguous layout.
        """
    @property
    def num_kv_heads(self) -> int: ...
    @property
    def paged_block_indices(self) -> list[int]:
        """
        Block ids that this cache holds, in logical order; a copy.
        """
    @property
    def v(self) -> numpy.typing.NDArray[typing.Any]:
        """
        Writable view of the values' storage, likewise.
        """

class PagedKvCache:
    """
    A growing sequence of float64 vectors in blocks of 16 tokens.

    All ``ceil(max_tokens / 16)`` blocks are allocated up front; appending allocates nothing. Values
    survive bit for bit. Indexing and iteration give copies of tokens.
    """
    def __array__(
        self, dtype: numpy.typing.DTypeLike | None = None, copy: bool | None = None
    ) -> numpy.typing.NDArray[typing.Any]: ...
    def __bool__(self) -> bool: ...
    def __copy__(self) -> PagedKvCache: ...
    def __deepcopy__(self, memo: typing.Any) -> PagedKvCache: ...
    def __getitem__(
        self, key: slice | typing.SupportsIndex
    ) -> numpy.typing.NDArray[numpy.float64]: ...
    def __init__(self, max_tokens: typing.SupportsIndex, dim: typing.SupportsIndex) -> None:
        """
        Room for ``max_tokens`` tokens (0 is legal and always full) of ``dim`` values. Raises ShapeError for a dim of 0.
        """
    def __iter__(self) -> collections.abc.Iterator[numpy.typing.NDArray[numpy.float64]]: ...
    def __len__(self) -> int: ...
    def __reduce_ex__(self, protocol: typing.SupportsIndex) -> typing.NoReturn: ...
    def __repr__(self) -> str: ...
    def _permute_blocks(
        self,
        order: collections.abc.Sequence[typing.SupportsIndex]
        | numpy.typing.NDArray[numpy.integer[typing.Any]],
    ) -> None:
        """
        For tests: lays logical block i of an empty cache on physical block ``order[i]``.
        """
    def append(self, token: numpy.typing.ArrayLike) -> None:
        """
        Appends one token ``[dim]``. Raises ShapeError for another size (checked first), CapacityError when full. Allocates nothing.
        """
    def append_tensor(self, t: numpy.typing.ArrayLike) -> None:
        """
        Appends ``[n, dim]`` tokens: all or none. Raises ShapeError, CapacityError.
        """
    def as_tensor(
        self, *, out: numpy.typing.NDArray[numpy.float64] | None = None, copy: bool | None = None
    ) -> numpy.typing.NDArray[numpy.float64]:
        """
        All tokens as contiguous float64 ``[len, dim]``: a new array, or ``out`` filled. With ``copy=False`` a read-only view in O(1) where the blocks lie in order in memory, else ShapeError (a ValueError, as NumPy's own).
        """
    def clear(self) -> None:
        """
        Forgets every token; keeps the memory.
        """
    def clone(self) -> PagedKvCache:
        """
        A deep copy.
        """
    def get_token(self, i: typing.SupportsIndex) -> numpy.typing.NDArray[numpy.float64]:
        """
        A copy of token ``i``, float64 ``[dim]``. Raises InvalidSlotError, an IndexError.
        """
    @property
    def blocks_in_use(self) -> int:
        """
        Blocks that hold tokens.
        """
    @property
    def dim(self) -> int:
        """
        Values a token.
        """
    @property
    def is_empty(self) -> bool: ...
    @property
    def len(self) -> int:
        """
        Tokens held.
        """
    @property
    def max_tokens(self) -> int:
        """
        Most tokens held.
        """
    @property
    def num_blocks(self) -> int:
        """
        Blocks allocated.
        """

class KvCachePool:
    """
    A fixed number of slabs of ``page_size`` values, allocated and zeroed here.

    Contents are not zeroed when a page is freed.
    """
    def __init__(
        self,
        page_size: typing.SupportsIndex,
        num_pages: typing.SupportsIndex,
        dtype: numpy.typing.DTypeLike = "float32",
    ) -> None:
        """
        Raises ShapeError for a page_size of 0, UnsupportedError for an unknown dtype.
        """
    def __reduce_ex__(self, protocol: typing.SupportsIndex) -> typing.NoReturn: ...
    def __repr__(self) -> str: ...
    def alloc(self) -> int:
        """
        One page. Raises PoolExhaustedError. O(1).
        """
    def free(self, page: typing.SupportsIndex) -> None:
        """
        Gives a page back. Raises InvalidSlotError for one out of range or already free. O(1).
        """
    def page(self, page: typing.SupportsIndex) -> numpy.typing.NDArray[typing.Any]:
        """
        A writable view ``[page_size]`` of a live page. Raises InvalidSlotError.
        """
    @property
    def dtype(self) -> str:
        """
        Name of the element type.
        """
    @property
    def free_count(self) -> int:
        """
        Pages free.
        """
    @property
    def num_pages(self) -> int:
        """
        All pages.
        """
    @property
    def page_size(self) -> int:
        """
        Values a page.
        """
    @property
    def used_count(self) -> int:
        """
        Pages handed out.
        """

class SsmStateSpec:
    """
    What one request's slot of recurrent state holds.

    Over all layers: the state ``[num_layers, num_heads, head_dim, d_state]`` and the inputs that the
    causal convolution still needs, ``[num_layers, conv_dim, d_conv - 1]``.
    """
    def __copy__(self) -> SsmStateSpec: ...
    def __deepcopy__(self, memo: typing.Any) -> SsmStateSpec: ...
    def __eq__(self, other: typing.Any) -> bool: ...
    def __hash__(self) -> int: ...
    def __init__(
        self,
        num_layers: typing.SupportsIndex,
        num_heads: typing.SupportsIndex,
        head_dim: typing.SupportsIndex,
        d_state: typing.SupportsIndex,
        conv_dim: typing.SupportsIndex,
        d_conv: typing.SupportsIndex,
        dtype: numpy.typing.DTypeLike = "float32",
    ) -> None:
        """
        Raises ShapeError for a dimension of 0 (conv_dim may be 0), UnsupportedError for a dtype below 8 bits.
        """
    def __reduce_ex__(self, protocol: typing.SupportsIndex) -> typing.NoReturn: ...
    def __repr__(self) -> str: ...
    @property
    def conv_dim(self) -> int: ...
    @property
    def d_conv(self) -> int: ...
    @property
    def d_state(self) -> int: ...
    @property
    def dtype(self) -> str:
        """
        Name of the element type.
        """
    @property
    def head_dim(self) -> int: ...
    @property
    def num_heads(self) -> int: ...
    @property
    def num_layers(self) -> int: ...
    @property
    def slot_bytes(self) -> int:
        """
        Bytes of state in a slot.
        """

class SsmSnapshot:
    """
    A copy of one request's recurrent state and position.

    ``to_bytes`` and ``from_bytes`` carry it to another process: a checked header and raw bytes.
    """

    __hash__: typing.ClassVar[None]  # type: ignore[assignment]
    @staticmethod
    def from_bytes(data: bytes) -> SsmSnapshot:
        """
        Raises ShapeError for bytes that to_bytes did not make.
        """
    def __copy__(self) -> SsmSnapshot: ...
    def __deepcopy__(self, memo: typing.Any) -> SsmSnapshot: ...
    def __eq__(self, other: typing.Any) -> bool: ...
    def __reduce_ex__(self, protocol: typing.SupportsIndex) -> typing.NoReturn: ...
    def __repr__(self) -> str: ...
    def to_bytes(self) -> bytes: ...
    @property
    def conv_state(self) -> numpy.typing.NDArray[typing.Any]:
        """
        Read-only view ``[num_layers, conv_dim, d_conv - 1]``.
        """
    @property
    def position(self) -> int: ...
    @property
    def spec(self) -> SsmStateSpec: ...
    @property
    def ssm_state(self) -> numpy.typing.NDArray[typing.Any]:
        """
        Read-only view ``[num_layers, num_heads, head_dim, d_state]``.
        """

class SsmSlotView:
    """
    One request's recurrent state, for reading.

    Once the slot is released every access raises InvalidSlotError, also when the slot has been handed
    out again.
    """
    def __reduce_ex__(self, protocol: typing.SupportsIndex) -> typing.NoReturn: ...
    def __repr__(self) -> str: ...
    def snapshot(self) -> SsmSnapshot:
        """
        A copy of state and position that outlives the slot.
        """
    @property
    def conv_state(self) -> numpy.typing.NDArray[typing.Any]:
        """
        View ``[num_layers, conv_dim, d_conv - 1]``.
        """
    @property
    def index(self) -> int: ...
    @property
    def is_live(self) -> bool:
        """
        False once the slot was released.
        """
    @property
    def position(self) -> int:
        """
        Tokens that the state has consumed.
        """
    @property
    def request_id(self) -> int:
        """
        The id that the slot was allocated for.
        """
    @property
    def ssm_state(self) -> numpy.typing.NDArray[typing.Any]:
        """
        View ``[num_layers, num_heads, head_dim, d_state]``.
        """

class SsmSlot:
    """
    One request's recurrent state, for reading and writing.

    Once the slot is released every access raises InvalidSlotError, also when the slot has been handed
    out again.
    """
    def __reduce_ex__(self, protocol: typing.SupportsIndex) -> typing.NoReturn: ...
    def __repr__(self) -> str: ...
    def advance(self, n: typing.SupportsIndex = 1) -> None:
        """
        Counts ``n`` more tokens as consumed.
        """
    def restore(self, snapshot: SsmSnapshot) -> None:
        """
        Puts state and position back. Raises ShapeError when the snapshot is of another spec.
        """
    def snapshot(self) -> SsmSnapshot:
        """
        A copy of state and position that outlives the slot.
        """
    @property
    def conv_state(self) -> numpy.typing.NDArray[typing.Any]:
        """
        View ``[num_layers, conv_dim, d_conv - 1]``.
        """
    @property
    def index(self) -> int: ...
    @property
    def is_live(self) -> bool:
        """
        False once the slot was released.
        """
    @property
    def position(self) -> int:
        """
        Tokens that the state has consumed; set it when the state was written from elsewhere.
        """
    @position.setter
    def position(self, arg1: typing.SupportsIndex) -> None: ...
    @property
    def request_id(self) -> int:
        """
        The id that the slot was allocated for.
        """
    @property
    def ssm_state(self) -> numpy.typing.NDArray[typing.Any]:
        """
        View ``[num_layers, num_heads, head_dim, d_state]``.
        """

class SsmStatePool:
    """
    A fixed number of slots of recurrent state in host memory.

    A slot reads as zero and at position 0 whenever it is handed out.
    """
    def __init__(self, capacity: typing.SupportsIndex, spec: SsmStateSpec) -> None:
        """
        All slots free.
        """
    def __reduce_ex__(self, protocol: typing.SupportsIndex) -> typing.NoReturn: ...
    def __repr__(self) -> str: ...
    def alloc(self, request_id: typing.SupportsIndex) -> int:
        """
        A zeroed slot for the request. Raises PoolExhaustedError. O(bytes of a slot).
        """
    def release(self, slot: typing.SupportsIndex) -> None:
        """
        Gives a slot back. Raises InvalidSlotError for one out of range or already free. O(1).
        """
    def slot(self, index: typing.SupportsIndex) -> SsmSlot | None:
        """
        The live slot, writable, or None.
        """
    def slot_view(self, index: typing.SupportsIndex) -> SsmSlotView | None:
        """
        The live slot, read-only, or None.
        """
    @property
    def capacity(self) -> int:
        """
        All slots.
        """
    @property
    def free_count(self) -> int:
        """
        Slots free.
        """
    @property
    def spec(self) -> SsmStateSpec: ...
    @property
    def used_count(self) -> int:
        """
        Slots handed out.
        """

class GroupBatch:
    """
    One group's part of a batch.
    """
    def __reduce_ex__(self, protocol: typing.SupportsIndex) -> typing.NoReturn: ...
    def __repr__(self) -> str: ...
    @property
    def block_tables(self) -> numpy.typing.NDArray[numpy.int32]:
        """
        int32 ``[num_seqs, max_blocks_per_seq]``, padded with -1 (0 with a null block).
        """
    @property
    def copies(self) -> numpy.typing.NDArray[numpy.int32]:
        """
        int32 ``[n, 2]``: block copies (from, to) to do before the step writes; a copy.
        """
    @property
    def kv_indices(self) -> numpy.typing.NDArray[numpy.int32]:
        """
        int32: the live blocks of all sequences, one after the other.
        """
    @property
    def kv_indptr(self) -> numpy.typing.NDArray[numpy.int32]:
        """
        int32 ``[num_seqs + 1]``: where each sequence's blocks begin in kv_indices.
        """
    @property
    def kv_last_page_len(self) -> numpy.typing.NDArray[numpy.int32]:
        """
        int32 ``[num_seqs]``: tokens in the last block.
        """
    @property
    def kv_start(self) -> numpy.typing.NDArray[numpy.int32]:
        """
        int32 ``[num_seqs]``: first token of the live blocks behind a hole of the table; 0 without one.
        """
    @property
    def slot_mapping(self) -> numpy.typing.NDArray[numpy.int64]:
        """
        int64 ``[num_new_tokens]``: where each new token is written. With padding rows at least ``[num_seqs]``, -1 behind the tokens.
        """
    @property
    def state_slots(self) -> numpy.typing.NDArray[numpy.int32]:
        """
        int32 ``[num_seqs]``: the block that holds the state (ssm groups).
        """

class Batch:
    """
    The metadata of one step, in arrays that kernels take as they are.

    Strides never change. Arrays are views: the next call that fills the batch overwrites them.
    ``batch[g]`` is group g's part; ``batch.x`` is ``batch[0].x``.
    """
    @staticmethod
    def bytes_needed(
        num_groups: typing.SupportsIndex,
        max_seqs: typing.SupportsIndex,
        max_tokens: typing.SupportsIndex,
        max_blocks_per_seq: typing.SupportsIndex,
    ) -> int:
        """
        Bytes that the ``buffers`` of KVCacheManager.new_batch must have.
        """
    def __getitem__(self, group: typing.SupportsIndex) -> GroupBatch: ...
    def __len__(self) -> int: ...
    def __reduce_ex__(self, protocol: typing.SupportsIndex) -> typing.NoReturn: ...
    def __repr__(self) -> str: ...
    @property
    def block_tables(self) -> numpy.typing.NDArray[numpy.int32]:
        """
        int32 ``[num_seqs, max_blocks_per_seq]``, padded with -1 (0 with a null block).
        """
    @property
    def copies(self) -> numpy.typing.NDArray[numpy.int32]:
        """
        int32 ``[n, 2]``: block copies (from, to) to do before the step writes; a copy.
        """
    @property
    def kv_indices(self) -> numpy.typing.NDArray[numpy.int32]:
        """
        int32: the live blocks of all sequences, one after the other.
        """
    @property
    def kv_indptr(self) -> numpy.typing.NDArray[numpy.int32]:
        """
        int32 ``[num_seqs + 1]``: where each sequence's blocks begin in kv_indices.
        """
    @property
    def kv_last_page_len(self) -> numpy.typing.NDArray[numpy.int32]:
        """
        int32 ``[num_seqs]``: tokens in the last block.
        """
    @property
    def kv_start(self) -> numpy.typing.NDArray[numpy.int32]:
        """
        int32 ``[num_seqs]``: first token of the live blocks behind a hole of the table; 0 without one.
        """
    @property
    def max_query_len(self) -> int: ...
    @property
    def max_seq_len(self) -> int: ...
    @property
    def num_new_tokens(self) -> int: ...
    @property
    def num_seqs(self) -> int: ...
    @property
    def positions(self) -> numpy.typing.NDArray[numpy.int32]:
        """
        int32 ``[num_new_tokens]``: position of each new token in its sequence. With padding rows at least ``[num_seqs]``, 0 behind the tokens.
        """
    @property
    def query_start_loc(self) -> numpy.typing.NDArray[numpy.int32]:
        """
        int32 ``[num_seqs + 1]``: prefix sums of new tokens a sequence.
        """
    @property
    def seq_lens(self) -> numpy.typing.NDArray[numpy.int32]:
        """
        int32 ``[num_seqs]``: tokens held, the new ones counted.
        """
    @property
    def slot_mapping(self) -> numpy.typing.NDArray[numpy.int64]:
        """
        int64 ``[num_new_tokens]``: where each new token is written. With padding rows at least ``[num_seqs]``, -1 behind the tokens.
        """
    @property
    def state_slots(self) -> numpy.typing.NDArray[numpy.int32]:
        """
        int32 ``[num_seqs]``: the block that holds the state (ssm groups).
        """

class GroupSpec:
    """
    Layers that share one block table.
    """
    def __copy__(self) -> GroupSpec: ...
    def __deepcopy__(self, memo: typing.Any) -> GroupSpec: ...
    def __reduce_ex__(self, protocol: typing.SupportsIndex) -> typing.NoReturn: ...
    def __repr__(self) -> str: ...
    @property
    def block_size(self) -> int:
        """
        Tokens a block; 0: the manager's own.
        """

class ReuseStats:
    """
    Counters of prefix reuse.
    """

    __hash__: typing.ClassVar[None]  # type: ignore[assignment]
    def __copy__(self) -> ReuseStats: ...
    def __deepcopy__(self, memo: typing.Any) -> ReuseStats: ...
    def __eq__(self, other: typing.Any) -> bool: ...
    def __reduce_ex__(self, protocol: typing.SupportsIndex) -> typing.NoReturn: ...
    def __repr__(self) -> str: ...
    def to_dict(self) -> dict[str, typing.Any]:
        """
        The same as a dictionary.
        """
    @property
    def hit_rate(self) -> float:
        """
        hit_tokens / queried_tokens; 0.0 for none.
        """
    @property
    def hit_tokens(self) -> int:
        """
        Of these, found.
        """
    @property
    def miss_reasons(self) -> dict[str, int]:
        """
        Queries that fell short by a block or more, by the first reason.
        """
    @property
    def queried_tokens(self) -> int:
        """
        Tokens that they knew, less the last of each.
        """
    @property
    def queries(self) -> int:
        """
        Sequences that asked by acquire.
        """

class Stats:
    """
    Counters of a KVCacheManager.
    """

    __hash__: typing.ClassVar[None]  # type: ignore[assignment]
    def __copy__(self) -> Stats: ...
    def __deepcopy__(self, memo: typing.Any) -> Stats: ...
    def __eq__(self, other: typing.Any) -> bool: ...
    def __reduce_ex__(self, protocol: typing.SupportsIndex) -> typing.NoReturn: ...
    def __repr__(self) -> str: ...
    def to_dict(self) -> dict[str, typing.Any]:
        """
        The same as a dictionary.
        """
    @property
    def block_copies(self) -> int: ...
    @property
    def evictions(self) -> int: ...
    @property
    def hit_rate(self) -> float:
        """
        hit_tokens / queried_tokens; 0.0 for none.
        """
    @property
    def hit_tokens(self) -> int:
        """
        Of these, found.
        """
    @property
    def miss_reasons(self) -> dict[str, int]:
        """
        Queries that fell short by a block or more, by the first reason.
        """
    @property
    def num_blocks(self) -> int:
        """
        Blocks that are handed out at all; a null block is not.
        """
    @property
    def num_cached_blocks(self) -> int:
        """
        Blocks in the prefix index, in use or not.
        """
    @property
    def num_free_blocks(self) -> int:
        """
        Blocks that schedule could take.
        """
    @property
    def num_sequences(self) -> int: ...
    @property
    def preemptions(self) -> int: ...
    @property
    def queried_tokens(self) -> int:
        """
        Tokens that they knew, less the last of each.
        """
    @property
    def queries(self) -> int:
        """
        Sequences that asked by acquire.
        """
    @property
    def steps(self) -> int:
        """
        Calls of schedule and step that succeeded.
        """

class CacheEvent:
    """
    A block entered or left the prefix index.
    """

    __hash__: typing.ClassVar[None]  # type: ignore[assignment]
    def __copy__(self) -> CacheEvent: ...
    def __deepcopy__(self, memo: typing.Any) -> CacheEvent: ...
    def __eq__(self, other: typing.Any) -> bool: ...
    def __reduce_ex__(self, protocol: typing.SupportsIndex) -> typing.NoReturn: ...
    def __repr__(self) -> str: ...
    @property
    def group(self) -> int: ...
    @property
    def hash(self) -> bytes:
        """
        SHA-256 of the whole prefix, 32 bytes.
        """
    @property
    def kind(self) -> typing.Literal["stored", "removed"]:
        """
        'stored' or 'removed'.
        """
    @property
    def parent_hash(self) -> bytes:
        """
        Of the prefix one block shorter; the salt's for the first block.
        """
    @property
    def tokens(self) -> numpy.typing.NDArray[numpy.int32]:
        """
        int32: tokens of the block; a copy.
        """

class KVCacheManager:
    """
    Decides which physical block holds which tokens, for many sequences.

    It deals in block ids alone and never touches keys or values. Every call takes the whole batch and is
    all or nothing. A sequence has three lengths: known (token ids given), scheduled (slots handed out)
    and committed (keys and values written).
    """
    def __bool__(self) -> bool: ...
    def __contains__(self, seq_id: typing.SupportsIndex) -> bool: ...
    def __init__(
        self,
        num_blocks: typing.SupportsIndex,
        block_size: typing.SupportsIndex = 16,
        groups: collections.abc.Iterable[GroupSpec] | None = None,
        *,
        prefix_caching: bool = True,
        eviction: str = "lru",
        hash_key: bytes | None = None,
        partial_reuse: bool = True,
        watermark: typing.SupportsFloat | typing.SupportsIndex = 0.0,
        null_block: bool = False,
        events: bool = False,
        num_host_blocks: typing.SupportsIndex = 0,
    ) -> None: ...
    def __len__(self) -> int: ...
    def __reduce_ex__(self, protocol: typing.SupportsIndex) -> typing.NoReturn: ...
    def __repr__(self) -> str: ...
    def accept(
        self,
        seq_ids: collections.abc.Sequence[typing.SupportsIndex]
        | numpy.typing.NDArray[numpy.integer[typing.Any]],
        paths: collections.abc.Iterable[
            collections.abc.Sequence[typing.SupportsIndex]
            | numpy.typing.NDArray[numpy.integer[typing.Any]]
        ],
    ) -> numpy.typing.NDArray[numpy.int64] | list[numpy.typing.NDArray[numpy.int64]]:
        """
        Tree drafts: the accepted paths become contiguous. Returns slot moves, int64 ``[n, 2]``, of each group where there are several.
        """
    def acquire(
        self,
        seq_ids: collections.abc.Sequence[typing.SupportsIndex]
        | numpy.typing.NDArray[numpy.integer[typing.Any]],
    ) -> numpy.typing.NDArray[numpy.int32]:
        """
        Admits sequences that hold nothing: holds what the prefix index has of them and returns how many tokens that is, int32 ``[n]``.
        """
    def add(
        self,
        seq_id: typing.SupportsIndex,
        tokens: collections.abc.Sequence[typing.SupportsIndex]
        | numpy.typing.NDArray[numpy.integer[typing.Any]],
        *,
        salt: bytes = b"",
        extras: collections.abc.Iterable[tuple[int, int, bytes]] = (),
        priority: typing.SupportsIndex = 0,
        ttl: typing.SupportsIndex | None = None,
        reuse: bool = True,
        store: bool = True,
    ) -> None:
        """
        Registers a sequence and its tokens; takes no block.
        """
    def append(
        self,
        seq_ids: collections.abc.Sequence[typing.SupportsIndex]
        | numpy.typing.NDArray[numpy.integer[typing.Any]],
        tokens: collections.abc.Sequence[typing.SupportsIndex]
        | numpy.typing.NDArray[numpy.integer[typing.Any]],
        counts: collections.abc.Sequence[typing.SupportsIndex]
        | numpy.typing.NDArray[numpy.integer[typing.Any]]
        | None = None,
    ) -> None:
        """
        Token ids are now known: one a sequence, or ``counts[i]`` of sequence i.
        """
    def block_ids(
        self, seq_id: typing.SupportsIndex, group: typing.SupportsIndex = 0
    ) -> numpy.typing.NDArray[numpy.int32]:
        """
        A group's table, int32, -1 in holes; a copy.
        """
    def check(self) -> None:
        """
        Checks every invariant; raises on the first broken one.
        """
    def commit(
        self,
        seq_ids: collections.abc.Sequence[typing.SupportsIndex]
        | numpy.typing.NDArray[numpy.integer[typing.Any]],
        num_tokens: collections.abc.Sequence[typing.SupportsIndex]
        | numpy.typing.NDArray[numpy.integer[typing.Any]],
    ) -> None:
        """
        Keys and values of this many more tokens are written.
        """
    def compact(self) -> numpy.typing.NDArray[numpy.int32]:
        """
        Packs live blocks to the front; pairs (from, to) to copy, int32 ``[n, 2]``.
        """
    def evict(self, n: typing.SupportsIndex) -> int:
        """
        Evicts up to n cached blocks; returns how many went.
        """
    def fit(
        self,
        seq_ids: collections.abc.Sequence[typing.SupportsIndex]
        | numpy.typing.NDArray[numpy.integer[typing.Any]],
        num_new_tokens: collections.abc.Sequence[typing.SupportsIndex]
        | numpy.typing.NDArray[numpy.integer[typing.Any]],
    ) -> int:
        """
        How many of these, from the front, schedule would take now; changes nothing.
        """
    def fork(self, seq_id: typing.SupportsIndex, new_id: typing.SupportsIndex) -> None:
        """
        A copy that shares every committed block.
        """
    def free(
        self,
        seq_ids: collections.abc.Sequence[typing.SupportsIndex]
        | numpy.typing.NDArray[numpy.integer[typing.Any]],
    ) -> None:
        """
        Ends sequences; committed blocks stay findable until evicted.
        """
    def hold(self, seq_id: typing.SupportsIndex, num_tokens: typing.SupportsIndex) -> int:
        """
        A lease: the blocks of these tokens outlive free() until release(lease).
        """
    def new_batch(
        self,
        max_seqs: typing.SupportsIndex,
        max_tokens: typing.SupportsIndex,
        max_blocks_per_seq: typing.SupportsIndex,
        buffers: numpy.typing.NDArray[typing.Any] | None = None,
    ) -> Batch:
        """
        A batch to pass as ``out``, in its own memory or in ``buffers`` (pinned, for instance).
        """
    def num_cached(self, seq_id: typing.SupportsIndex) -> int:
        """
        Tokens that the last acquire found.
        """
    def num_committed(self, seq_id: typing.SupportsIndex) -> int: ...
    def num_scheduled(self, seq_id: typing.SupportsIndex) -> int: ...
    def num_tokens(self, seq_id: typing.SupportsIndex) -> int:
        """
        Tokens known.
        """
    def pin(self, seq_id: typing.SupportsIndex) -> None:
        """
        Keeps what is committed from eviction until unpin.
        """
    def preempt(
        self,
        seq_ids: collections.abc.Sequence[typing.SupportsIndex]
        | numpy.typing.NDArray[numpy.integer[typing.Any]],
    ) -> None:
        """
        Gives blocks back and keeps the tokens; acquire resumes.
        """
    def probe(
        self,
        tokens: collections.abc.Sequence[typing.SupportsIndex]
        | numpy.typing.NDArray[numpy.integer[typing.Any]],
        *,
        salt: bytes = b"",
        extras: collections.abc.Iterable[tuple[int, int, bytes]] = (),
    ) -> int:
        """
        Tokens that acquire would find; changes nothing.
        """
    def release(self, lease: typing.SupportsIndex) -> None: ...
    def reset(self) -> None:
        """
        Empties the prefix index; PoolError while blocks are held.
        """
    def salt_stats(self, salt: bytes) -> ReuseStats:
        """
        Counters of one salt alone.
        """
    def schedule(
        self,
        seq_ids: collections.abc.Sequence[typing.SupportsIndex]
        | numpy.typing.NDArray[numpy.integer[typing.Any]],
        num_new_tokens: collections.abc.Sequence[typing.SupportsIndex]
        | numpy.typing.NDArray[numpy.integer[typing.Any]],
        *,
        lookahead: typing.SupportsIndex = 0,
        out: Batch | None = None,
        pad_to: typing.SupportsIndex | None = None,
    ) -> Batch:
        """
        Slots for the next tokens of each sequence: all or nothing. Raises PoolExhaustedError.
        """
    def set_salt_limit(self, salt: bytes, max_blocks: typing.SupportsIndex | None) -> None:
        """
        At most this many cached blocks of a salt.
        """
    def stats(self) -> Stats:
        """
        Counters over all salts.
        """
    def step(
        self,
        seq_ids: collections.abc.Sequence[typing.SupportsIndex]
        | numpy.typing.NDArray[numpy.integer[typing.Any]],
        tokens: collections.abc.Sequence[typing.SupportsIndex]
        | numpy.typing.NDArray[numpy.integer[typing.Any]],
        *,
        out: Batch | None = None,
        pad_to: typing.SupportsIndex | None = None,
    ) -> Batch:
        """
        The decode loop in one call: commit 1, append 1, schedule 1.
        """
    def swap_in(
        self,
        seq_ids: collections.abc.Sequence[typing.SupportsIndex]
        | numpy.typing.NDArray[numpy.integer[typing.Any]],
    ) -> numpy.typing.NDArray[numpy.int32]:
        """
        Pairs (host block, block) to copy, int32 ``[n, 2]``.
        """
    def swap_out(
        self,
        seq_ids: collections.abc.Sequence[typing.SupportsIndex]
        | numpy.typing.NDArray[numpy.integer[typing.Any]],
    ) -> numpy.typing.NDArray[numpy.int32]:
        """
        Pairs (block, host block) to copy, int32 ``[n, 2]``.
        """
    def take_events(self) -> list[CacheEvent]:
        """
        What entered and left the prefix index since the last call, in order.
        """
    def truncate(
        self,
        seq_ids: collections.abc.Sequence[typing.SupportsIndex]
        | numpy.typing.NDArray[numpy.integer[typing.Any]],
        num_tokens: collections.abc.Sequence[typing.SupportsIndex]
        | numpy.typing.NDArray[numpy.integer[typing.Any]],
    ) -> numpy.typing.NDArray[numpy.int32]:
        """
        Back to these lengths; returns the lengths reached, int32 ``[n]``.
        """
    def unpin(self, seq_id: typing.SupportsIndex) -> None: ...
    @property
    def memory_bytes(self) -> int:
        """
        Bytes of the books: blocks, index, eviction.
        """
    @property
    def num_free_blocks(self) -> int: ...
    @property
    def usage(self) -> float:
        """
        Share of blocks held, in [0, 1].
        """

def FullAttention(*, block_size: typing.SupportsIndex | None = None) -> GroupSpec:
    """
    Layers that see every token before.
    """

def SlidingWindow(
    window: typing.SupportsIndex,
    sink_tokens: typing.SupportsIndex = 0,
    *,
    block_size: typing.SupportsIndex | None = None,
) -> GroupSpec:
    """
    Layers that see the last ``window`` tokens, their own counted, and the first ``sink_tokens``. Blocks outside are given back.
    """

def Ssm(
    checkpoint_interval: typing.SupportsIndex, *, block_size: typing.SupportsIndex | None = None
) -> GroupSpec:
    """
    Layers with a recurrent state: one block a sequence, and one for each state that is kept for reuse, where a commit ends on a multiple of ``checkpoint_interval`` tokens.
    """

def build_info() -> dict[str, typing.Any]:
    """
    What was built and what this machine offers: version, compiler, build type, instruction sets found and chosen, backends (True, or why not), where their kernels have run, threads.
    """

def copy_blocks(caches: typing.Any, src_dst: typing.Any) -> None:
    """
    See pagedkv.ops.copy_blocks.
    """

def gather_kv(
    k_cache: typing.Any,
    v_cache: typing.Any,
    block_tables: typing.Any,
    seq_lens: typing.Any,
    *,
    k_scale: typing.Any = None,
    v_scale: typing.Any = None,
    layout: str = "HND",
    dtype: numpy.typing.DTypeLike | None = None,
    out_dtype: numpy.typing.DTypeLike | None = None,
    out: tuple[typing.Any, typing.Any] | None = None,
) -> tuple[typing.Any, typing.Any]:
    """
    See pagedkv.ops.gather_kv.
    """

def get_num_threads() -> int:
    """
    How many threads an operation uses: one a processor, unless the environment variable PAGEDKV_NUM_THREADS or set_num_threads says otherwise.
    """

def merge_attention_states(
    o_a: typing.Any,
    lse_a: typing.Any,
    o_b: typing.Any,
    lse_b: typing.Any,
    *,
    out: tuple[typing.Any, typing.Any] | None = None,
) -> tuple[typing.Any, typing.Any]:
    """
    See pagedkv.ops.merge_attention_states.
    """

def mla_decode(
    q_nope: typing.Any,
    q_pe: typing.Any,
    ckv_cache: typing.Any,
    kpe_cache: typing.Any,
    block_tables: typing.Any,
    seq_lens: typing.Any,
    *,
    query_start_loc: typing.Any = None,
    scale: typing.SupportsFloat | typing.SupportsIndex,
    dtype: numpy.typing.DTypeLike | None = None,
    out: typing.Any = None,
    return_lse: bool = False,
) -> typing.Any:
    """
    See pagedkv.ops.mla_decode.
    """

def mla_write(
    ckv: typing.Any,
    kpe: typing.Any,
    ckv_cache: typing.Any,
    kpe_cache: typing.Any,
    slot_mapping: typing.Any,
    *,
    dtype: numpy.typing.DTypeLike | None = None,
) -> None:
    """
    See pagedkv.ops.mla_write.
    """

def move_slots(
    caches: typing.Any, slot_moves: typing.Any, *, scales: typing.Any = (), layout: str = "HND"
) -> None:
    """
    See pagedkv.ops.move_slots.
    """

def paged_attention(
    q: typing.Any,
    k_cache: typing.Any,
    v_cache: typing.Any,
    block_tables: typing.Any,
    seq_lens: typing.Any,
    *,
    query_start_loc: typing.Any = None,
    scale: typing.SupportsFloat | typing.SupportsIndex | None = None,
    causal: bool = True,
    window: typing.SupportsIndex | None = None,
    sink_tokens: typing.SupportsIndex = 0,
    sink_logits: typing.Any = None,
    softcap: typing.SupportsFloat | typing.SupportsIndex | None = None,
    alibi_slopes: typing.Any = None,
    tree_mask: typing.Any = None,
    k_scale: typing.Any = None,
    v_scale: typing.Any = None,
    layout: str = "HND",
    dtype: numpy.typing.DTypeLike | None = None,
    batch_invariant: bool = False,
    exact: bool = False,
    out: typing.Any = None,
    return_lse: bool = False,
) -> typing.Any:
    """
    See pagedkv.ops.paged_attention.
    """

def rope_write_kv(
    q: typing.Any,
    k: typing.Any,
    v: typing.Any,
    positions: typing.Any,
    cos_sin_cache: typing.Any,
    k_cache: typing.Any,
    v_cache: typing.Any,
    slot_mapping: typing.Any,
    *,
    interleaved: bool = False,
    q_norm_weight: typing.Any = None,
    k_norm_weight: typing.Any = None,
    norm_eps: typing.SupportsFloat | typing.SupportsIndex = 1e-06,
    k_scale: typing.Any = None,
    v_scale: typing.Any = None,
    layout: str = "HND",
    dtype: numpy.typing.DTypeLike | None = None,
    out: typing.Any = None,
) -> typing.Any:
    """
    See pagedkv.ops.rope_write_kv.
    """

def set_num_threads(num_threads: typing.SupportsIndex) -> None:
    """
    How many threads an operation uses from now on, the calling one counted: 1 to 1024. Waits for one that is at work.
    """

def swap_blocks(src_cache: typing.Any, dst_cache: typing.Any, src_dst: typing.Any) -> None:
    """
    See pagedkv.ops.swap_blocks.
    """

def write_kv(
    k: typing.Any,
    v: typing.Any,
    k_cache: typing.Any,
    v_cache: typing.Any,
    slot_mapping: typing.Any,
    *,
    k_scale: typing.Any = None,
    v_scale: typing.Any = None,
    layout: str = "HND",
    dtype: numpy.typing.DTypeLike | None = None,
) -> None:
    """
    See pagedkv.ops.write_kv.
    """

__version__: str
