#pragma once

// What one call of gather_kv reads and where to: plain data, and its checks.

#include <cstdint>
#include <string>
#include <vector>

#include "pagedkv/core/errors.hpp"
#include "pagedkv/ops/checks.hpp"
#include "pagedkv/ops/overlap.hpp"
#include "pagedkv/ops/views.hpp"

namespace pagedkv::inline v0_1 {

/// The arguments of `gather_kv`.
struct GatherKvCall {
  CacheView k_cache;
  CacheView v_cache;  ///< blocks, heads and slots as in `k_cache`
  ScaleView k_scale;  ///< of quantised caches
  ScaleView v_scale;
  const std::int32_t* block_tables = nullptr;  ///< `[num_seqs, max_blocks]`
  std::int64_t block_table_stride = 0;         ///< in elements
  std::int64_t max_blocks = 0;
  const std::int32_t* seq_lens = nullptr;  ///< `[num_seqs]`
  std::int64_t num_seqs = 0;
  RowsView k;  ///< `[sum of seq_lens, num_kv_heads, head_dim]`: the cache's dtype, or a plain float
  RowsView v;  ///< `[sum of seq_lens, num_kv_heads, v_head_dim]`
};

namespace detail_check_gather {

inline void check_dtypes(const char* where, const char* name, const CacheView& cache,
                         const ScaleView& scale, DType to) {
  const bool known = is_plain_float(cache.dtype) || is_quantized(cache.dtype);
  if (!known || (to != cache.dtype && !is_plain_float(to))) {
    detail::throw_shape(where, std::string(name) + " of " + std::string(dtype_name(to)) +
                                   " from a cache of " + std::string(dtype_name(cache.dtype)) +
                                   "; expected float64, float32, float16, bfloat16, or the dtype "
                                   "of the cache");
  }
  if (!scale.trivial() && (!is_quantized(cache.dtype) || to == cache.dtype)) {
    detail::throw_shape(where, std::string(name) + " of " + std::string(dtype_name(to)) +
                                   " with a scale from a cache of " +
                                   std::string(dtype_name(cache.dtype)) +
                                   "; expected scales only where a quantised cache becomes floats");
  }
}

}  // namespace detail_check_gather

/// Checks everything but the lengths and block ids, which another device may hold.
/// @param where  the function that errors name.
/// @param num_tokens  that k and v have room for: the sum of the lengths.
/// @throws ShapeError for shapes, dtypes or scales that do not go together, and for memory that is
///         shared.
inline void check_gather_kv_arrays(const char* where, const GatherKvCall& call,
                                   std::int64_t num_tokens) {
  using namespace detail_check_gather;
  detail_checks::check_cache(where, "k_cache", call.k_cache);
  detail_checks::check_cache(where, "v_cache", call.v_cache);
  detail_checks::check_pair(where, call.k_cache, call.v_cache);
  if (call.num_seqs != 0 && call.seq_lens == nullptr) {
    detail::throw_shape(where, "no seq_lens; expected one a sequence");
  }
  detail_checks::check_rows(where, "k", call.k, num_tokens, call.k_cache);
  detail_checks::check_rows(where, "v", call.v, num_tokens, call.v_cache);
  check_dtypes(where, "k", call.k_cache, call.k_scale, call.k.dtype);
  check_dtypes(where, "v", call.v_cache, call.v_scale, call.v.dtype);
  detail_overlap::check(where, {{MemoryRegion(call.k), "k"}, {MemoryRegion(call.v), "v"}},
                        {{MemoryRegion(call.k_cache), "k_cache"},
                         {MemoryRegion(call.v_cache), "v_cache"},
                         {MemoryRegion(call.k_scale, call.k_cache), "k_scale"},
                         {MemoryRegion(call.v_scale, call.v_cache), "v_scale"}});
}

/// Checks all, and returns how many tokens come before each sequence, and in all.
/// @throws InvalidSlotError for a block outside the cache; ShapeError for lengths that the block
///         table has no room for, and as `check_gather_kv_arrays`.
[[nodiscard]] inline std::vector<std::int64_t> check_gather_kv(const char* where,
                                                               const GatherKvCall& call) {
  detail_checks::check_cache(where, "k_cache", call.k_cache);
  if (call.num_seqs != 0 && call.seq_lens == nullptr) {
    detail::throw_shape(where, "no seq_lens; expected one a sequence");
  }
  const std::int64_t block_size = call.k_cache.block_size;
  std::vector<std::int64_t> before{0};
  before.reserve(static_cast<std::size_t>(call.num_seqs) + 1);
  for (std::int64_t seq = 0; seq < call.num_seqs; ++seq) {
    const std::int64_t length = call.seq_lens[seq];
    const std::int64_t blocks = (length + block_size - 1) / block_size;
    if (length < 0 || blocks > call.max_blocks) {
      detail::throw_shape(where, "sequence " + std::to_string(seq) + " of " +
                                     std::to_string(length) + " tokens; expected 0 to " +
                                     std::to_string(call.max_blocks * block_size) +
                                     ", what its row of the block table holds");
    }
    if (blocks > 0 && call.block_tables == nullptr) {
      detail::throw_shape(where, "no block_tables; expected a row a sequence");
    }
    detail_checks::check_indices(where, "block", call.block_tables + seq * call.block_table_stride,
                                 blocks, 0, call.k_cache.num_blocks);
    before.push_back(before.back() + length);
  }
  check_gather_kv_arrays(where, call, before.back());
  return before;
}

}  // namespace pagedkv::inline v0_1
