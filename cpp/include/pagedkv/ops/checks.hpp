#pragma once

// What comes from outside is checked before anything is written: ids, positions, shapes. A slot is
// block * block_size + offset.

#include <cstdint>
#include <initializer_list>
#include <string>

#include "pagedkv/core/errors.hpp"
#include "pagedkv/detail/checked_math.hpp"
#include "pagedkv/detail/macros.hpp"
#include "pagedkv/ops/views.hpp"

namespace pagedkv::inline v0_1 {

/// A slot of a write that is skipped: its token goes nowhere.
inline constexpr std::int64_t kNoSlot = -1;

namespace detail_checks {

/// "[2, 3]"
[[nodiscard]] PAGEDKV_COLD inline std::string shape_text(
    std::initializer_list<std::int64_t> sizes) {
  std::string text = "[";
  for (const std::int64_t size : sizes) {
    if (text.size() > 1) text += ", ";
    text += std::to_string(size);
  }
  text += "]";
  return text;
}
[[nodiscard]] PAGEDKV_COLD inline std::string shape_text(const RowsView& rows) {
  std::string text = shape_text({rows.num_tokens, rows.num_heads, rows.head_dim}) + " of ";
  text += dtype_name(rows.dtype);
  if (rows.data == nullptr) text += " without data";
  return text;
}
[[nodiscard]] PAGEDKV_COLD inline std::string shape_text(const CacheView& cache) {
  std::string text =
      shape_text({cache.num_blocks, cache.num_heads, cache.block_size, cache.head_dim}) + " of ";
  text += dtype_name(cache.dtype);
  if (cache.data == nullptr) text += " without data";
  return text;
}

[[noreturn]] PAGEDKV_COLD inline void throw_index(const char* where, const char* what,
                                                  std::int64_t value, std::int64_t index,
                                                  std::int64_t lowest, std::int64_t end) {
  throw InvalidSlotError(
      detail::located(where, std::string(what) + " " + std::to_string(value) + " at " +
                                 std::to_string(index) + "; expected " + std::to_string(lowest) +
                                 " to " + std::to_string(end - 1)),
      static_cast<std::uint64_t>(value));
}

/// InvalidSlotError unless all are in [lowest, end).
template <class T>
void check_indices(const char* where, const char* what, const T* values, std::int64_t count,
                   std::int64_t lowest, std::int64_t end) {
  bool outside = false;
  for (std::int64_t i = 0; i < count; ++i) {
    const std::int64_t value = values[i];
    outside |= value < lowest || value >= end;
  }
  if (!outside) [[likely]]
    return;
  for (std::int64_t i = 0; i < count; ++i) {
    if (values[i] < lowest || values[i] >= end) {
      throw_index(where, what, values[i], i, lowest, end);
    }
  }
}

/// ShapeError unless `cache` can be one.
inline void check_cache(const char* where, const char* name, const CacheView& cache) {
  const bool sizes =
      cache.num_blocks >= 0 && cache.num_heads > 0 && cache.block_size > 0 && cache.head_dim > 0;
  if (!sizes || (cache.data == nullptr && cache.num_blocks != 0)) {
    detail::throw_shape(where, std::string(name) + " " + shape_text(cache) +
                                   "; expected data, and heads, slots and head_dim of at least 1");
  }
  if (cache.num_blocks > (std::int64_t{1} << 62) / cache.block_size) {
    detail::throw_too_large(where);
  }
  if (cache.dtype == DType::int4 && cache.head_dim % 2 != 0) {
    detail::throw_shape(where, std::string(name) + " " + shape_text(cache) +
                                   "; expected an even head_dim (two elements share a byte)");
  }
}

/// ShapeError unless `rows` are `num_tokens` rows of what `cache` holds.
inline void check_rows(const char* where, const char* name, const RowsView& rows,
                       std::int64_t num_tokens, const CacheView& cache) {
  if (rows.num_tokens != num_tokens || rows.num_heads != cache.num_heads ||
      rows.head_dim != cache.head_dim || (rows.data == nullptr && num_tokens != 0)) {
    detail::throw_shape(where, std::string(name) + " " + shape_text(rows) + "; expected " +
                                   shape_text({num_tokens, cache.num_heads, cache.head_dim}) +
                                   ", heads and head_dim as in the cache");
  }
}

/// ShapeError unless keys and values have the same blocks, heads and slots.
inline void check_pair(const char* where, const CacheView& k, const CacheView& v) {
  if (k.num_blocks != v.num_blocks || k.num_heads != v.num_heads || k.block_size != v.block_size) {
    detail::throw_shape(where, "k_cache " + shape_text(k) + " and v_cache " + shape_text(v) +
                                   "; expected the same blocks, heads and slots in both");
  }
}

}  // namespace detail_checks
}  // namespace pagedkv::inline v0_1
