#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "pagedkv/core/block_allocator.hpp"
#include "pagedkv/detail/grow_array.hpp"

namespace pagedkv::inline v0_1::detail {

/// How many copies out of a block are not committed yet. Each holds the block, so that it is not
/// handed out; but copies are done before anything is written, so the one sequence that has the
/// block left may write it in place. O(log n) of n such blocks.
class PendingCopies {
  struct Entry {
    BlockId block;
    std::uint32_t count;
  };

  template <class Entries>
  static auto find(Entries& entries, BlockId b) noexcept {
    return std::ranges::lower_bound(entries, b, {}, &Entry::block);
  }

 public:
  /// Memory for so many more copies.
  void reserve(std::size_t more) { reserve_more(entries_, more); }

  void add(BlockId b) {
    const auto at = find(entries_, b);
    if (at != entries_.end() && at->block == b) {
      ++at->count;
    } else {
      entries_.insert(at, {b, 1});
    }
  }
  /// One that was added.
  void drop(BlockId b) noexcept {
    const auto at = find(entries_, b);
    if (--at->count == 0) entries_.erase(at);
  }
  [[nodiscard]] std::uint32_t count(BlockId b) const noexcept {
    const auto at = find(entries_, b);
    return at != entries_.end() && at->block == b ? at->count : 0;
  }

  /// Translates ids after a compaction.
  void translate(std::span<const BlockId> now_at) {
    for (Entry& entry : entries_) entry.block = now_at[entry.block];
    std::ranges::sort(entries_, {}, &Entry::block);
  }

 private:
  std::vector<Entry> entries_;  // in order of blocks
};

}  // namespace pagedkv::inline v0_1::detail
