#pragma once

// Rows and caches of random elements with memory of their own, for the tests of operations.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <random>
#include <vector>

#include "ops_oracle.hpp"
#include "pagedkv/ops/views.hpp"

namespace pagedkv_test {

using pagedkv::CacheView;
using pagedkv::Layout;
using pagedkv::RowsView;
using pagedkv::ScaleView;

/// A cache, and what it held at first.
struct TestCache {
  TestCache(DType dtype, std::int64_t num_blocks, std::int64_t num_heads, std::int64_t block_size,
            std::int64_t head_dim, Layout layout, Values values, std::mt19937_64& random)
      : bytes(
            random_elements(dtype, num_blocks * num_heads * block_size * head_dim, values, random)),
        before(bytes),
        view(pagedkv::cache_view(bytes.data(), dtype, num_blocks, num_heads, block_size, head_dim,
                                 layout)) {}

  [[nodiscard]] std::byte* row(std::int64_t slot, std::int64_t head) const {
    return view.row(slot / view.block_size, head, slot % view.block_size);
  }
  /// The row as it was at first.
  [[nodiscard]] const std::byte* row_before(std::int64_t slot, std::int64_t head) const {
    return before.data() + (row(slot, head) - bytes.data());
  }
  [[nodiscard]] bool unchanged() const { return bytes == before; }

  std::vector<std::byte> bytes;
  std::vector<std::byte> before;
  CacheView view;
};

/// Rows with room between tokens and between heads, as a slice of a larger array has it.
struct TestRows {
  TestRows(DType dtype, std::int64_t num_tokens, std::int64_t num_heads, std::int64_t head_dim,
           Values values, std::mt19937_64& random, bool dense = false)
      : bytes(random_elements(dtype, num_tokens * (num_heads + 1) * 2 * head_dim, values, random)),
        view(pagedkv::rows_view(bytes.data(), dtype, num_tokens, num_heads, head_dim)) {
    if (!dense) {
      view.head_stride *= 2;
      view.token_stride = view.head_stride * (num_heads + 1);
    }
  }
  std::vector<std::byte> bytes;
  RowsView view;
};

/// `count` different slots in random order.
inline std::vector<std::int64_t> random_slots(std::int64_t num_slots, std::int64_t count,
                                              std::mt19937_64& random) {
  std::vector<std::int64_t> slots(static_cast<std::size_t>(num_slots));
  std::iota(slots.begin(), slots.end(), 0);
  std::ranges::shuffle(slots, random);
  slots.resize(static_cast<std::size_t>(count));
  return slots;
}

}  // namespace pagedkv_test
