#pragma once

// The operations on a CUDA device. All pointers of a call are device addresses, also those of index
// arrays, so that only shapes, dtypes and strides are checked before the kernels are put on the
// stream: a call returns before its work is done, waits for nothing and allocates nothing, and may
// be captured in a graph after the first call of its kind on the stream. An id, slot, position or
// length that is out of range is never followed: its tokens are not written, or not there, and
// `check` tells of it. Results are those of the functions of the same names in pagedkv::cpu,
// rounding and all but for the order of sums.
//
// Queries, new keys and values and results are float32, float16 or bfloat16, caches also
// float8_e4m3, float8_e5m2 and int8; float64 and int4 are an UnsupportedError. Copies take any
// dtype.

#include <cstdint>
#include <span>

#include "cuda/stream.hpp"
#include "pagedkv/ops/attention_call.hpp"
#include "pagedkv/ops/copy_blocks_call.hpp"
#include "pagedkv/ops/gather_kv_call.hpp"
#include "pagedkv/ops/merge_states_call.hpp"
#include "pagedkv/ops/rope_write_kv_call.hpp"
#include "pagedkv/ops/views.hpp"
#include "pagedkv/ops/write_kv_call.hpp"

namespace pagedkv::cuda {

/// `[count, 2]` blocks or slots, from and to: as if one pair were copied after the other.
struct IndexPairs {
  const std::int64_t* data = nullptr;
  std::int64_t count = 0;
  bool on_device = false;  ///< else they are host memory, read before the call returns
};

/// Writes the keys and values of n tokens to their slots; of several tokens with one slot, one is
/// there then, or parts of several. `as_write_kv` makes the call of `mla_write`. O(bytes).
/// @param where  the function that errors name, here and below.
/// @throws ShapeError for shapes, dtypes or scales that do not go together, and for memory that is
///         shared; UnsupportedError for dtypes; CudaError.
void write_kv(const WriteKvCall& call, const Stream& stream, const char* where = "cuda.write_kv");

/// Norms and rotates queries and keys, and writes keys and values to their slots. O(bytes).
/// @throws as `write_kv`.
void rope_write_kv(const RopeWriteKvCall& call, const Stream& stream,
                   const char* where = "cuda.rope_write_kv");

/// Copies the tokens of sequences to dense rows, one sequence after the other. Rows of k and v
/// behind the last token are left alone. O(bytes + sequences).
/// @throws as `write_kv`.
void gather_kv(const GatherKvCall& call, const Stream& stream,
               const char* where = "cuda.gather_kv");

/// Copies blocks within each of several caches. O(bytes).
/// @throws ShapeError for caches that share memory; InvalidSlotError for a block of host pairs that
///         is outside a cache; CudaError.
void copy_blocks(std::span<const CacheView> caches, const IndexPairs& pairs, const Stream& stream,
                 const char* where = "cuda.copy_blocks");

/// Moves tokens from slot to slot within each of several caches. O(bytes).
/// @throws as `copy_blocks`, also for caches of different block sizes.
void move_slots(std::span<const CacheView> caches, const IndexPairs& pairs, const Stream& stream,
                const char* where = "cuda.move_slots");

/// Copies blocks of `source` over blocks of `target`, each of them on the device or on the host.
/// Host memory must stay until the stream is done. O(bytes).
/// @throws ShapeError for caches of different heads, slots, head_dim or dtype, or that share
/// memory;
///         InvalidSlotError for a block outside its cache; CudaError.
void swap_blocks(const CacheView& source, const CacheView& target, std::span<const IndexPair> pairs,
                 const Stream& stream, const char* where = "cuda.swap_blocks");

/// Two attentions of the same queries over different tokens become one over all. O(bytes).
/// @throws ShapeError for shapes or dtypes that do not go together, and for memory that is shared
/// in
///         part; UnsupportedError for dtypes; CudaError.
void merge_attention_states(const MergeStatesCall& call, const Stream& stream,
                            const char* where = "cuda.merge_attention_states");

/// `paged_attention`, and `mla_decode`.
/// @param batch_invariant  a sequence's result has the same bits whatever else is in the batch.
/// @throws ShapeError for shapes, dtypes or options that do not go together, and for memory that is
///         shared; UnsupportedError for dtypes; CudaError.
void attend(const AttentionCall& call, bool batch_invariant, const Stream& stream,
            const char* where = "cuda.paged_attention");

/// Waits for the stream, and tells what its kernels met since the last call.
/// @throws InvalidSlotError for a block, slot or position out of range, ShapeError for a length;
///         CudaError.
void check(const Stream& stream, const char* where = "cuda.check");

}  // namespace pagedkv::cuda
