#pragma once

// Eviction by age: since the last use, and since the block came.

#include <cstddef>
#include <cstdint>
#include <optional>

#include "pagedkv/core/eviction/block_lists.hpp"

namespace pagedkv::inline v0_1::detail {

/// Least recently released first. 8 bytes a block.
class LruPolicy {
 public:
  LruPolicy(std::size_t capacity, std::size_t num_levels) : lists_(capacity, num_levels) {}

  void insert(BlockId b, Level /*level*/, std::uint32_t /*key*/, std::uint32_t /*depth*/) noexcept {
    lists_.move_to(Place::referenced, b);
  }
  void hit(BlockId /*b*/) noexcept {}
  void acquire(BlockId b, Level /*level*/) noexcept { lists_.move_to(Place::referenced, b); }
  void release(BlockId b, Level level, bool /*leaf*/) noexcept { lists_.push_newest(level, b); }
  bool supersede(BlockId /*b*/, Level /*level*/) noexcept { return false; }
  void reconsider(BlockId b, Level level) noexcept {
    if (lists_.place(b) == Place::aside) lists_.push_oldest(level, b);
  }
  bool remove(BlockId b, Level /*level*/) noexcept {
    const Place place = lists_.place(b);
    lists_.move_to(Place::absent, b);
    return place == Place::listed || place == Place::aside;
  }
  void change_level(BlockId /*b*/, Level /*to*/) noexcept {}
  void rename(BlockId from, BlockId to) noexcept { lists_.rename(from, to); }

  template <class CanGo>
  std::optional<BlockId> victim(Level level, CanGo&& can_go) {
    while (!lists_.empty(level)) {
      const BlockId b = lists_.oldest(level);
      if (can_go(b)) {
        lists_.move_to(Place::absent, b);
        return b;
      }
      lists_.move_to(Place::aside, b);
    }
    return std::nullopt;
  }

 private:
  struct Note {};

  BlockLists<Note> lists_;  // one a level
};

/// First in, first out: by when a block entered the index, however often it was used. 12 bytes
/// a block.
///
/// A referenced block that is met at the front waits outside the queue and returns to the front
/// when it is released: of several such, the last released goes first.
class FifoPolicy {
 public:
  FifoPolicy(std::size_t capacity, std::size_t num_levels) : lists_(capacity, num_levels) {}

  void insert(BlockId b, Level level, std::uint32_t /*key*/, std::uint32_t /*depth*/) noexcept {
    lists_.push_newest(level, b);
    lists_.note(b).referenced = true;
  }
  void hit(BlockId /*b*/) noexcept {}
  void acquire(BlockId b, Level /*level*/) noexcept {
    if (lists_.place(b) == Place::aside) lists_.move_to(Place::referenced, b);
    lists_.note(b).referenced = true;
  }
  void release(BlockId b, Level level, bool /*leaf*/) noexcept {
    if (lists_.place(b) != Place::listed) lists_.push_oldest(level, b);
    lists_.note(b).referenced = false;
  }
  bool supersede(BlockId /*b*/, Level /*level*/) noexcept { return false; }
  void reconsider(BlockId b, Level level) noexcept {
    if (lists_.place(b) == Place::aside) lists_.push_oldest(level, b);
  }
  bool remove(BlockId b, Level /*level*/) noexcept {
    const bool evictable = lists_.place(b) != Place::absent && !lists_.note(b).referenced;
    lists_.move_to(Place::absent, b);
    return evictable;
  }
  void change_level(BlockId b, Level to) noexcept {
    if (lists_.place(b) != Place::listed) return;
    lists_.move_to(Place::referenced, b);
    lists_.push_newest(to, b);
  }
  void rename(BlockId from, BlockId to) noexcept { lists_.rename(from, to); }

  template <class CanGo>
  std::optional<BlockId> victim(Level level, CanGo&& can_go) {
    while (!lists_.empty(level)) {
      const BlockId b = lists_.oldest(level);
      if (lists_.note(b).referenced) {
        lists_.move_to(Place::referenced, b);
      } else if (can_go(b)) {
        lists_.move_to(Place::absent, b);
        return b;
      } else {
        lists_.move_to(Place::aside, b);
      }
    }
    return std::nullopt;
  }

 private:
  struct Note {
    bool referenced = false;  // also while it is still in line
  };

  BlockLists<Note> lists_;  // one a level
};

}  // namespace pagedkv::inline v0_1::detail
