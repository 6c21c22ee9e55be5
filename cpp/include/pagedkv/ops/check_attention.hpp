#pragma once

// The checks of an attention call, before anything is read or written.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <string>

#include "pagedkv/core/errors.hpp"
#include "pagedkv/ops/attention_call.hpp"
#include "pagedkv/ops/checks.hpp"
#include "pagedkv/ops/overlap.hpp"

namespace pagedkv::inline v0_1 {

/// Most query heads a head of keys and values, but for MLA, which has one head for all.
inline constexpr std::int64_t kMaxGroupSize = 64;

namespace detail_check_attention {

/// @throws ShapeError unless elements are aligned, and strides are of whole elements, 0 or more.
inline void expect_aligned(const char* where, const char* what, const void* data, DType dtype,
                           std::initializer_list<std::int64_t> strides) {
  const std::int64_t bytes = std::max(dtype_bits(dtype) / 8, 1U);
  bool aligned = reinterpret_cast<std::uintptr_t>(data) % static_cast<std::uintptr_t>(bytes) == 0;
  for (const std::int64_t stride : strides) aligned = aligned && stride >= 0 && stride % bytes == 0;
  if (!aligned) {
    detail::throw_shape(where, std::string(what) + " with elements of " + std::to_string(bytes) +
                                   " bytes that are not aligned, or a negative stride; expected "
                                   "an address and strides that are multiples of that");
  }
}

inline void check_rows(const char* where, const char* what, const RowsView& rows) {
  if (rows.num_tokens < 0 || rows.num_heads < 1 || rows.head_dim < 1 ||
      (rows.data == nullptr && rows.num_tokens != 0)) {
    detail::throw_shape(where, std::string(what) + " " + detail_checks::shape_text(rows) +
                                   "; expected data, and heads and head_dim of at least 1");
  }
  expect_aligned(where, what, rows.data, rows.dtype, {rows.token_stride, rows.head_stride});
}

inline void check_cache(const char* where, const char* what, const CacheView& cache) {
  detail_checks::check_cache(where, what, cache);
  expect_aligned(where, what, cache.data, cache.dtype,
                 {cache.block_stride, cache.head_stride, cache.token_stride});
}

[[nodiscard]] inline bool is_head_dim(std::int64_t size) noexcept {
  return size >= 8 && size <= kMaxHeadDim && size % 8 == 0;
}

inline void expect_head_dim(const char* where, const char* what, std::int64_t size) {
  if (!is_head_dim(size)) {
    detail::throw_shape(where, std::string(what) + " with a head_dim of " + std::to_string(size) +
                                   "; expected a multiple of 8 from 8 to " +
                                   std::to_string(kMaxHeadDim));
  }
}

/// @throws ShapeError unless `came` is `expected`.
inline void expect_size(const char* where, const char* what, std::int64_t came,
                        std::int64_t expected) {
  if (came != expected) {
    detail::throw_shape(where, std::string(what) + " of " + std::to_string(came) + "; expected " +
                                   std::to_string(expected));
  }
}

inline void expect_dtype(const char* where, const char* what, DType came, DType expected) {
  if (came != expected) {
    detail::throw_shape(where, std::string(what) + " of " + std::string(dtype_name(came)) +
                                   "; expected " + std::string(dtype_name(expected)));
  }
}

/// @throws ShapeError unless two caches have blocks of the same slots.
inline void expect_same_blocks(const char* where, const char* what, const CacheView& came,
                               const CacheView& expected) {
  const auto text = [](const CacheView& cache) {
    return std::to_string(cache.num_blocks) + " blocks of " + std::to_string(cache.num_heads) +
           " heads and " + std::to_string(cache.block_size) + " slots of " +
           std::string(dtype_name(cache.dtype));
  };
  if (came.num_blocks != expected.num_blocks || came.num_heads != expected.num_heads ||
      came.block_size != expected.block_size || came.dtype != expected.dtype) {
    detail::throw_shape(where,
                        std::string(what) + " of " + text(came) + "; expected " + text(expected));
  }
}

inline void check_arrays(const char* where, const AttentionCall& call) {
  check_cache(where, "k_cache", call.k_cache);
  check_cache(where, "v_cache", call.v_cache);
  check_rows(where, "q", call.q);
  check_rows(where, "out", call.out);
  expect_same_blocks(where, "v_cache", call.v_cache, call.k_cache);
  expect_head_dim(where, "k_cache", call.k_cache.head_dim);
  expect_head_dim(where, "v_cache", call.v_cache.head_dim);
  expect_size(where, "q with a head_dim", call.q.head_dim, call.k_cache.head_dim);
  const DType q = call.q.dtype, cache = call.k_cache.dtype;
  if (cache == DType::int32)
    detail::throw_shape(where, "k_cache of int32; expected a dtype that is stored");
  const bool floats = q == DType::float32 || q == DType::float16 || q == DType::bfloat16;
  if ((cache == DType::float64) != (q == DType::float64) || (q != DType::float64 && !floats)) {
    detail::throw_shape(where,
                        "q of " + std::string(dtype_name(q)) + " for a cache of " +
                            std::string(dtype_name(cache)) + "; expected " +
                            (cache == DType::float64 ? "float64" : "float32, float16 or bfloat16"));
  }
  const std::int64_t heads = call.q.num_heads, kv_heads = call.k_cache.num_heads;
  if (heads % kv_heads != 0 || (call.q_rope.head_dim == 0 && heads / kv_heads > kMaxGroupSize)) {
    detail::throw_shape(where, std::to_string(heads) + " query heads for " +
                                   std::to_string(kv_heads) +
                                   " heads of keys and values; expected 1 to 64 times as many");
  }
  expect_dtype(where, "out", call.out.dtype, q);
  expect_size(where, "out with tokens", call.out.num_tokens, call.q.num_tokens);
  expect_size(where, "out with heads", call.out.num_heads, heads);
  expect_size(where, "out with a head_dim", call.out.head_dim, call.v_cache.head_dim);
}

/// The second part of queries and keys.
inline void check_mla(const char* where, const AttentionCall& call) {
  if (call.q_rope.head_dim == 0 && call.k_rope_cache.head_dim == 0) return;
  const CacheView &keys = call.k_cache, &values = call.v_cache;
  if (keys.dtype == DType::float64) {
    detail::throw_unsupported(where, "keys in two parts of float64; expected another dtype");
  }
  check_cache(where, "kpe_cache", call.k_rope_cache);
  check_rows(where, "q_pe", call.q_rope);
  expect_head_dim(where, "kpe_cache", call.k_rope_cache.head_dim);
  expect_same_blocks(where, "kpe_cache", call.k_rope_cache, keys);
  expect_size(where, "q_pe with a head_dim", call.q_rope.head_dim, call.k_rope_cache.head_dim);
  expect_size(where, "q_pe with tokens", call.q_rope.num_tokens, call.q.num_tokens);
  expect_size(where, "q_pe with heads", call.q_rope.num_heads, call.q.num_heads);
  expect_dtype(where, "q_pe", call.q_rope.dtype, call.q.dtype);
  if (values.data != keys.data || values.head_dim > keys.head_dim || keys.num_heads != 1 ||
      values.block_stride != keys.block_stride || values.token_stride != keys.token_stride) {
    detail::throw_shape(where,
                        "values that are not the first part of the keys; expected one head, "
                        "whose values are");
  }
}

inline void check_options(const char* where, const AttentionCall& call) {
  const bool narrow = call.k_cache.dtype != DType::float64;
  if (!std::isfinite(narrow ? static_cast<float>(call.scale) : call.scale)) {
    detail::throw_shape(where, "scale is " + std::to_string(call.scale) +
                                   "; expected a finite number, of float32 for narrower caches");
  }
  if (!std::isfinite(call.softcap) || call.softcap < 0) {
    detail::throw_shape(where, "softcap is " + std::to_string(call.softcap) +
                                   "; expected a finite number above 0, or 0 for none");
  }
  if (call.window < 0 || call.window > std::numeric_limits<std::int32_t>::max()) {
    detail::throw_shape(where, "window is " + std::to_string(call.window) +
                                   "; expected 1 to 2^31 - 1, or 0 for none");
  }
  if (call.sink_tokens < 0) {
    detail::throw_shape(
        where, "sink_tokens is " + std::to_string(call.sink_tokens) + "; expected 0 or more");
  }
}

/// `query_start_loc`, and `seq_lens` against it.
inline void check_sequences(const char* where, const AttentionCall& call) {
  const std::int32_t* const starts = call.query_start_loc;
  if (starts != nullptr && (starts[0] != 0 || starts[call.num_seqs] != call.q.num_tokens)) {
    detail::throw_shape(where, "query_start_loc from " + std::to_string(starts[0]) + " to " +
                                   std::to_string(starts[call.num_seqs]) + "; expected from 0 to " +
                                   std::to_string(call.q.num_tokens) + ", the tokens of q");
  }
  for (std::int64_t seq = 0; seq < call.num_seqs; ++seq) {
    const std::int64_t new_tokens = call.query_len(seq), length = call.seq_lens[seq];
    if (new_tokens < 0) {
      detail::throw_shape(where, "query_start_loc that falls after sequence " +
                                     std::to_string(seq) + "; expected one that never does");
    }
    if (length < 0 || (length < new_tokens && length != 0)) {
      detail::throw_shape(where, "seq_lens[" + std::to_string(seq) + "] is " +
                                     std::to_string(length) + " for " + std::to_string(new_tokens) +
                                     " new tokens; expected 0, or as many or more");
    }
    const std::int64_t blocks = (length + call.k_cache.block_size - 1) / call.k_cache.block_size;
    if (new_tokens > 0 && blocks > call.max_blocks) {
      detail::throw_shape(
          where, "seq_lens[" + std::to_string(seq) + "] is " + std::to_string(length) +
                     ", which takes " + std::to_string(blocks) + " blocks; expected at most " +
                     std::to_string(call.max_blocks) + ", the width of block_tables");
    }
    if (call.tree_mask != nullptr && new_tokens > call.tree_mask_stride && call.q.num_tokens > 1) {
      detail::throw_shape(where, "tree_mask of " + std::to_string(call.tree_mask_stride) +
                                     " columns for " + std::to_string(new_tokens) +
                                     " new tokens; expected one a token");
    }
  }
}

/// The ids of `[first, last)` of a block table.
inline void check_block_ids(const char* where, const AttentionCall& call, std::int64_t seq,
                            std::int64_t first, std::int64_t last) {
  const std::int32_t* const table = call.block_tables + seq * call.block_table_stride;
  const std::int64_t num_blocks = call.k_cache.num_blocks;
  for (std::int64_t i = first; i < last; ++i) {
    if (table[i] >= 0 && table[i] < num_blocks) continue;
    throw InvalidSlotError(
        detail::located(where, "block id " + std::to_string(table[i]) + " of sequence " +
                                   std::to_string(seq) + ", block " + std::to_string(i) +
                                   ", is out of range; expected 0 or more and less than " +
                                   std::to_string(num_blocks)),
        static_cast<std::uint64_t>(table[i]));
  }
}

}  // namespace detail_check_attention

/// Tokens of sequence `seq` that some query of it sees: `[0, sinks)` and `[begin, seq_lens[seq])`.
struct VisibleTokens {
  std::int64_t sinks = 0;
  std::int64_t begin = 0;
};

/// Those of a sequence, whose new tokens are its last ones.
[[nodiscard]] inline VisibleTokens visible_tokens(const AttentionCall& call,
                                                  std::int64_t seq) noexcept {
  const std::int64_t length = call.seq_lens[seq], context = length - call.query_len(seq);
  if (call.window == 0) return {};
  return {std::min(call.sink_tokens, length),
          std::clamp<std::int64_t>(context - call.window + 1, 0, length)};
}

/// Checks everything but the lengths, starts and block ids, which another device may hold. O(1).
/// @param where  names the function in messages.
/// @throws ShapeError and UnsupportedError, the latter for what is not computed.
inline void check_attention_arrays(const char* where, const AttentionCall& call) {
  using namespace detail_check_attention;
  check_arrays(where, call);
  check_mla(where, call);
  check_options(where, call);
  if (call.num_seqs < 0 || call.max_blocks < 0) {
    detail::throw_shape(where, "num_seqs is " + std::to_string(call.num_seqs) + " and max_blocks " +
                                   std::to_string(call.max_blocks) + "; expected 0 or more");
  }
  if (call.query_start_loc == nullptr) {
    expect_size(where, "q with tokens", call.q.num_tokens, call.num_seqs);
  }
  const MemoryRegion lse(call.lse, call.lse == nullptr ? 0 : 4,
                         {{{call.q.num_tokens * call.q.num_heads, 4}, {1, 0}, {1, 0}}});
  detail_overlap::check(where, {{MemoryRegion(call.out), "out"}, {lse, "lse"}},
                        {{MemoryRegion(call.q), "q"},
                         {MemoryRegion(call.q_rope), "q_pe"},
                         {MemoryRegion(call.k_cache), "k_cache"},
                         {MemoryRegion(call.v_cache), "v_cache"},
                         {MemoryRegion(call.k_rope_cache), "kpe_cache"},
                         {MemoryRegion(call.k_scale, call.k_cache), "k_scale"},
                         {MemoryRegion(call.v_scale, call.v_cache), "v_scale"}});
}

/// Checks everything that `attend` takes for granted. Block ids are looked at only where their
/// tokens are read: those of tokens that a window hides may be anything. O(num_seqs + blocks read).
/// @param where  names the function in messages.
/// @throws ShapeError and, for a block id, InvalidSlotError; UnsupportedError for what is not
///         computed.
inline void check_attention(const char* where, const AttentionCall& call) {
  using namespace detail_check_attention;
  check_attention_arrays(where, call);
  check_sequences(where, call);
  const std::int64_t size = call.k_cache.block_size;
  const auto blocks_of = [&](std::int64_t tokens) { return (tokens + size - 1) / size; };
  for (std::int64_t seq = 0; seq < call.num_seqs; ++seq) {
    if (call.query_len(seq) == 0) continue;
    const VisibleTokens seen = visible_tokens(call, seq);
    const std::int64_t end = blocks_of(call.seq_lens[seq]), begin = seen.begin / size;
    check_block_ids(where, call, seq, 0, std::min(blocks_of(seen.sinks), begin));
    check_block_ids(where, call, seq, begin, end);
  }
}

}  // namespace pagedkv::inline v0_1
