#pragma once

// S3-FIFO: a small queue on probation, a main queue, and a memory of what left the small one.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "pagedkv/core/eviction/block_lists.hpp"
#include "pagedkv/core/eviction/ghost_table.hpp"

namespace pagedkv::inline v0_1::detail {

/// S3-FIFO as published (Yang et al., "FIFO queues are all you need for cache eviction", SOSP
/// 2023): a tenth of the blocks on probation, uses counted to three, promotion after two uses, as
/// many ghosts as main has blocks. 19.6 bytes a block.
///
/// Blocks in use are not part of the paper. Here they keep their place in line; one that is met at
/// the front and would be evicted waits outside and returns to the front when it is released.
class S3FifoPolicy {
 public:
  S3FifoPolicy(std::size_t capacity, std::size_t num_levels)
      : lists_(capacity, 2 * num_levels),
        ghosts_(capacity - capacity / 10),
        small_share_(std::max<std::size_t>(1, capacity / 10)) {}

  void insert(BlockId b, Level level, std::uint32_t key, std::uint32_t /*depth*/) noexcept {
    const bool known = ghosts_.take(key).has_value();
    lists_.note(b) = {.key = key, .uses = 0, .main = known, .referenced = true};
    if (!known) ++small_count_;
    lists_.push_newest(list_of(b, level), b);
  }
  void hit(BlockId b) noexcept {
    Note& note = lists_.note(b);
    if (note.uses < 3) ++note.uses;
  }
  void acquire(BlockId b, Level /*level*/) noexcept {
    if (lists_.place(b) == Place::aside) lists_.move_to(Place::referenced, b);
    lists_.note(b).referenced = true;
  }
  void release(BlockId b, Level level, bool /*leaf*/) noexcept {
    if (lists_.place(b) != Place::listed) lists_.push_oldest(list_of(b, level), b);
    lists_.note(b).referenced = false;
  }
  bool supersede(BlockId /*b*/, Level /*level*/) noexcept { return false; }
  void reconsider(BlockId b, Level level) noexcept {
    if (lists_.place(b) == Place::aside) lists_.push_oldest(list_of(b, level), b);
  }
  bool remove(BlockId b, Level /*level*/) noexcept {
    if (lists_.place(b) == Place::absent) return false;
    if (!lists_.note(b).main) --small_count_;
    lists_.move_to(Place::absent, b);
    return !lists_.note(b).referenced;
  }
  void change_level(BlockId b, Level to) noexcept {
    if (lists_.place(b) == Place::listed) move_to_end(b, to);
  }
  void rename(BlockId from, BlockId to) noexcept { lists_.rename(from, to); }

  // Each turn uses up a use, a promotion or a place in line, so that the cost is O(1) amortised.
  template <class CanGo>
  std::optional<BlockId> victim(Level level, CanGo&& can_go) {
    for (;;) {
      const std::size_t small = std::size_t{2} * level;
      const std::size_t main = small + 1;
      const bool small_is_due = small_count_ >= small_share_ && !lists_.empty(small);
      const std::size_t list = small_is_due || lists_.empty(main) ? small : main;
      if (lists_.empty(list)) return std::nullopt;
      const BlockId b = lists_.oldest(list);
      Note& note = lists_.note(b);
      if (list == small && note.uses > 1) {
        note.main = true;
        note.uses = 0;
        --small_count_;
        move_to_end(b, level);
      } else if (list == main && note.uses > 0) {
        --note.uses;
        move_to_end(b, level);
      } else if (note.referenced) {
        lists_.move_to(Place::referenced, b);
      } else if (can_go(b)) {
        if (list == small) ghosts_.put(note.key, 0);
        remove(b, level);
        return b;
      } else {
        lists_.move_to(Place::aside, b);
      }
    }
  }

 private:
  struct Note {
    std::uint32_t key;
    std::uint8_t uses;  // since it came, or since it was last spared
    bool main;
    bool referenced;
  };

  [[nodiscard]] std::size_t list_of(BlockId b, Level level) const noexcept {
    return std::size_t{2} * level + lists_.note(b).main;
  }
  void move_to_end(BlockId b, Level level) noexcept {
    lists_.move_to(Place::referenced, b);
    lists_.push_newest(list_of(b, level), b);
  }

  BlockLists<Note> lists_;  // two a level: on probation, main
  GhostTable ghosts_;
  std::size_t small_share_;
  std::size_t small_count_ = 0;  // blocks on probation, in line or not, of all levels
};

}  // namespace pagedkv::inline v0_1::detail
