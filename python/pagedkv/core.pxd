# cython: language_level=3
"""The C++ core for Cython: `from pagedkv.core cimport BlockAllocator`.

Compile as C++20 with the headers of `pagedkv config --includedir`, which say what each function
does. Errors arrive as those of `pagedkv.errors`. Most of these types have no default constructor:
hold them by pointer (`new`, `unique_ptr`). Spans that a function only reads are `span[T]` here:
Cython has no expression for `span[const T]`, and C++ converts. Keep an `optional` in a variable
before asking for its `value()`, which refers into it.
"""

from libc.stddef cimport size_t
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libcpp cimport bool
from libcpp.memory cimport shared_ptr, unique_ptr
from libcpp.optional cimport optional
from libcpp.span cimport span
from libcpp.string cimport string
from libcpp.vector cimport vector

from pagedkv.errors cimport raise_python


cdef extern from "<cstddef>" namespace "std" nogil:
    cdef cppclass byte "std::byte":
        pass


cdef extern from "<pagedkv/version.hpp>" namespace "pagedkv" nogil:
    const char* version


cdef extern from "<pagedkv/core/dtype.hpp>" namespace "pagedkv" nogil:
    cdef enum class DType(uint8_t):
        float64
        float32
        float16
        bfloat16
        float8_e4m3
        float8_e5m2
        int8
        int4
        int32

    unsigned int dtype_bits(DType dtype)


cdef extern from "<pagedkv/core/block_allocator.hpp>" namespace "pagedkv" nogil:
    ctypedef uint32_t BlockId

    cdef cppclass BlockAllocator:
        BlockAllocator(size_t capacity) except +raise_python
        BlockId allocate() except +raise_python
        optional[BlockId] try_allocate()
        void allocate_n(span[BlockId] out) except +raise_python
        void acquire(BlockId id) except +raise_python
        void acquire(span[BlockId] ids) except +raise_python
        void free(BlockId id) except +raise_python
        void free(span[BlockId] ids) except +raise_python
        uint32_t ref_count(BlockId id) except +raise_python
        bool is_live(uint64_t id)
        size_t free_count()
        size_t in_use()
        size_t peak_in_use()
        size_t capacity()


cdef extern from "<pagedkv/core/block_pool.hpp>" namespace "pagedkv" nogil:
    cdef cppclass BlockPool:
        BlockPool(
            size_t capacity,
            size_t block_size,
            size_t num_layers,
            size_t num_kv_heads,
            size_t head_dim,
            DType dtype,
        ) except +raise_python
        optional[BlockId] allocate()
        void free(BlockId id) except +raise_python
        span[byte] keys(BlockId id) except +raise_python
        span[byte] values(BlockId id) except +raise_python
        span[T] keys_as[T](BlockId id) except +raise_python
        span[T] values_as[T](BlockId id) except +raise_python
        bool is_live(uint64_t id)
        size_t free_count()
        size_t total_count()
        double utilization()
        size_t block_size()
        size_t num_layers()
        size_t num_kv_heads()
        size_t head_dim()
        DType dtype()


cdef extern from "<pagedkv/core/block_table.hpp>" namespace "pagedkv" nogil:
    int32_t kNoBlock

    cdef cppclass BlockTable:
        BlockTable(size_t num_layers, size_t block_size) except +raise_python
        BlockTable(const BlockTable& other) except +raise_python
        void append_block(size_t layer, BlockId id) except +raise_python
        optional[BlockId] get_block(size_t layer, size_t logical) except +raise_python
        span[const BlockId] blocks(size_t layer) except +raise_python
        size_t num_blocks(size_t layer) except +raise_python
        size_t token_capacity(size_t layer) except +raise_python
        vector[BlockId] truncate(size_t layer, size_t num_tokens) except +raise_python
        size_t max_blocks()
        void write_array(span[int32_t] out) except +raise_python
        size_t num_layers()
        size_t block_size()


cdef extern from "<pagedkv/cpu/backend.hpp>" namespace "pagedkv" nogil:
    cdef cppclass CpuContext "pagedkv::cpu::Context":
        CpuContext()

    cdef cppclass CpuBuffer "pagedkv::cpu::Buffer":
        DType dtype()
        size_t size()
        span[byte] bytes()
        span[T] as_ "as"[T]() except +raise_python
        span[const T] as_const "as"[T]() except +raise_python


cdef extern from "<pagedkv/core/paged_seq_state.hpp>" namespace "pagedkv" nogil:
    cdef cppclass CpuPagedSeqState "pagedkv::PagedSeqState<pagedkv::CpuBackend>":
        CpuPagedSeqState(size_t block_size, size_t max_blocks_per_seq) except +raise_python
        void ensure_capacity(
            CpuContext& ctx, BlockAllocator& alloc, size_t target_len
        ) except +raise_python
        void sync_context_len(CpuContext& ctx) except +raise_python
        void release(BlockAllocator& alloc) except +raise_python
        void release(CpuContext& ctx, BlockAllocator& alloc) except +raise_python
        void truncate(BlockAllocator& alloc, size_t num_tokens) except +raise_python
        span[const BlockId] blocks()
        const CpuBuffer& block_table_buf()
        const CpuBuffer& context_lens_buf()
        size_t len()
        void set_len(size_t len)
        size_t block_size()
        size_t max_blocks_per_seq()


