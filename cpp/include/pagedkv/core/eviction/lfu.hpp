#pragma once

// Eviction by frequency.

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "pagedkv/core/eviction/block_lists.hpp"

namespace pagedkv::inline v0_1::detail {

/// Least often used first, among equals the least recently released. Uses are counted from when the
/// block entered the index, up to 255. 12 bytes a block, 3 KiB a level.
class LfuPolicy {
 public:
  LfuPolicy(std::size_t capacity, std::size_t num_levels)
      : lists_(capacity, num_levels * kLists), occupied_(num_levels) {}

  void insert(BlockId b, Level /*level*/, std::uint32_t /*key*/, std::uint32_t /*depth*/) noexcept {
    lists_.move_to(Place::referenced, b);
    lists_.note(b).uses = 1;
  }
  void hit(BlockId b) noexcept {
    std::uint32_t& uses = lists_.note(b).uses;
    if (uses < kLists - 1) ++uses;
  }
  void acquire(BlockId b, Level /*level*/) noexcept { lists_.move_to(Place::referenced, b); }
  void release(BlockId b, Level level, bool /*leaf*/) noexcept {
    lists_.push_newest(list_of(b, level), b);
    mark_used(level, uses(b));
  }
  bool supersede(BlockId /*b*/, Level /*level*/) noexcept { return false; }
  void reconsider(BlockId b, Level level) noexcept {
    if (lists_.place(b) != Place::aside) return;
    lists_.push_oldest(list_of(b, level), b);
    mark_used(level, uses(b));
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
    for (std::size_t word = 0; word < kLists / 64; ++word) {
      std::uint64_t& occupied = occupied_[level][word];
      while (occupied != 0) {
        const auto uses = word * 64 + static_cast<std::size_t>(std::countr_zero(occupied));
        const std::size_t list = level * kLists + uses;
        while (!lists_.empty(list)) {
          const BlockId b = lists_.oldest(list);
          if (can_go(b)) {
            lists_.move_to(Place::absent, b);
            return b;
          }
          lists_.move_to(Place::aside, b);
        }
        occupied &= occupied - 1;
      }
    }
    return std::nullopt;
  }

 private:
  static constexpr std::size_t kLists = 256;  // of a level: one a number of uses
  struct Note {
    std::uint32_t uses = 0;
  };

  [[nodiscard]] std::size_t uses(BlockId b) const noexcept { return lists_.note(b).uses; }
  [[nodiscard]] std::size_t list_of(BlockId b, Level level) const noexcept {
    return level * kLists + uses(b);
  }
  void mark_used(Level level, std::size_t uses) noexcept {
    occupied_[level][uses / 64] |= std::uint64_t{1} << uses % 64;
  }

  BlockLists<Note> lists_;
  std::vector<std::array<std::uint64_t, kLists / 64>> occupied_;  // bit n: list n may hold a block
};

}  // namespace pagedkv::inline v0_1::detail
