#pragma once

// Eviction policies as one would write them down: ordered containers, no links, no care for speed.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <tuple>

#include "eviction_lifetable_model.hpp"
#include "eviction_model.hpp"
#include "pagedkv/core/eviction/eviction_queue.hpp"
#include "pagedkv/core/eviction/ghost_table.hpp"

namespace pagedkv_test {

using pagedkv::EvictionKind;

/// LRU, and LFU when uses count: evictable blocks sorted by (level, uses, turn).
class SortedModel final : public EvictionModel {
 public:
  explicit SortedModel(bool by_uses) : by_uses_(by_uses) {}

  void insert(BlockId b, std::uint32_t, std::uint32_t, int level) override {
    uses_[b] = 1;
    levels_[b] = level;
  }
  void change_level(BlockId b, int to) override { levels_[b] = to; }
  void hit(BlockId b) override { uses_[b] = std::min(uses_[b] + 1, 255); }
  void acquire(BlockId b) override { forget(b); }
  void release(BlockId b, bool) override { place(b, ++last_turn_); }
  void remove(BlockId b) override { forget(b); }
  void reconsider(BlockId b) override {
    if (aside_.erase(b) != 0) place(b, --first_turn_);
  }
  std::optional<BlockId> victim(const CanGo& can_go) override {
    while (!order_.empty()) {
      const BlockId b = std::get<3>(*order_.begin());
      forget(b);
      if (can_go(b)) return b;
      aside_.insert(b);
    }
    return std::nullopt;
  }
  [[nodiscard]] std::size_t evictable_count() const override {
    return order_.size() + aside_.size();
  }

 private:
  void place(BlockId b, long turn) {
    order_.insert({levels_[b], by_uses_ ? uses_[b] : 0, turn, b});
  }
  void forget(BlockId b) {
    std::erase_if(order_, [&](const auto& entry) { return std::get<3>(entry) == b; });
    aside_.erase(b);
  }

  bool by_uses_;
  long first_turn_ = 0;
  long last_turn_ = 0;
  std::map<BlockId, int> uses_;
  std::map<BlockId, int> levels_;
  std::set<std::tuple<int, int, long, BlockId>> order_;
  std::set<BlockId> aside_;
};

/// S3-FIFO as in the paper's listing, blocks in use added; FIFO when `share` is 0 and nothing is
/// ever promoted.
class QueuesModel final : public EvictionModel {
 public:
  QueuesModel(std::size_t capacity, bool s3)
      : s3_(s3),
        small_share_(s3 ? std::max<std::size_t>(1, capacity / 10) : 0),
        ghosts_(capacity - capacity / 10) {}

  void insert(BlockId b, std::uint32_t key, std::uint32_t, int level) override {
    const bool known = s3_ && ghosts_.take(key).has_value();
    blocks_[b] = {key, 0, known, true, level};
    queue_of(b).push_back(b);
  }
  void change_level(BlockId b, int to) override {
    const bool moves = in_line(b);
    queue_of(b).remove(b);
    blocks_[b].level = to;
    if (moves) queue_of(b).push_back(b);
  }
  void hit(BlockId b) override { blocks_[b].uses = std::min(blocks_[b].uses + 1, s3_ ? 3 : 0); }
  void acquire(BlockId b) override {
    blocks_[b].referenced = true;
    aside_.erase(b);
  }
  void release(BlockId b, bool) override {
    blocks_[b].referenced = false;
    if (!in_line(b)) queue_of(b).push_front(b);
  }
  void remove(BlockId b) override {
    if (!blocks_.contains(b)) return;
    queue_of(b).remove(b);
    aside_.erase(b);
    blocks_.erase(b);
  }
  void reconsider(BlockId b) override {
    if (aside_.erase(b) != 0) queue_of(b).push_front(b);
  }
  std::optional<BlockId> victim(const CanGo& can_go) override {
    std::set<int> levels;
    for (const auto& [b, block] : blocks_) {
      if (!block.referenced) levels.insert(block.level);
    }
    for (const int level : levels) {
      if (const auto b = victim_of(level, can_go)) return b;
    }
    return std::nullopt;
  }
  [[nodiscard]] std::size_t evictable_count() const override {
    return static_cast<std::size_t>(
        std::count_if(blocks_.begin(), blocks_.end(),
                      [](const auto& entry) { return !entry.second.referenced; }));
  }

 private:
  struct Block {
    std::uint32_t key;
    int uses;
    bool main;
    bool referenced;
    int level;
  };

  std::optional<BlockId> victim_of(int level, const CanGo& can_go) {
    for (;;) {
      const auto on_probation = static_cast<std::size_t>(std::count_if(
          blocks_.begin(), blocks_.end(), [](const auto& entry) { return !entry.second.main; }));
      const bool small =
          (on_probation >= small_share_ && !small_[level].empty()) || main_[level].empty();
      std::list<BlockId>& queue = small ? small_[level] : main_[level];
      if (queue.empty()) return std::nullopt;
      const BlockId b = queue.front();
      queue.pop_front();
      Block& block = blocks_[b];
      if (small && block.uses > 1) {
        block.main = true;
        block.uses = 0;
        main_[level].push_back(b);
      } else if (!small && block.uses > 0) {
        --block.uses;
        main_[level].push_back(b);
      } else if (!block.referenced) {
        if (can_go(b)) {
          if (small && s3_) ghosts_.put(block.key, 0);
          blocks_.erase(b);
          return b;
        }
        aside_.insert(b);
      }
    }
  }

  std::list<BlockId>& queue_of(BlockId b) {
    return (blocks_[b].main ? main_ : small_)[blocks_[b].level];
  }
  bool in_line(BlockId b) {
    const auto& queue = queue_of(b);
    return std::find(queue.begin(), queue.end(), b) != queue.end();
  }

  bool s3_;
  std::size_t small_share_;
  pagedkv::detail::GhostTable ghosts_;
  std::map<BlockId, Block> blocks_;
  std::map<int, std::list<BlockId>> small_;  // by level
  std::map<int, std::list<BlockId>> main_;
  std::set<BlockId> aside_;
};

inline std::unique_ptr<EvictionModel> make_model(EvictionKind kind, std::size_t capacity) {
  switch (kind) {
    case EvictionKind::lru: return std::make_unique<SortedModel>(false);
    case EvictionKind::lfu: return std::make_unique<SortedModel>(true);
    case EvictionKind::fifo: return std::make_unique<QueuesModel>(capacity, false);
    case EvictionKind::s3fifo: return std::make_unique<QueuesModel>(capacity, true);
    case EvictionKind::lifetable: return std::make_unique<LifetableModel>(capacity);
  }
  return nullptr;
}

}  // namespace pagedkv_test
