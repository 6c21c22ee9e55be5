#pragma once

// Checks of arrays before they are used: where they lie, and what they overlap.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <string>
#include <utility>

#include "pagedkv/core/errors.hpp"
#include "pagedkv/cpu/views.hpp"

namespace pagedkv::inline v0_1::cpu::detail_check {

/// The bytes from the first to behind the last that an array uses; empty when it has no elements.
struct Extent {
  const std::byte* first = nullptr;
  const std::byte* last = nullptr;
};

[[nodiscard]] inline Extent extent_of(const RowsView& rows) noexcept {
  if (rows.num_tokens < 1 || rows.num_heads < 1 || rows.head_dim < 1) return {};
  return {rows.data, rows.row(rows.num_tokens - 1, rows.num_heads - 1) + rows.row_bytes()};
}

[[nodiscard]] inline Extent extent_of(const CacheView& cache) noexcept {
  if (cache.num_blocks < 1 || cache.num_heads < 1 || cache.block_size < 1 || cache.head_dim < 1) {
    return {};
  }
  return {cache.data, cache.row(cache.num_blocks - 1, cache.num_heads - 1, cache.block_size - 1) +
                          cache.row_bytes()};
}

[[nodiscard]] inline Extent extent_of(const void* data, std::size_t bytes) noexcept {
  const auto* const first = static_cast<const std::byte*>(data);
  return first == nullptr || bytes == 0 ? Extent{} : Extent{first, first + bytes};
}

[[nodiscard]] inline bool overlap(const Extent& a, const Extent& b) noexcept {
  const std::less<> before;  // a total order, also between unrelated arrays
  return a.first != nullptr && b.first != nullptr && before(a.first, b.last) &&
         before(b.first, a.last);
}

/// @throws ShapeError when a result would be written over `other`.
inline void expect_apart(const char* where, const Extent& out, const Extent& other,
                         const char* what) {
  if (overlap(out, other)) {
    detail::throw_shape(
        where, "an out that overlaps " + std::string(what) + "; expected memory of its own");
  }
}

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

/// Checks sizes, address and strides.
inline void check_rows(const char* where, const char* what, const RowsView& rows) {
  if (rows.num_tokens < 0 || rows.num_heads < 1 || rows.head_dim < 1) {
    detail::throw_shape(where, std::string(what) + " of " + std::to_string(rows.num_tokens) +
                                   " tokens, " + std::to_string(rows.num_heads) + " heads, " +
                                   std::to_string(rows.head_dim) +
                                   " elements; expected at least 0, 1 and 1");
  }
  if (rows.num_tokens != 0 && rows.data == nullptr) {
    detail::throw_shape(where, std::string(what) + " at no address; expected its elements");
  }
  expect_aligned(where, what, rows.data, rows.dtype, {rows.token_stride, rows.head_stride});
}

/// Likewise.
inline void check_cache(const char* where, const char* what, const CacheView& cache) {
  if (cache.num_blocks < 0 || cache.num_heads < 1 || cache.block_size < 1 || cache.head_dim < 1) {
    detail::throw_shape(where, std::string(what) + " of " + std::to_string(cache.num_blocks) +
                                   " blocks, " + std::to_string(cache.num_heads) + " heads, " +
                                   std::to_string(cache.block_size) + " slots, " +
                                   std::to_string(cache.head_dim) +
                                   " elements; expected at least 0, 1, 1 and 1");
  }
  if (cache.num_blocks != 0 && cache.data == nullptr) {
    detail::throw_shape(where, std::string(what) + " at no address; expected its elements");
  }
  expect_aligned(where, what, cache.data, cache.dtype,
                 {cache.block_stride, cache.head_stride, cache.token_stride});
}

/// @throws ShapeError when rows that are to be written share bytes.
inline void expect_distinct_rows(const char* where, const char* what, const RowsView& rows) {
  struct Dimension {
    std::int64_t size, stride;
  };
  Dimension inner{rows.num_heads, rows.head_stride}, outer{rows.num_tokens, rows.token_stride};
  if (outer.stride < inner.stride) std::swap(inner, outer);
  auto used = static_cast<std::int64_t>(rows.row_bytes());
  for (const Dimension& dimension : {inner, outer}) {
    if (dimension.size <= 1) continue;
    if (dimension.stride < used) {
      detail::throw_shape(where, std::string(what) +
                                     " with rows that share memory, a stride being " +
                                     std::to_string(dimension.stride) +
                                     " bytes; expected at least " + std::to_string(used));
    }
    used += (dimension.size - 1) * dimension.stride;
  }
}

}  // namespace pagedkv::inline v0_1::cpu::detail_check
