#pragma once

// BlockAllocator, as plainly as it can be said: a stack of free ids and a count for each id.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "byte_source.hpp"
#include "pagedkv/core/block_allocator.hpp"

namespace pagedkv_fuzz {

using pagedkv::BlockAllocator;
using pagedkv::BlockId;
using Ids = std::vector<BlockId>;

class AllocatorModel {
 public:
  explicit AllocatorModel(std::size_t capacity) : counts_(capacity) {
    for (std::size_t id = capacity; id-- > 0;) free_.push_back(static_cast<BlockId>(id));
  }

  [[nodiscard]] std::size_t capacity() const { return counts_.size(); }
  [[nodiscard]] std::size_t free_count() const { return free_.size(); }
  [[nodiscard]] bool is_live(BlockId id) const { return id < counts_.size() && counts_[id] != 0; }

  /// The next `n` ids, or nothing when there are fewer.
  std::optional<Ids> take(std::size_t n) {
    if (n > free_.size()) return std::nullopt;
    Ids ids;
    for (; n > 0; --n) {
      ids.push_back(free_.back());
      free_.pop_back();
      counts_[ids.back()] = 1;
    }
    peak_ = std::max(peak_, counts_.size() - free_.size());
    return ids;
  }

  /// Each of `ids` once more; the first that is not live, and then nothing has changed.
  std::optional<BlockId> acquire(const Ids& ids) {
    for (const BlockId id : ids) {
      if (!is_live(id)) return id;
    }
    for (const BlockId id : ids) ++counts_[id];
    return std::nullopt;
  }

  /// One hold of each of `ids` back; the first that cannot, and then nothing has changed.
  std::optional<BlockId> free(const Ids& ids) {
    AllocatorModel after = *this;
    for (const BlockId id : ids) {
      if (!after.is_live(id)) return id;
      if (--after.counts_[id] == 0) after.free_.push_back(id);
    }
    *this = after;
    return std::nullopt;
  }

  void expect_same(const BlockAllocator& alloc) const {
    PAGEDKV_FUZZ_CHECK(alloc.capacity() == counts_.size());
    PAGEDKV_FUZZ_CHECK(alloc.free_count() == free_.size());
    PAGEDKV_FUZZ_CHECK(alloc.in_use() == counts_.size() - free_.size());
    for (BlockId id = 0; id < counts_.size(); ++id) {
      PAGEDKV_FUZZ_CHECK(alloc.ref_count(id) == counts_[id]);
      PAGEDKV_FUZZ_CHECK(alloc.is_live(id) == (counts_[id] != 0));
    }
  }

  void expect_same_peak(const BlockAllocator& alloc) const {
    PAGEDKV_FUZZ_CHECK(alloc.peak_in_use() == peak_);
  }

 private:
  std::vector<std::uint32_t> counts_;
  Ids free_;  // the next one at the end
  std::size_t peak_ = 0;
};

}  // namespace pagedkv_fuzz
