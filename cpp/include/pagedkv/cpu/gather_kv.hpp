#pragma once

// Paged keys and values become dense rows, in the dtype of the cache or as floats.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "pagedkv/core/errors.hpp"
#include "pagedkv/cpu/kernels.hpp"
#include "pagedkv/cpu/row_copies.hpp"
#include "pagedkv/cpu/row_kernels.hpp"
#include "pagedkv/cpu/thread_pool.hpp"
#include "pagedkv/ops/gather_kv_call.hpp"
#include "pagedkv/ops/views.hpp"

namespace pagedkv::inline v0_1::cpu {

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
  const std::vector<std::int64_t> before = check_gather_kv(where, call);
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
