#pragma once

// Arrays as the operations take them: an address, a shape, an element type, and strides in bytes.
// They own nothing. The elements of one row (the last dimension) are always contiguous.

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "pagedkv/core/dtype.hpp"

namespace pagedkv::inline v0_1 {

/// Order of a block's dimensions.
enum class Layout : unsigned char {
  hnd,  ///< `[num_kv_heads, block_size, head_dim]`
  nhd,  ///< `[block_size, num_kv_heads, head_dim]`
};

/// "HND" or "NHD".
[[nodiscard]] constexpr std::string_view layout_name(Layout layout) noexcept {
  return layout == Layout::hnd ? "HND" : "NHD";
}

/// The keys, or the values, of one layer: `num_blocks` blocks of `block_size` slots, each with
/// `num_heads` rows of `head_dim` elements. Strides are in bytes, so that one type serves both
/// layouts, views of a larger tensor, and int4, of which two share a byte.
struct CacheView {
  std::byte* data = nullptr;
  DType dtype = DType::float32;
  std::int64_t num_blocks = 0;
  std::int64_t num_heads = 1;
  std::int64_t block_size = 1;
  std::int64_t head_dim = 0;
  std::int64_t block_stride = 0;
  std::int64_t head_stride = 0;
  std::int64_t token_stride = 0;

  [[nodiscard]] std::byte* row(std::int64_t block, std::int64_t head,
                               std::int64_t offset) const noexcept {
    return data + block * block_stride + head * head_stride + offset * token_stride;
  }
  /// Bytes of one row.
  [[nodiscard]] std::size_t row_bytes() const noexcept {
    return static_cast<std::size_t>(head_dim) * dtype_bits(dtype) / 8;
  }
};

/// The view of a cache whose blocks lie one after the other. Takes O(1).
/// @param data  `[num_blocks, num_heads, block_size, head_dim]`, or NHD.
[[nodiscard]] inline CacheView cache_view(void* data, DType dtype, std::int64_t num_blocks,
                                          std::int64_t num_heads, std::int64_t block_size,
                                          std::int64_t head_dim, Layout layout = Layout::hnd) {
  CacheView view{
      static_cast<std::byte*>(data), dtype, num_blocks, num_heads, block_size, head_dim, 0, 0, 0};
  const auto row = static_cast<std::int64_t>(view.row_bytes());
  view.head_stride = layout == Layout::hnd ? row * block_size : row;
  view.token_stride = layout == Layout::hnd ? row : row * num_heads;
  view.block_stride = row * block_size * num_heads;
  return view;
}

/// `[num_tokens, num_heads, head_dim]`: queries, new keys and values, results.
struct RowsView {
  std::byte* data = nullptr;
  DType dtype = DType::float32;
  std::int64_t num_tokens = 0;
  std::int64_t num_heads = 1;
  std::int64_t head_dim = 0;
  std::int64_t token_stride = 0;
  std::int64_t head_stride = 0;

  [[nodiscard]] std::byte* row(std::int64_t token, std::int64_t head) const noexcept {
    return data + token * token_stride + head * head_stride;
  }
  /// Bytes of one row.
  [[nodiscard]] std::size_t row_bytes() const noexcept {
    return static_cast<std::size_t>(head_dim) * dtype_bits(dtype) / 8;
  }
};

/// The view of contiguous rows. Takes O(1).
[[nodiscard]] inline RowsView rows_view(void* data, DType dtype, std::int64_t num_tokens,
                                        std::int64_t num_heads, std::int64_t head_dim) {
  RowsView view{static_cast<std::byte*>(data), dtype, num_tokens, num_heads, head_dim, 0, 0};
  view.head_stride = static_cast<std::int64_t>(view.row_bytes());
  view.token_stride = view.head_stride * num_heads;
  return view;
}

/// What a quantised cache is multiplied by: one number for a tensor, one a (block, head), or one a
/// (block, head, slot). Strides are in elements, 0 where one number serves a whole dimension.
struct ScaleView {
  float* data = nullptr;  ///< null: `value` everywhere
  float value = 1;
  std::int64_t block_stride = 0;
  std::int64_t head_stride = 0;
  std::int64_t slot_stride = 0;

  [[nodiscard]] float at(std::int64_t block, std::int64_t head,
                         std::int64_t offset) const noexcept {
    return data == nullptr ? value
                           : data[block * block_stride + head * head_stride + offset * slot_stride];
  }
  /// True for one number a (block, head, slot): those a write computes.
  [[nodiscard]] bool per_token() const noexcept { return slot_stride != 0; }
  /// True where every factor is 1.
  [[nodiscard]] bool trivial() const noexcept { return data == nullptr && value == 1; }
};

}  // namespace pagedkv::inline v0_1