cdef extern from "<pagedkv/core/kv_cache.hpp>" namespace "pagedkv" nogil:
    cdef cppclass CpuKvCache "pagedkv::KvCache<pagedkv::CpuBackend>":
        void reserve(CpuContext& ctx, size_t num_tokens) except +raise_python
        void append[T](span[T] k, span[T] v) except +raise_python
        void to_dense[T](span[T] k, span[T] v) except +raise_python
        void truncate(CpuContext& ctx, size_t num_tokens) except +raise_python
        void release() except +raise_python
        CpuBuffer& k()
        CpuBuffer& v()
        size_t len()
        size_t capacity()
        size_t num_kv_heads()
        size_t head_dim()
        DType dtype()
        size_t block_size()
        size_t num_blocks()
        const CpuBuffer* block_table()
        const CpuBuffer* context_lens()
        span[const BlockId] paged_block_indices()
        shared_ptr[BlockAllocator] allocator()


cdef extern from * nogil:
    """
    #include <memory>
    #include <utility>

    #include <pagedkv/core/kv_cache.hpp>
    #include <pagedkv/cpu/backend.hpp>

    // Cython keeps what a call returns in a variable that it made before the call, which a type
    // without a default constructor does not allow: the factories of KvCache return pointers here.
    using PagedkvCpuKvCache = pagedkv::KvCache<pagedkv::CpuBackend>;

    template <class... Args>
    static std::unique_ptr<PagedkvCpuKvCache> pagedkv_contiguous_cache(Args&&... args) {
      return std::make_unique<PagedkvCpuKvCache>(
          PagedkvCpuKvCache::contiguous(std::forward<Args>(args)...));
    }

    template <class... Args>
    static std::unique_ptr<PagedkvCpuKvCache> pagedkv_paged_cache(Args&&... args) {
      return std::make_unique<PagedkvCpuKvCache>(
          PagedkvCpuKvCache::paged(std::forward<Args>(args)...));
    }

    static inline std::unique_ptr<PagedkvCpuKvCache> pagedkv_shared_cache(
        const PagedkvCpuKvCache& cache) {
      return std::make_unique<PagedkvCpuKvCache>(cache.share());
    }
    """
    unique_ptr[CpuKvCache] contiguous_cache "pagedkv_contiguous_cache"(
        size_t capacity, size_t num_kv_heads, size_t head_dim, DType dtype
    ) except +raise_python
    unique_ptr[CpuKvCache] paged_cache "pagedkv_paged_cache"(
        size_t num_blocks,
        size_t num_kv_heads,
        size_t head_dim,
        size_t block_size,
        size_t max_blocks_per_seq,
        shared_ptr[BlockAllocator] allocator,
        DType dtype,
    ) except +raise_python
    unique_ptr[CpuKvCache] shared_cache "pagedkv_shared_cache"(
        const CpuKvCache& cache
    ) except +raise_python


cdef extern from "<pagedkv/core/paged_kv_cache.hpp>" namespace "pagedkv" nogil:
    cdef cppclass PagedKvCache:
        PagedKvCache(size_t max_tokens, size_t dim) except +raise_python
        PagedKvCache(const PagedKvCache& other) except +raise_python
        void append(span[double] token) except +raise_python
        void append_tensor(span[double] tokens) except +raise_python
        void as_tensor(span[double] out) except +raise_python
        vector[double] as_tensor() except +raise_python
        optional[span[const double]] as_span()
        span[const double] get_token(size_t i) except +raise_python
        void clear()
        size_t max_tokens()
        size_t num_blocks()
        size_t blocks_in_use()
        size_t len()
        size_t dim()
        bool is_empty()
        const BlockTable& block_table()
        string repr() except +raise_python


cdef extern from "<pagedkv/core/kv_cache_pool.hpp>" namespace "pagedkv" nogil:
    cdef cppclass KvCachePool:
        KvCachePool(size_t page_size, size_t num_pages, DType dtype) except +raise_python
        BlockId alloc() except +raise_python
        void free(size_t page) except +raise_python
        span[byte] page(size_t page) except +raise_python
        span[T] page_as[T](size_t page) except +raise_python
        bool is_live(size_t page)
        size_t page_size()
        size_t num_pages()
        size_t free_count()
        size_t used_count()
        DType dtype()


cdef extern from "<pagedkv/core/ssm_state_spec.hpp>" namespace "pagedkv" nogil:
    cdef cppclass SsmStateSpec:
        SsmStateSpec()
        size_t num_layers
        size_t num_heads
        size_t head_dim
        size_t d_state
        size_t conv_dim
        size_t d_conv
        DType dtype
        void validate() except +raise_python
        size_t ssm_bytes()
        size_t conv_bytes()
        string repr() except +raise_python


cdef extern from "<pagedkv/core/ssm_state_pool.hpp>" namespace "pagedkv" nogil:
    cdef cppclass SsmSlot:
        span[byte] ssm_state() except +raise_python
        span[byte] conv_state() except +raise_python
        span[T] ssm_state_as[T]() except +raise_python
        span[T] conv_state_as[T]() except +raise_python
        uint64_t position() except +raise_python
        uint64_t request_id() except +raise_python
        size_t index()
        bool is_live()
        void advance(uint64_t n) except +raise_python

    cdef cppclass SsmStatePool:
        SsmStatePool(size_t capacity, const SsmStateSpec& spec) except +raise_python
        size_t alloc(uint64_t request_id) except +raise_python
        void release(size_t slot) except +raise_python
        optional[SsmSlot] slot(size_t index)
        bool is_live(size_t slot)
        const SsmStateSpec& spec()
        size_t capacity()
        size_t free_count()
        size_t used_count()
