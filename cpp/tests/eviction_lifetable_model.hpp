#pragma once

// The lifetable policy as one would write it down; its tables and ghosts have tests of their own.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <optional>
#include <tuple>
#include <utility>

#include "eviction_model.hpp"
#include "pagedkv/core/eviction/ghost_table.hpp"
#include "pagedkv/core/eviction/life_tables.hpp"

namespace pagedkv_test {

/// The lifetable policy over plain lists; every end is priced again for each victim.
class LifetableModel final : public EvictionModel {
 public:
  explicit LifetableModel(std::size_t capacity)
      : epoch_length_(std::max<std::size_t>(64, capacity / 8)),
        ghosts_(2 * capacity),
        tables_(capacity, {1, 1, 1, 1, 1, 1, 2, 3, 4}) {}

  void insert(BlockId b, std::uint32_t key, std::uint32_t depth, int level) override {
    int reuses = 0;
    if (const auto note = ghosts_.take(key)) {
      const std::size_t kind = *note / 8192;
      tables_.reuse(kind, age((epoch_ - *note) % 8192));
      reuses = kind > 5 ? std::min<int>(static_cast<int>(kind) - 4, 3) : 1;
    }
    blocks_[b] = {.key = key, .depth = depth, .reuses = reuses, .level = level, .epoch = epoch_};
    touch();
  }
  void change_level(BlockId b, int to) override { blocks_[b].level = to; }
  void hit(BlockId b) override {
    Block& block = blocks_[b];
    block.reuses = std::min(block.reuses + 1, 3);
    const bool first = block.epoch != epoch_;
    if (!block.evictable) {
      block.epoch = epoch_;
    } else if (!std::exchange(block.counted, true)) {
      tables_.reuse(block.kind, age(epoch_ - block.epoch));
    }
    if (first) touch();
  }
  void acquire(BlockId b) override {
    end(b);
    list_of(b).remove(b);
    blocks_[b].aside = blocks_[b].evictable = false;
  }
  void release(BlockId b, bool leaf) override {
    const Block& block = blocks_[b];
    const std::uint32_t limits[] = {64, 16, 4, 0};
    std::size_t kind = 5 + static_cast<std::size_t>(block.reuses);
    if (block.reuses == 0) {
      kind = 2;
      while (block.depth < limits[kind - 2]) ++kind;
      if (leaf) kind = 0;
    }
    begin(b, kind);
    list_of(b).push_back(b);
  }
  bool supersede(BlockId b) override {
    if (!blocks_.contains(b) || !blocks_[b].evictable || blocks_[b].kind == 1) return false;
    end(b);
    list_of(b).remove(b);
    begin(b, 1);
    if (!blocks_[b].aside) list_of(b).push_back(b);
    return true;
  }
  void remove(BlockId b) override {
    if (blocks_.count(b) == 0) return;
    if (blocks_[b].evictable) acquire(b);
    blocks_.erase(b);
  }
  void reconsider(BlockId b) override {
    if (blocks_.count(b) == 0 || !std::exchange(blocks_[b].aside, false)) return;
    auto& list = list_of(b);
    list.insert(blocks_[b].newest ? list.end() : list.begin(), b);
  }
  std::optional<BlockId> victim(const CanGo& can_go) override {
    for (auto& [level, lists] : lists_) {
      if (const auto b = victim_of(lists, can_go)) return b;
    }
    return std::nullopt;
  }
  [[nodiscard]] std::size_t evictable_count() const override {
    return static_cast<std::size_t>(std::count_if(
        blocks_.begin(), blocks_.end(), [](const auto& entry) { return entry.second.evictable; }));
  }

 private:
  using Lists = std::array<std::list<BlockId>, 9>;
  struct Block {
    std::uint32_t key = 0;
    std::uint32_t depth = 0;
    int reuses = 0;
    int level = 0;
    std::uint64_t epoch = 0;
    std::size_t kind = 0;
    bool evictable = false, aside = false, newest = false, counted = false;
  };

  std::list<BlockId>& list_of(BlockId b) { return lists_[blocks_[b].level][blocks_[b].kind]; }

  std::optional<BlockId> victim_of(Lists& lists, const CanGo& can_go) {
    for (;;) {
      // Cheapest first, then oldest ends before newest ends, kind by kind.
      using Offer = std::tuple<std::uint64_t, bool, std::size_t>;
      std::optional<Offer> best;
      for (std::size_t kind = 0; kind < 9; ++kind) {
        if (lists[kind].empty()) continue;
        for (const bool newest : {false, true}) {
          const BlockId b = newest ? lists[kind].back() : lists[kind].front();
          const unsigned a = age(epoch_ - blocks_[b].epoch);
          const Offer offer{tables_.value(kind, a) * (newest ? 3 : 2), newest, kind};
          if (!best || offer < *best) best = offer;
        }
      }
      if (!best) return std::nullopt;
      auto& list = lists[std::get<2>(*best)];
      const bool newest = std::get<1>(*best);
      const BlockId b = newest ? list.back() : list.front();
      list.remove(b);
      Block& block = blocks_[b];
      if (can_go(b)) {
        const auto kind = static_cast<std::uint32_t>(block.kind);
        const auto note = kind * 8192 + static_cast<std::uint32_t>(block.epoch % 8192);
        if (const auto lost = ghosts_.put(block.key, note)) {
          tables_.end(*lost / 8192, age((epoch_ - *lost) % 8192));
        }
        blocks_.erase(b);
        return b;
      }
      block.aside = true;
      block.newest = newest;
    }
  }

  static unsigned age(std::uint64_t epochs) {
    return static_cast<unsigned>(std::min<std::uint64_t>(epochs, 31));
  }
  void touch() {
    if (++ticks_ % epoch_length_ != 0) return;
    ++epoch_;
    tables_.close_epoch();
  }
  void begin(BlockId b, std::size_t kind) {
    Block& block = blocks_[b];
    block.kind = kind;
    block.epoch = epoch_;
    block.evictable = true;
    tables_.begin(kind);
  }
  void end(BlockId b) {
    Block& block = blocks_[b];
    if (!std::exchange(block.counted, false)) tables_.end(block.kind, age(epoch_ - block.epoch));
  }

  std::size_t epoch_length_;
  std::size_t ticks_ = 0;
  std::uint64_t epoch_ = 0;
  pagedkv::detail::GhostTable ghosts_;
  pagedkv::detail::LifeTables<9> tables_;
  std::map<BlockId, Block> blocks_;
  std::map<int, Lists> lists_;  // by level
};

}  // namespace pagedkv_test
