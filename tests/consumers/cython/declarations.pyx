# cython: language_level=3
# distutils: language=c++
"""Calls what core.pxd declares: a declaration meets the headers only where it is used."""

from cython.operator cimport dereference
from libc.stdint cimport int32_t
from libcpp.memory cimport make_shared, shared_ptr, unique_ptr
from libcpp.optional cimport optional
from libcpp.span cimport span
from libcpp.vector cimport vector

from pagedkv.core cimport (
    BlockAllocator,
    BlockId,
    BlockPool,
    BlockTable,
    CpuContext,
    CpuKvCache,
    CpuPagedSeqState,
    DType,
    KvCachePool,
    PagedKvCache,
    SsmSlot,
    SsmStatePool,
    SsmStateSpec,
    byte,
    contiguous_cache,
    dtype_bits,
    kNoBlock,
    paged_cache,
    shared_cache,
)


def block_allocator() -> None:
    cdef unique_ptr[BlockAllocator] allocator
    cdef optional[BlockId] more
    cdef vector[BlockId] ids = [0, 0]
    allocator.reset(new BlockAllocator(4))
    assert dereference(allocator).allocate() == 0
    more = dereference(allocator).try_allocate()
    assert more.value() == 1
    dereference(allocator).allocate_n(span[BlockId](ids.data(), ids.size()))
    assert list(ids) == [2, 3]
    assert not dereference(allocator).try_allocate().has_value()
    dereference(allocator).acquire(<BlockId>1)
    dereference(allocator).acquire(span[BlockId](ids.data(), ids.size()))
    assert dereference(allocator).ref_count(2) == 2
    dereference(allocator).free(<BlockId>0)
    dereference(allocator).free(span[BlockId](ids.data(), ids.size()))
    assert not dereference(allocator).is_live(0)
    assert dereference(allocator).free_count() == 1
    assert dereference(allocator).in_use() == 3
    assert dereference(allocator).peak_in_use() == 4
    assert dereference(allocator).capacity() == 4


def block_pool() -> None:
    cdef unique_ptr[BlockPool] pool
    cdef optional[BlockId] allocated
    cdef BlockId page
    cdef span[float] keys, values
    pool.reset(new BlockPool(2, 4, 1, 3, 5, DType.float32))
    allocated = dereference(pool).allocate()
    page = allocated.value()
    keys = dereference(pool).keys_as[float](page)
    values = dereference(pool).values_as[float](page)
    assert keys.size() == values.size() == 3 * 4 * 5
    assert dereference(pool).keys(page).size() == dereference(pool).values(page).size() == 240
    assert dereference(pool).is_live(page)
    assert dereference(pool).utilization() == 0.5
    dereference(pool).free(page)
    assert dereference(pool).free_count() == dereference(pool).total_count() == 2
    assert dereference(pool).block_size() == 4
    assert dereference(pool).num_layers() == 1
    assert dereference(pool).num_kv_heads() == 3
    assert dereference(pool).head_dim() == 5
    assert dereference(pool).dtype() == DType.float32
    assert dtype_bits(dereference(pool).dtype()) == 32


def block_table() -> None:
    cdef unique_ptr[BlockTable] table, copy
    cdef optional[BlockId] block
    cdef vector[int32_t] array = [0, 0, 0, 0]
    table.reset(new BlockTable(2, 16))
    dereference(table).append_block(0, 7)
    dereference(table).append_block(0, 5)
    copy.reset(new BlockTable(dereference(table)))
    block = dereference(table).get_block(0, 1)
    assert block.value() == 5
    assert not dereference(table).get_block(1, 0).has_value()
    assert dereference(table).blocks(0)[0] == 7
    assert dereference(table).max_blocks() == dereference(table).num_blocks(0) == 2
    assert dereference(table).token_capacity(0) == 32
    dereference(table).write_array(span[int32_t](array.data(), array.size()))
    assert list(array) == [7, 5, kNoBlock, kNoBlock]
    assert list(dereference(table).truncate(0, 16)) == [5]
    assert dereference(copy).num_blocks(0) == 2
    assert dereference(table).num_layers() == 2
    assert dereference(table).block_size() == 16


def paged_seq_state() -> None:
    cdef unique_ptr[CpuPagedSeqState] state
    cdef unique_ptr[BlockAllocator] allocator
    cdef CpuContext context
    allocator.reset(new BlockAllocator(4))
    state.reset(new CpuPagedSeqState(16, 4))
    dereference(state).ensure_capacity(context, dereference(allocator), 40)
    dereference(state).set_len(40)
    dereference(state).sync_context_len(context)
    dereference(state).truncate(dereference(allocator), 20)
    assert dereference(state).blocks().size() == 2
    assert dereference(state).len() == 20
    assert dereference(state).block_size() == 16
    assert dereference(state).max_blocks_per_seq() == 4
    assert dereference(state).block_table_buf().size() == 4
    assert dereference(state).context_lens_buf().dtype() == DType.int32
    dereference(state).release(context, dereference(allocator))
    dereference(state).release(dereference(allocator))
    assert dereference(state).context_lens_buf().as_const[int32_t]()[0] == 0


