# cython: language_level=3
# distutils: language=c++
"""Uses pagedkv's C++ core by its Cython declarations, as an engine written in Cython would."""

from cython.operator cimport dereference
from libc.stdint cimport int32_t
from libcpp.memory cimport unique_ptr
from libcpp.span cimport span
from libcpp.vector cimport vector

from pagedkv.core cimport (
    BlockAllocator,
    BlockId,
    CpuContext,
    CpuPagedSeqState,
    version,
)


def headers_version() -> str:
    return version.decode()


cdef class Sequences:
    """Sequences of tokens over one allocator of blocks."""

    cdef unique_ptr[BlockAllocator] allocator
    cdef vector[CpuPagedSeqState*] states

    def __cinit__(self, size_t num_blocks):
        self.allocator.reset(new BlockAllocator(num_blocks))

    def __dealloc__(self):
        for state in self.states:
            state.release(dereference(self.allocator))
            del state

    def add(self, size_t num_tokens) -> list[int]:
        """The block table of a new sequence of so many tokens."""
        cdef CpuContext context
        cdef span[const int32_t] table
        cdef CpuPagedSeqState* state = new CpuPagedSeqState(16, 8)
        self.states.push_back(state)
        with nogil:
            state.ensure_capacity(context, dereference(self.allocator), num_tokens)
            state.set_len(num_tokens)
            state.sync_context_len(context)
        table = state.block_table_buf().as_const[int32_t]()
        return [table[i] for i in range(table.size())]

    def free(self, BlockId block) -> None:
        dereference(self.allocator).free(block)

    @property
    def free_count(self) -> int:
        return dereference(self.allocator).free_count()
