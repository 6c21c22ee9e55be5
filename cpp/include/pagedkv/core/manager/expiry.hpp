#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <new>
#include <optional>
#include <unordered_map>
#include <utility>
#include <vector>

#include "pagedkv/core/block_allocator.hpp"

namespace pagedkv::inline v0_1::detail {

/// Blocks that are to be evicted at a certain step, those of one step in the order in which they
/// came. A block whose time comes while others hang on it stays overdue until they have gone.
/// O(log blocks with a time limit) a call.
class Expiry {
 public:
  [[nodiscard]] bool empty() const noexcept { return due_.empty(); }

  /// `b` has no time limit yet. False when there is no memory for one.
  [[nodiscard]] bool set(BlockId b, std::uint64_t step) noexcept {
    const Turn turn{step, ++last_};
    try {
      due_[b].turn = turn;
      order_.emplace(turn, b);
      return true;
    } catch (const std::bad_alloc&) {
      due_.erase(b);
      return false;
    }
  }

  /// `b` has no time limit any more.
  void clear(BlockId b) {
    const auto found = due_.find(b);
    if (found == due_.end()) return;
    order_.erase(found->second.turn);
    due_.erase(found);
  }

  /// The next block whose time has come by `step`; it is overdue from then on.
  [[nodiscard]] std::optional<BlockId> next(std::uint64_t step) {
    if (order_.empty() || order_.begin()->first.first > step) return std::nullopt;
    const BlockId b = order_.begin()->second;
    due_.find(b)->second.overdue = order_.extract(order_.begin());
    return b;
  }

  /// What kept `b` from going is gone: if it is overdue, it is next. Allocates nothing.
  void reconsider(BlockId b) noexcept {
    const auto found = due_.find(b);
    if (found != due_.end() && found->second.overdue) {
      order_.insert(std::move(found->second.overdue));
    }
  }

  /// Block b is called `now_at[b]` from now on.
  void rename(const std::vector<BlockId>& now_at) {
    std::unordered_map<BlockId, Due> due;
    due.reserve(due_.size());
    for (auto& [b, entry] : due_) {
      if (entry.overdue) entry.overdue.mapped() = now_at[b];
      due.emplace(now_at[b], std::move(entry));
    }
    due_ = std::move(due);
    for (auto& [turn, b] : order_) b = now_at[b];
  }

 private:
  using Turn = std::pair<std::uint64_t, std::uint64_t>;  // step, and which one to get it
  using Order = std::map<Turn, BlockId>;
  struct Due {
    Turn turn;
    Order::node_type overdue;  // its place in the order, while it is overdue
  };

  std::unordered_map<BlockId, Due> due_;
  Order order_;  // without those that are overdue
  std::uint64_t last_ = 0;
};

}  // namespace pagedkv::inline v0_1::detail