def kv_cache() -> None:
    cdef shared_ptr[BlockAllocator] allocator = make_shared[BlockAllocator](4)
    cdef unique_ptr[CpuKvCache] contiguous = contiguous_cache(8, 1, 2, DType.float32)
    cdef unique_ptr[CpuKvCache] cache = paged_cache(4, 1, 2, 2, 4, allocator, DType.float32)
    cdef unique_ptr[CpuKvCache] other = shared_cache(dereference(cache))
    cdef CpuContext context
    cdef vector[float] k = [1, 2, 3, 4, 5, 6]
    cdef vector[float] v = [6, 5, 4, 3, 2, 1]
    cdef vector[float] k_out = [0, 0, 0, 0]
    cdef vector[float] v_out = [0, 0, 0, 0]
    for each in (0, 1):
        if each == 1:
            cache.swap(contiguous)
        dereference(cache).reserve(context, 3)
        dereference(cache).append[float](
            span[float](k.data(), k.size()), span[float](v.data(), v.size())
        )
        dereference(cache).truncate(context, 2)
        dereference(cache).to_dense[float](
            span[float](k_out.data(), k_out.size()), span[float](v_out.data(), v_out.size())
        )
        assert list(k_out) == [1, 2, 3, 4]
        assert list(v_out) == [6, 5, 4, 3]
        assert dereference(cache).len() == 2
        assert dereference(cache).capacity() == 8
        assert dereference(cache).k().as_[float]()[0] == 1
        assert dereference(cache).v().bytes().size() == 64
    assert dereference(contiguous).paged_block_indices()[0] == 0
    assert dereference(contiguous).block_table().as_const[int32_t]()[0] == 0
    assert dereference(contiguous).context_lens().as_const[int32_t]()[0] == 2
    assert dereference(contiguous).num_blocks() == 4
    assert dereference(other).allocator() == dereference(contiguous).allocator()
    dereference(contiguous).release()
    assert dereference(cache).block_size() == 0
    assert dereference(cache).num_kv_heads() == 1
    assert dereference(cache).head_dim() == 2
    assert dereference(cache).dtype() == DType.float32


def paged_kv_cache() -> None:
    cdef unique_ptr[PagedKvCache] cache, copy
    cdef optional[span[const double]] in_place
    cdef vector[double] tokens = [1, 2, 3, 4]
    cdef vector[double] out = [0, 0, 0, 0, 0, 0]
    cache.reset(new PagedKvCache(20, 2))
    assert dereference(cache).is_empty()
    dereference(cache).append(span[double](tokens.data(), 2))
    dereference(cache).append_tensor(span[double](tokens.data(), 4))
    copy.reset(new PagedKvCache(dereference(cache)))
    dereference(cache).as_tensor(span[double](out.data(), out.size()))
    assert list(out) == list(dereference(copy).as_tensor()) == [1, 2, 1, 2, 3, 4]
    in_place = dereference(cache).as_span()
    assert in_place.value().size() == 6
    assert dereference(cache).get_token(2)[1] == 4
    assert dereference(cache).repr() == b"PagedKvCache(len=3, max=20, dim=2, blocks=1/2)"
    dereference(cache).clear()
    assert dereference(cache).len() == dereference(cache).blocks_in_use() == 0
    assert dereference(cache).max_tokens() == 20
    assert dereference(cache).dim() == dereference(cache).num_blocks() == 2
    assert dereference(cache).block_table().num_blocks(0) == 2


def kv_cache_pool() -> None:
    cdef unique_ptr[KvCachePool] pool
    cdef span[byte] bytes
    pool.reset(new KvCachePool(8, 2, DType.float64))
    page = dereference(pool).alloc()
    bytes = dereference(pool).page(page)
    assert bytes.size() == 64
    assert dereference(pool).page_as[double](page).size() == dereference(pool).page_size() == 8
    assert dereference(pool).is_live(page)
    assert dereference(pool).used_count() == dereference(pool).free_count() == 1
    dereference(pool).free(page)
    assert dereference(pool).num_pages() == 2
    assert dereference(pool).dtype() == DType.float64


def ssm_state_pool() -> None:
    cdef unique_ptr[SsmStatePool] pool
    cdef optional[SsmSlot] slot
    cdef SsmStateSpec spec
    spec.num_layers, spec.num_heads, spec.head_dim, spec.d_state = 1, 2, 3, 4
    spec.conv_dim, spec.d_conv, spec.dtype = 5, 4, DType.float32
    spec.validate()
    assert (spec.ssm_bytes(), spec.conv_bytes()) == (96, 60)
    pool.reset(new SsmStatePool(2, spec))
    assert dereference(pool).spec().repr() == spec.repr()
    index = dereference(pool).alloc(77)
    slot = dereference(pool).slot(index)
    slot.value().ssm_state_as[float]()[0] = 1.5
    slot.value().advance(3)
    assert slot.value().ssm_state().size() == 96
    assert slot.value().conv_state().size() == 60
    assert slot.value().conv_state_as[float]()[0] == 0
    assert (slot.value().position(), slot.value().request_id()) == (3, 77)
    assert slot.value().index() == index
    dereference(pool).release(index)
    assert not slot.value().is_live()
    assert not dereference(pool).is_live(index)
    assert dereference(pool).used_count() == 0
    assert dereference(pool).capacity() == dereference(pool).free_count() == 2
