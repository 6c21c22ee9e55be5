#pragma once

// Ids that come from outside are checked before anything is written. A slot is
// block * block_size + offset.

#include <cstdint>
#include <string>

#include "pagedkv/core/errors.hpp"
#include "pagedkv/cpu/views.hpp"
#include "pagedkv/detail/macros.hpp"
#include "pagedkv/detail/checked_math.hpp"

namespace pagedkv::inline v0_1::cpu {

/// A slot of a write that is skipped: its token goes nowhere.
inline constexpr std::int64_t kNoSlot = -1;

namespace detail_slots {

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
  if (!outside) [[likely]] return;
  for (std::int64_t i = 0; i < count; ++i) {
    if (values[i] < lowest || values[i] >= end) {
      throw_index(where, what, values[i], i, lowest, end);
    }
  }
}

/// ShapeError unless `cache` can be one.
inline void check_cache(const char* where, const char* name, const CacheView& cache) {
  const bool sizes = cache.num_blocks >= 0 && cache.num_heads > 0 && cache.block_size > 0 &&
                     cache.head_dim > 0;
  if (!sizes || (cache.data == nullptr && cache.num_blocks != 0)) {
    detail::throw_shape(where, std::string(name) + " of " + std::to_string(cache.num_blocks) +
                                   " blocks, " + std::to_string(cache.num_heads) + " heads, " +
                                   std::to_string(cache.block_size) + " slots, head_dim " +
                                   std::to_string(cache.head_dim) +
                                   (cache.data == nullptr ? ", no data" : "") +
                                   "; expected data, and dimensions of at least 1");
  }
  if (cache.num_blocks > (std::int64_t{1} << 62) / cache.block_size) {
    detail::throw_too_large(where);
  }
  if (cache.dtype == DType::int4 && cache.head_dim % 2 != 0) {
    detail::throw_shape(where, std::string(name) + " of int4 with head_dim " +
                                   std::to_string(cache.head_dim) +
                                   "; expected an even one (two elements share a byte)");
  }
}

/// ShapeError unless `rows` are `num_tokens` rows of what `cache` holds.
inline void check_rows(const char* where, const char* name, const RowsView& rows,
                       std::int64_t num_tokens, const CacheView& cache) {
  if (rows.num_tokens != num_tokens || rows.num_heads != cache.num_heads ||
      rows.head_dim != cache.head_dim || (rows.data == nullptr && num_tokens != 0)) {
    const auto shape = [](std::int64_t a, std::int64_t b, std::int64_t c) {
      return "[" + std::to_string(a) + ", " + std::to_string(b) + ", " + std::to_string(c) + "]";
    };
    detail::throw_shape(
        where, std::string(name) + " " + shape(rows.num_tokens, rows.num_heads, rows.head_dim) +
                   (rows.data == nullptr ? ", no data" : "") + "; expected " +
                   shape(num_tokens, cache.num_heads, cache.head_dim) + " as the cache has them");
  }
}

/// ShapeError unless keys and values have the same blocks, heads and slots.
inline void check_pair(const char* where, const CacheView& k, const CacheView& v) {
  if (k.num_blocks != v.num_blocks || k.num_heads != v.num_heads || k.block_size != v.block_size) {
    const auto shape = [](const CacheView& c) {
      return std::to_string(c.num_blocks) + " blocks, " + std::to_string(c.num_heads) +
             " heads, " + std::to_string(c.block_size) + " slots";
    };
    detail::throw_shape(where, "keys of " + shape(k) + " and values of " + shape(v) +
                                   "; expected the same of both");
  }
}

}  // namespace detail_slots
}  // namespace pagedkv::inline v0_1::cpu
