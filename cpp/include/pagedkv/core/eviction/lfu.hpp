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
/// block entered the index, up to 255. 9 bytes a block.
class LfuPolicy {
 public:
  explicit LfuPolicy(std::size_t capacity) : lists_(capacity, kMostUses + 1), uses_(capacity) {}

  void insert(BlockId b, std::uint32_t /*key*/, std::uint32_t /*depth*/) noexcept {
    lists_.move_to(Place::referenced, b);
    uses_[b] = 1;
  }
  void hit(BlockId b) noexcept {
    if (uses_[b] < kMostUses) ++uses_[b];
  }
  void acquire(BlockId b) noexcept {
    lists_.move_to(Place::referenced, b);
    --evictable_;
  }
  void release(BlockId b, bool /*leaf*/) noexcept {
    lists_.push_newest(uses_[b], b);
    mark_used(uses_[b]);
    ++evictable_;
  }
  void supersede(BlockId /*b*/) noexcept {}
  void reconsider(BlockId b) noexcept {
    if (lists_.place(b) != Place::aside) return;
    lists_.push_oldest(uses_[b], b);
    mark_used(uses_[b]);
  }
  void remove(BlockId b) noexcept {
    const Place place = lists_.place(b);
    if (place == Place::listed || place == Place::aside) --evictable_;
    lists_.move_to(Place::absent, b);
  }

  void rename(BlockId from, BlockId to) noexcept {
    lists_.rename(from, to);
    uses_[to] = uses_[from];
  }

  template <class CanGo>
  std::optional<BlockId> victim(CanGo&& can_go) {
    for (std::size_t word = 0; word < occupied_.size(); ++word) {
      while (occupied_[word] != 0) {
        const std::size_t list =
            word * 64 + static_cast<std::size_t>(std::countr_zero(occupied_[word]));
        while (!lists_.empty(list)) {
          const BlockId b = lists_.oldest(list);
          if (can_go(b)) {
            remove(b);
            return b;
          }
          lists_.move_to(Place::aside, b);
        }
        occupied_[word] &= occupied_[word] - 1;
      }
    }
    return std::nullopt;
  }

  [[nodiscard]] std::size_t evictable_count() const noexcept { return evictable_; }

 private:
  static constexpr std::size_t kMostUses = 255;

  void mark_used(std::size_t list) noexcept {
    occupied_[list / 64] |= std::uint64_t{1} << list % 64;
  }

  BlockLists lists_;  // one a number of uses
  std::vector<std::uint8_t> uses_;
  std::array<std::uint64_t, (kMostUses + 1) / 64> occupied_{};  // bit n: list n may hold a block
  std::size_t evictable_ = 0;
};

}  // namespace pagedkv::inline v0_1::detail
