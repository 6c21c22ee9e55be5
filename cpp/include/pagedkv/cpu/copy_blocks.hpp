#pragma once

// Blocks and slots are copied within caches, and blocks between two.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "pagedkv/core/errors.hpp"
#include "pagedkv/cpu/row_copies.hpp"
#include "pagedkv/cpu/thread_pool.hpp"
#include "pagedkv/ops/copy_blocks_call.hpp"
#include "pagedkv/ops/views.hpp"

namespace pagedkv::inline v0_1::cpu {

namespace detail_copy_blocks {

/// Bytes that a slot of a cache is read and written with, of all heads.
[[nodiscard]] inline std::int64_t slot_bytes(const CacheView& cache) noexcept {
  return 2 * cache.num_heads * static_cast<std::int64_t>(cache.row_bytes());
}

/// Slots [from, from + count) of a block of one cache go to another block, or another cache.
inline void copy_slots(const CacheView& source, std::int64_t from_block, std::int64_t from_offset,
                       const CacheView& target, std::int64_t to_block, std::int64_t to_offset,
                       std::int64_t count, const RowTransfer& transfer) noexcept {
  transfer.copy({target.row(to_block, 0, to_offset), target.token_stride, target.head_stride,
                 source.row(from_block, 0, from_offset), source.token_stride, source.head_stride,
                 count, source.num_heads, static_cast<std::int64_t>(source.row_bytes())});
}

/// Calls `work(cache, pair, transfer)` for each pair of each cache: those of one cache in order,
/// or, when they are independent, at the same time.
/// @param slots  that a pair moves.
template <Executor E, class Work>
void for_each_pair(std::span<const CacheView> caches, std::span<const IndexPair> pairs,
                   std::int64_t slots, bool in_order, E& executor, Work&& work) {
  std::int64_t all = 0;
  for (const CacheView& cache : caches) all += slot_bytes(cache) * slots;
  const auto num_caches = static_cast<std::int64_t>(caches.size());
  const auto num_pairs = static_cast<std::int64_t>(pairs.size());
  const std::int64_t bytes = all * num_pairs;
  if (in_order) {
    in_pieces(executor, num_caches, bytes / num_caches, [&](std::int64_t begin, std::int64_t end) {
      const RowTransfer transfer(bytes);
      for (std::int64_t c = begin; c < end; ++c) {
        for (const IndexPair& pair : pairs) {
          work(caches[static_cast<std::size_t>(c)], pair, transfer);
        }
      }
    });
    return;
  }
  in_pieces(executor, num_caches * num_pairs, all / num_caches,
            [&](std::int64_t begin, std::int64_t end) {
              const RowTransfer transfer(bytes);
              for (std::int64_t i = begin; i < end; ++i) {
                work(caches[static_cast<std::size_t>(i / num_pairs)],
                     pairs[static_cast<std::size_t>(i % num_pairs)], transfer);
              }
            });
}

}  // namespace detail_copy_blocks

/// Copies blocks within each of several caches, in each as if one pair after the other. Scales of
/// quantised caches are copied when they are given as further caches: of float32 with head_dim 1
/// and one slot a block or as many as the cache. O(bytes).
/// @param pairs  blocks; from and to may be the same.
/// @param where  the function that errors name.
/// @throws InvalidSlotError for a block outside a cache; ShapeError for caches that share memory;
///         std::bad_alloc. Nothing was written.
template <Executor E>
void copy_blocks(std::span<const CacheView> caches, std::span<const IndexPair> pairs, E& executor,
                 const char* where = "cpu.copy_blocks") {
  namespace blocks = detail_copy_blocks;
  check_copy_blocks(where, caches, pairs);
  std::int64_t slots = 1;
  for (const CacheView& cache : caches) slots = std::max(slots, cache.block_size);
  if (caches.empty() || pairs.empty()) return;
  const bool in_order = executor.size() == 1 || !independent(pairs, true);
  blocks::for_each_pair(
      caches, pairs, slots, in_order, executor,
      [](const CacheView& cache, const IndexPair& pair, const RowTransfer& transfer) {
        if (pair.from == pair.to) return;
        blocks::copy_slots(cache, pair.from, 0, cache, pair.to, 0, cache.block_size, transfer);
      });
}

/// Moves tokens from slot to slot within each of several caches, in each as if one pair after the
/// other: those of a tree of drafts that were accepted. Scales as in `copy_blocks`. O(bytes).
/// @param pairs  slots; from and to may be the same.
/// @param where  the function that errors name.
/// @throws InvalidSlotError for a slot outside a cache; ShapeError for caches of different block
/// sizes,
///         or that share memory; std::bad_alloc. Nothing was written.
template <Executor E>
void move_slots(std::span<const CacheView> caches, std::span<const IndexPair> pairs, E& executor,
                const char* where = "cpu.move_slots") {
  namespace blocks = detail_copy_blocks;
  check_move_slots(where, caches, pairs);
  if (caches.empty() || pairs.empty()) return;
  const bool in_order = executor.size() == 1 || !independent(pairs, true);
  blocks::for_each_pair(
      caches, pairs, 1, in_order, executor,
      [](const CacheView& cache, const IndexPair& pair, const RowTransfer& transfer) {
        if (pair.from == pair.to) return;
        blocks::copy_slots(cache, pair.from / cache.block_size, pair.from % cache.block_size, cache,
                           pair.to / cache.block_size, pair.to % cache.block_size, 1, transfer);
      });
}

/// Copies blocks of `source` over blocks of `target`, as if one pair after the other: to another
/// pool, and back. The two may have different layouts and numbers of blocks. O(bytes).
/// @param where  the function that errors name.
/// @throws InvalidSlotError for a block outside its cache; ShapeError for caches of different
/// heads,
///         slots, head_dim or dtype, or that share memory; std::bad_alloc. Nothing was written.
template <Executor E>
void swap_blocks(const CacheView& source, const CacheView& target, std::span<const IndexPair> pairs,
                 E& executor, const char* where = "cpu.swap_blocks") {
  namespace blocks = detail_copy_blocks;
  check_swap_blocks(where, source, target, pairs);
  if (pairs.empty()) return;
  const bool in_order = executor.size() == 1 || !independent(pairs, false);
  blocks::for_each_pair(
      std::span(&target, 1), pairs, target.block_size, in_order, executor,
      [&](const CacheView& to, const IndexPair& pair, const RowTransfer& transfer) {
        blocks::copy_slots(source, pair.from, 0, to, pair.to, 0, to.block_size, transfer);
      });
}

}  // namespace pagedkv::inline v0_1::cpu
