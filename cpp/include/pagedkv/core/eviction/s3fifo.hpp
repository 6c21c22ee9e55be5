#pragma once

// S3-FIFO: a small queue on probation, a main queue, and a memory of what left the small one.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "pagedkv/core/eviction/block_lists.hpp"
#include "pagedkv/core/eviction/ghost_table.hpp"

namespace pagedkv::inline v0_1::detail {

/// S3-FIFO as published (Yang et al., "FIFO queues are all you need for cache eviction", SOSP
/// 2023): a tenth of the blocks on probation, uses counted to three, promotion after two uses, as
/// many ghosts as main has blocks. 16.6 bytes a block.
///
/// Blocks in use are not part of the paper. Here they keep their place in line; one that is met at
/// the front and would be evicted waits outside and returns to the front when it is released.
class S3FifoPolicy {
 public:
  explicit S3FifoPolicy(std::size_t capacity)
      : lists_(capacity, 2),
        states_(capacity),
        keys_(capacity),
        ghosts_(capacity - capacity / 10),
        small_share_(std::max<std::size_t>(1, capacity / 10)) {}

  void insert(BlockId b, std::uint32_t key, std::uint32_t /*depth*/) noexcept {
    const bool known = ghosts_.take(key).has_value();
    keys_[b] = key;
    states_[b] = {.uses = 0, .main = known, .referenced = true};
    if (!known) ++small_count_;
    lists_.push_newest(known ? kMain : kSmall, b);
  }
  void hit(BlockId b) noexcept {
    if (states_[b].uses < 3) ++states_[b].uses;
  }
  void acquire(BlockId b) noexcept {
    if (lists_.place(b) == Place::aside) lists_.move_to(Place::referenced, b);
    states_[b].referenced = true;
    --evictable_;
  }
  void release(BlockId b, bool /*leaf*/) noexcept {
    if (lists_.place(b) != Place::listed) lists_.push_oldest(list_of(b), b);
    states_[b].referenced = false;
    ++evictable_;
  }
  void supersede(BlockId /*b*/) noexcept {}
  void reconsider(BlockId b) noexcept {
    if (lists_.place(b) == Place::aside) lists_.push_oldest(list_of(b), b);
  }
  void remove(BlockId b) noexcept {
    if (lists_.place(b) == Place::absent) return;
    if (!states_[b].referenced) --evictable_;
    if (!states_[b].main) --small_count_;
    lists_.move_to(Place::absent, b);
  }

  void rename(BlockId from, BlockId to) noexcept {
    lists_.rename(from, to);
    states_[to] = states_[from];
    keys_[to] = keys_[from];
  }

  // Each turn uses up a use, a promotion or a place in line, so that the cost is O(1) amortised.
  template <class CanGo>
  std::optional<BlockId> victim(CanGo&& can_go) {
    for (;;) {
      const bool small_is_due = small_count_ >= small_share_ && !lists_.empty(kSmall);
      const std::size_t list = small_is_due || lists_.empty(kMain) ? kSmall : kMain;
      if (lists_.empty(list)) return std::nullopt;
      const BlockId b = lists_.oldest(list);
      State& state = states_[b];
      if (list == kSmall && state.uses > 1) {
        state.main = true;
        state.uses = 0;
        --small_count_;
        move_to_main(b);
      } else if (list == kMain && state.uses > 0) {
        --state.uses;
        move_to_main(b);
      } else if (state.referenced) {
        lists_.move_to(Place::referenced, b);
      } else if (can_go(b)) {
        if (list == kSmall) ghosts_.put(keys_[b], 0);
        remove(b);
        return b;
      } else {
        lists_.move_to(Place::aside, b);
      }
    }
  }

  [[nodiscard]] std::size_t evictable_count() const noexcept { return evictable_; }

 private:
  static constexpr std::size_t kSmall = 0;
  static constexpr std::size_t kMain = 1;

  struct State {
    std::uint8_t uses : 2;  // since it came, or since it was last spared
    bool main : 1;
    bool referenced : 1;
  };

  [[nodiscard]] std::size_t list_of(BlockId b) const noexcept {
    return states_[b].main ? kMain : kSmall;
  }
  void move_to_main(BlockId b) noexcept {
    lists_.move_to(Place::referenced, b);
    lists_.push_newest(kMain, b);
  }

  BlockLists lists_;
  std::vector<State> states_;
  std::vector<std::uint32_t> keys_;
  GhostTable ghosts_;
  std::size_t small_share_;
  std::size_t small_count_ = 0;  // blocks on probation, in line or not
  std::size_t evictable_ = 0;
};

}  // namespace pagedkv::inline v0_1::detail
