#pragma once

// Eviction by age: since the last use, and since the block came.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "pagedkv/core/eviction/block_lists.hpp"

namespace pagedkv::inline v0_1::detail {

/// Least recently released first. 8 bytes a block.
class LruPolicy {
 public:
  explicit LruPolicy(std::size_t capacity) : lists_(capacity, 1) {}

  void insert(BlockId b, std::uint32_t /*key*/, std::uint32_t /*depth*/) noexcept {
    lists_.move_to(Place::referenced, b);
  }
  void hit(BlockId /*b*/) noexcept {}
  void acquire(BlockId b) noexcept {
    lists_.move_to(Place::referenced, b);
    --evictable_;
  }
  void release(BlockId b, bool /*leaf*/) noexcept {
    lists_.push_newest(0, b);
    ++evictable_;
  }
  void supersede(BlockId /*b*/) noexcept {}
  void reconsider(BlockId b) noexcept {
    if (lists_.place(b) == Place::aside) lists_.push_oldest(0, b);
  }
  void remove(BlockId b) noexcept {
    const Place place = lists_.place(b);
    if (place == Place::listed || place == Place::aside) --evictable_;
    lists_.move_to(Place::absent, b);
  }

  void rename(BlockId from, BlockId to) noexcept { lists_.rename(from, to); }

  template <class CanGo>
  std::optional<BlockId> victim(CanGo&& can_go) {
    while (!lists_.empty(0)) {
      const BlockId b = lists_.oldest(0);
      if (can_go(b)) {
        remove(b);
        return b;
      }
      lists_.move_to(Place::aside, b);
    }
    return std::nullopt;
  }

  [[nodiscard]] std::size_t evictable_count() const noexcept { return evictable_; }

 private:
  BlockLists lists_;
  std::size_t evictable_ = 0;
};

/// First in, first out: by when a block entered the index, however often it was used. 9 bytes a
/// block.
///
/// A referenced block that is met at the front waits outside the queue and returns to the front
/// when it is released: of several such, the last released goes first.
class FifoPolicy {
 public:
  explicit FifoPolicy(std::size_t capacity) : lists_(capacity, 1), referenced_(capacity) {}

  void insert(BlockId b, std::uint32_t /*key*/, std::uint32_t /*depth*/) noexcept {
    lists_.push_newest(0, b);
    referenced_[b] = 1;
  }
  void hit(BlockId /*b*/) noexcept {}
  void acquire(BlockId b) noexcept {
    if (lists_.place(b) == Place::aside) lists_.move_to(Place::referenced, b);
    referenced_[b] = 1;
    --evictable_;
  }
  void release(BlockId b, bool /*leaf*/) noexcept {
    if (lists_.place(b) != Place::listed) lists_.push_oldest(0, b);
    referenced_[b] = 0;
    ++evictable_;
  }
  void supersede(BlockId /*b*/) noexcept {}
  void reconsider(BlockId b) noexcept {
    if (lists_.place(b) == Place::aside) lists_.push_oldest(0, b);
  }
  void remove(BlockId b) noexcept {
    if (lists_.place(b) != Place::absent && referenced_[b] == 0) --evictable_;
    lists_.move_to(Place::absent, b);
  }

  void rename(BlockId from, BlockId to) noexcept {
    lists_.rename(from, to);
    referenced_[to] = referenced_[from];
  }

  template <class CanGo>
  std::optional<BlockId> victim(CanGo&& can_go) {
    while (!lists_.empty(0)) {
      const BlockId b = lists_.oldest(0);
      if (referenced_[b] != 0) {
        lists_.move_to(Place::referenced, b);
      } else if (can_go(b)) {
        remove(b);
        return b;
      } else {
        lists_.move_to(Place::aside, b);
      }
    }
    return std::nullopt;
  }

  [[nodiscard]] std::size_t evictable_count() const noexcept { return evictable_; }

 private:
  BlockLists lists_;
  std::vector<std::uint8_t> referenced_;  // also while it is still in line
  std::size_t evictable_ = 0;
};

}  // namespace pagedkv::inline v0_1::detail
