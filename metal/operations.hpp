#pragma once

// The operations on Metal. All arrays of a call lie in buffers of the device and are named by the
// addresses of their shared storage, those of lengths, slots and block ids too: of those only sizes
// and strides are looked at before kernels run. What kernels then find out of range they leave out,
// and tell `check`. Nothing waits for the device but `check`, and `swap_blocks` with host memory.
//
// Rows, queries and caches are float32, float16 or bfloat16; copies are of any dtype.

#include <cstdint>
#include <span>

#include "metal/queue.hpp"
#include "pagedkv/ops/attention_call.hpp"
#include "pagedkv/ops/copy_blocks_call.hpp"
#include "pagedkv/ops/gather_kv_call.hpp"
#include "pagedkv/ops/merge_states_call.hpp"
#include "pagedkv/ops/rope_write_kv_call.hpp"
#include "pagedkv/ops/write_kv_call.hpp"

namespace pagedkv::metal {

/// Pairs `[count, 2]`, from and to, done as if one after the other.
struct IndexPairs {
  const std::int64_t* data = nullptr;
  std::int64_t count = 0;
  bool on_device = false;
};

/// Each function throws ShapeError for shapes, dtypes and memory that do not go together,
/// UnsupportedError for what Metal does not take, InvalidSlotError for pairs of the host that are
/// out of range; nothing was written then. `where` is what errors name.

/// As `cpu::write_kv`; a token whose slot is out of range is not written.
void write_kv(const WriteKvCall& call, Queue& queue, const char* where = "metal.write_kv");

/// As `cpu::rope_write_kv`; a token whose position is out of range is left out.
void rope_write_kv(const RopeWriteKvCall& call, Queue& queue,
                   const char* where = "metal.rope_write_kv");

/// As `cpu::gather_kv`; rows beyond the sum of the lengths are left alone.
void gather_kv(const GatherKvCall& call, Queue& queue, const char* where = "metal.gather_kv");

/// As `cpu::copy_blocks`.
void copy_blocks(std::span<const CacheView> caches, const IndexPairs& pairs, Queue& queue,
                 const char* where = "metal.copy_blocks");

/// As `cpu::move_slots`.
void move_slots(std::span<const CacheView> caches, const IndexPairs& pairs, Queue& queue,
                const char* where = "metal.move_slots");

/// As `cpu::swap_blocks`. Either side may be host memory that is in no buffer: then the processor
/// copies, after what was dispatched has run.
void swap_blocks(const CacheView& source, const CacheView& target, std::span<const IndexPair> pairs,
                 Queue& queue, const char* where = "metal.swap_blocks");

/// As `cpu::merge_attention_states`.
void merge_attention_states(const MergeStatesCall& call, Queue& queue,
                            const char* where = "metal.merge_attention_states");

/// `paged_attention` and `mla_decode`, of keys of up to 576 channels in two parts. Sequences of few
/// new tokens are cut into pieces, how many depends on the call's size.
/// @param batch_invariant  pieces depend on the sequence alone, and so do the bits of its results.
void attend(const AttentionCall& call, bool batch_invariant, Queue& queue,
            const char* where = "metal.attend");

/// Waits for the queue, and reads and clears what its kernels found.
/// @throws InvalidSlotError for slots, block ids or positions, ShapeError for lengths out of range;
///         the tokens concerned were left out.
void check(Queue& queue, const char* where);

}  // namespace pagedkv::metal
