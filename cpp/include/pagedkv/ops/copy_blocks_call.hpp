#pragma once

// Which blocks or slots are copied where, and the checks of copy_blocks, move_slots and
// swap_blocks.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "pagedkv/core/errors.hpp"
#include "pagedkv/ops/checks.hpp"
#include "pagedkv/ops/overlap.hpp"
#include "pagedkv/ops/views.hpp"

namespace pagedkv::inline v0_1 {

/// Where something is copied from and to: blocks, or slots.
struct IndexPair {
  std::int64_t from;
  std::int64_t to;

  friend bool operator==(const IndexPair&, const IndexPair&) = default;
};

/// Whether the pairs do the same in any order, and at the same time.
[[nodiscard]] inline bool independent(std::span<const IndexPair> pairs, bool one_cache) {
  std::vector<std::int64_t> targets;
  targets.reserve(pairs.size());
  for (const IndexPair& pair : pairs) targets.push_back(pair.to);
  std::sort(targets.begin(), targets.end());
  if (std::adjacent_find(targets.begin(), targets.end()) != targets.end()) return false;
  return !one_cache || std::none_of(pairs.begin(), pairs.end(), [&](const IndexPair& pair) {
    return std::binary_search(targets.begin(), targets.end(), pair.from);
  });
}

namespace detail_check_copies {

/// InvalidSlotError unless both sides of each pair are below their end.
inline void check_pairs(const char* where, const char* what, std::span<const IndexPair> pairs,
                        std::int64_t from_end, std::int64_t to_end) {
  for (std::size_t i = 0; i < pairs.size(); ++i) {
    const auto index = static_cast<std::int64_t>(i);
    if (pairs[i].from < 0 || pairs[i].from >= from_end) [[unlikely]] {
      detail_checks::throw_index(where, what, pairs[i].from, index, 0, from_end);
    }
    if (pairs[i].to < 0 || pairs[i].to >= to_end) [[unlikely]] {
      detail_checks::throw_index(where, what, pairs[i].to, index, 0, to_end);
    }
  }
}

inline void check_caches(const char* where, std::span<const CacheView> caches) {
  for (const CacheView& cache : caches) detail_checks::check_cache(where, "a cache", cache);
  detail_overlap::check_caches(where, caches.data(), caches.size());
}

}  // namespace detail_check_copies

/// Checks everything but the pairs, which another device may hold.
/// @param where  the function that errors name.
/// @throws ShapeError for caches that are none, or that share memory.
inline void check_copy_blocks_arrays(const char* where, std::span<const CacheView> caches) {
  detail_check_copies::check_caches(where, caches);
}

/// @throws InvalidSlotError for a block outside a cache, and as `check_copy_blocks_arrays`.
inline void check_copy_blocks(const char* where, std::span<const CacheView> caches,
                              std::span<const IndexPair> pairs) {
  check_copy_blocks_arrays(where, caches);
  for (const CacheView& cache : caches) {
    detail_check_copies::check_pairs(where, "block", pairs, cache.num_blocks, cache.num_blocks);
  }
}

/// Checks everything but the pairs, which another device may hold.
/// @param where  the function that errors name.
/// @throws ShapeError for caches of different block sizes, or that share memory.
inline void check_move_slots_arrays(const char* where, std::span<const CacheView> caches) {
  detail_check_copies::check_caches(where, caches);
  for (const CacheView& cache : caches) {
    if (cache.block_size != caches[0].block_size) {
      detail::throw_shape(where, "caches of " + std::to_string(caches[0].block_size) + " and " +
                                     std::to_string(cache.block_size) +
                                     " slots a block; expected the same of all");
    }
  }
}

/// @throws InvalidSlotError for a slot outside a cache, and as `check_move_slots_arrays`.
inline void check_move_slots(const char* where, std::span<const CacheView> caches,
                             std::span<const IndexPair> pairs) {
  check_move_slots_arrays(where, caches);
  for (const CacheView& cache : caches) {
    const std::int64_t num_slots = cache.num_blocks * cache.block_size;
    detail_check_copies::check_pairs(where, "slot", pairs, num_slots, num_slots);
  }
}

/// @param where  the function that errors name.
/// @throws ShapeError for caches of different heads, slots, head_dim or dtype, or that share
/// memory;
///         InvalidSlotError for a block outside its cache.
inline void check_swap_blocks(const char* where, const CacheView& source, const CacheView& target,
                              std::span<const IndexPair> pairs) {
  detail_checks::check_cache(where, "source", source);
  detail_checks::check_cache(where, "target", target);
  if (source.num_heads != target.num_heads || source.block_size != target.block_size ||
      source.head_dim != target.head_dim || source.dtype != target.dtype) {
    detail::throw_shape(where, "source " + detail_checks::shape_text(source) + " and target " +
                                   detail_checks::shape_text(target) +
                                   "; expected the same heads, slots, head_dim and dtype in both");
  }
  detail_check_copies::check_pairs(where, "block", pairs, source.num_blocks, target.num_blocks);
  detail_overlap::check(where, {{MemoryRegion(target), "target"}},
                        {{MemoryRegion(source), "source"}});
}

}  // namespace pagedkv::inline v0_1
