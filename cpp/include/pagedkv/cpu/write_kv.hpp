#pragma once

// New tokens' keys and values go to their slots, quantised on the way where the cache is.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "pagedkv/core/errors.hpp"
#include "pagedkv/cpu/kernels.hpp"
#include "pagedkv/cpu/row_copies.hpp"
#include "pagedkv/cpu/row_kernels.hpp"
#include "pagedkv/cpu/thread_pool.hpp"
#include "pagedkv/ops/views.hpp"
#include "pagedkv/ops/write_kv_call.hpp"

namespace pagedkv::inline v0_1::cpu {

namespace detail_write_kv {

/// Writes rows to one of the two caches. Made after the checks, read by every thread.
class Writer {
 public:
  /// @param from  dtype of the rows.
  Writer(DType from, const CacheView& cache, const ScaleView& scale,
         const Kernels& kernels) noexcept
      : cache_(cache),
        scale_(scale),
        from_(from),
        row_bytes_(cache.row_bytes()),
        convert_(from == cache.dtype ? nullptr : kernels.rows.quantize(from, cache.dtype)),
        largest_(scale.per_token() ? kernels.rows.largest : nullptr) {}

  [[nodiscard]] bool copies() const noexcept { return convert_ == nullptr; }
  [[nodiscard]] const CacheView& cache() const noexcept { return cache_; }

  /// One row that is converted.
  void write(const std::byte* row, std::int64_t block, std::int64_t head,
             std::int64_t offset) const noexcept {
    convert_(row, cache_.row(block, head, offset), cache_.head_dim,
             scale_for(row, block, head, offset));
  }
  /// One row, converted or not.
  void write(const std::byte* row, std::int64_t block, std::int64_t head, std::int64_t offset,
             const RowTransfer& transfer) const noexcept {
    if (convert_ != nullptr) return write(row, block, head, offset);
    transfer.copy_row(cache_.row(block, head, offset), row, row_bytes_);
  }

  /// Tokens [first, first + count) of `rows`, to slots that follow one another in a block.
  void write(const RowsView& rows, std::int64_t first, std::int64_t count, std::int64_t block,
             std::int64_t offset, const RowTransfer& transfer) const noexcept {
    if (convert_ == nullptr) {
      transfer.copy({cache_.row(block, 0, offset), cache_.token_stride, cache_.head_stride,
                     rows.row(first, 0), rows.token_stride, rows.head_stride, count, rows.num_heads,
                     static_cast<std::int64_t>(row_bytes_)});
      return;
    }
    for (std::int64_t token = 0; token < count; ++token) {
      for (std::int64_t head = 0; head < rows.num_heads; ++head) {
        write(rows.row(first + token, head), block, head, offset + token);
      }
    }
  }

 private:
  /// The scale that is given, or one that makes the largest value the largest of the dtype.
  [[nodiscard]] float scale_for(const std::byte* row, std::int64_t block, std::int64_t head,
                                std::int64_t offset) const noexcept {
    if (largest_ == nullptr) return scale_.at(block, head, offset);
    const double exact = largest_(from_, row, cache_.head_dim) / largest_quantized(cache_.dtype);
    // Also rows of zeros have a scale that can be divided by.
    const float scale = std::max(static_cast<float>(exact), std::numeric_limits<float>::min());
    scale_.data[block * scale_.block_stride + head * scale_.head_stride +
                offset * scale_.slot_stride] = scale;
    return scale;
  }

  CacheView cache_;
  ScaleView scale_;
  DType from_;
  std::size_t row_bytes_;
  ConvertRow convert_;
  double (*largest_)(DType, const std::byte*, std::int64_t) noexcept;
};

/// Calls `work(first, count, block, offset)` for runs of tokens of [begin, end) whose slots follow
/// one another in a block.
template <class Work>
void for_each_run(const std::int64_t* slots, std::int64_t begin, std::int64_t end,
                  std::int64_t block_size, Work&& work) {
  for (std::int64_t first = begin; first < end;) {
    const std::int64_t slot = slots[first];
    if (slot == kNoSlot) {
      ++first;
      continue;
    }
    const std::int64_t block = slot / block_size, offset = slot % block_size;
    const std::int64_t most = std::min(block_size - offset, end - first);
    std::int64_t count = 1;
    while (count < most && slots[first + count] == slot + count) ++count;
    work(first, count, block, offset);
    first += count;
  }
}

/// Bytes that one token is read and written with.
[[nodiscard]] inline std::int64_t token_bytes(const RowsView& rows,
                                              const CacheView& cache) noexcept {
  return rows.num_heads * static_cast<std::int64_t>(rows.row_bytes() + cache.row_bytes());
}

}  // namespace detail_write_kv

/// Writes the keys and values of n tokens to their slots. Rows of the cache's own dtype, also
/// float8, int8 and int4, are copied as they are. Others are divided by their scale and rounded to
/// nearest, ties to even; beyond the range of float8 and integers they become its largest value;
/// NaN stays NaN, and becomes 0 in integers. A scale a (block, head, slot) is computed: the largest
/// magnitude of the row over that of the dtype, at least the smallest normal float32. When several
/// tokens have one slot, what it holds then is one of them or parts of several. O(bytes).
/// @param where  the function that errors name.
/// @throws InvalidSlotError for a slot outside the cache; ShapeError for shapes, dtypes or scales
/// that
///         do not go together, and for memory that is shared; std::bad_alloc. Nothing was written.
template <Executor E>
void write_kv(const WriteKvCall& call, E& executor, const Kernels& kernels,
              const char* where = "cpu.write_kv") {
  check_write_kv(where, call);
  const detail_write_kv::Writer k(call.k.dtype, call.k_cache, call.k_scale, kernels);
  const detail_write_kv::Writer v(call.v.dtype, call.v_cache, call.v_scale, kernels);
  const std::int64_t bytes = detail_write_kv::token_bytes(call.k, call.k_cache) +
                             detail_write_kv::token_bytes(call.v, call.v_cache);
  in_pieces(executor, call.k.num_tokens, bytes, [&](std::int64_t begin, std::int64_t end) {
    const RowTransfer transfer(bytes * call.k.num_tokens);
    detail_write_kv::for_each_run(
        call.slot_mapping, begin, end, call.k_cache.block_size,
        [&](std::int64_t first, std::int64_t count, std::int64_t block, std::int64_t offset) {
          k.write(call.k, first, count, block, offset, transfer);
          v.write(call.v, first, count, block, offset, transfer);
        });
  });
}

}  // namespace pagedkv::inline v0_1::cpu
