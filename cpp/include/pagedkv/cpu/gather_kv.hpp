#pragma once

// Paged keys and values become dense rows, in the dtype of the cache or as floats.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "pagedkv/core/errors.hpp"
#include "pagedkv/cpu/checks.hpp"
#include "pagedkv/cpu/kernels.hpp"
#include "pagedkv/cpu/overlap.hpp"
#include "pagedkv/cpu/row_copies.hpp"
#include "pagedkv/cpu/row_kernels.hpp"
#include "pagedkv/cpu/thread_pool.hpp"
#include "pagedkv/cpu/views.hpp"

namespace pagedkv::inline v0_1::cpu {

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

namespace detail_gather_kv {

/// Reads rows of one of the two caches.
class Reader {
 public:
  Reader(const CacheView& cache, const ScaleView& scale, const RowsView& rows,
         const Kernels& kernels) noexcept
      : cache_(cache),
        scale_(scale),
        rows_(rows),
        convert_(rows.dtype == cache.dtype ? nullptr
                                           : kernels.rows.dequantize(cache.dtype, rows.dtype)) {}

  /// Slots [offset, offset + count) of a block become rows from `first` on.
  void read(std::int64_t block, std::int64_t offset, std::int64_t count, std::int64_t first,
            const RowTransfer& transfer) const noexcept {
    if (convert_ == nullptr) {
      transfer.copy({rows_.row(first, 0), rows_.token_stride, rows_.head_stride,
                     cache_.row(block, 0, offset), cache_.token_stride, cache_.head_stride, count,
                     rows_.num_heads, static_cast<std::int64_t>(cache_.row_bytes())});
      return;
    }
    for (std::int64_t head = 0; head < rows_.num_heads; ++head) {
      for (std::int64_t token = 0; token < count; ++token) {
        convert_(cache_.row(block, head, offset + token), rows_.row(first + token, head),
                 cache_.head_dim, scale_.at(block, head, offset + token));
      }
    }
  }

 private:
  CacheView cache_;
  ScaleView scale_;
  RowsView rows_;
  ConvertRow convert_;
};

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

/// Checks all, and returns how many tokens come before each sequence, and in all.
inline std::vector<std::int64_t> check(const GatherKvCall& call, const char* where) {
  detail_checks::check_cache(where, "k_cache", call.k_cache);
  detail_checks::check_cache(where, "v_cache", call.v_cache);
  detail_checks::check_pair(where, call.k_cache, call.v_cache);
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
  detail_checks::check_rows(where, "k", call.k, before.back(), call.k_cache);
  detail_checks::check_rows(where, "v", call.v, before.back(), call.v_cache);
  check_dtypes(where, "k", call.k_cache, call.k_scale, call.k.dtype);
  check_dtypes(where, "v", call.v_cache, call.v_scale, call.v.dtype);
  detail_overlap::check(where, {{MemoryRegion(call.k), "k"}, {MemoryRegion(call.v), "v"}},
                        {{MemoryRegion(call.k_cache), "k_cache"},
                         {MemoryRegion(call.v_cache), "v_cache"},
                         {MemoryRegion(call.k_scale, call.k_cache), "k_scale"},
                         {MemoryRegion(call.v_scale, call.v_cache), "v_scale"}});
  return before;
}

}  // namespace detail_gather_kv

/// Copies the tokens of sequences, one sequence after the other, to dense rows. Rows of the cache's
/// own dtype are its bytes; others are elements times their scale, rounded to nearest. O(bytes).
/// @param where  the function that errors name.
/// @throws InvalidSlotError for a block outside the cache; ShapeError for shapes, dtypes or scales
/// that
///         do not go together, and for memory that is shared; std::bad_alloc. Nothing was written.
template <Executor E>
void gather_kv(const GatherKvCall& call, E& executor, const Kernels& kernels,
               const char* where = "cpu.gather_kv") {
  const std::vector<std::int64_t> before = detail_gather_kv::check(call, where);
  const detail_gather_kv::Reader k(call.k_cache, call.k_scale, call.k, kernels);
  const detail_gather_kv::Reader v(call.v_cache, call.v_scale, call.v, kernels);
  const auto bytes = call.k.num_heads *
                     static_cast<std::int64_t>(call.k.row_bytes() + call.v.row_bytes() +
                                               call.k_cache.row_bytes() + call.v_cache.row_bytes());
  const std::int64_t block_size = call.k_cache.block_size;
  in_pieces(executor, before.back(), bytes, [&](std::int64_t begin, std::int64_t end) {
    const RowTransfer transfer(bytes * before.back());
    auto seq = std::upper_bound(before.begin(), before.end(), begin) - before.begin() - 1;
    for (std::int64_t token = begin; token < end;) {
      while (token >= before[static_cast<std::size_t>(seq) + 1]) ++seq;
      const std::int64_t position = token - before[static_cast<std::size_t>(seq)];
      const std::int64_t offset = position % block_size;
      const std::int64_t until = std::min(end, before[static_cast<std::size_t>(seq) + 1]);
      const std::int64_t count = std::min(block_size - offset, until - token);
      const std::int64_t block =
          call.block_tables[seq * call.block_table_stride + position / block_size];
      k.read(block, offset, count, token, transfer);
      v.read(block, offset, count, token, transfer);
      token += count;
    }
  });
}

}  // namespace pagedkv::inline v0_1::cpu
