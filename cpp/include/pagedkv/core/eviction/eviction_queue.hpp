#pragma once

// Which block goes when no free one is left.

#include <array>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "pagedkv/core/block_allocator.hpp"
#include "pagedkv/core/errors.hpp"
#include "pagedkv/core/eviction/lfu.hpp"
#include "pagedkv/core/eviction/lifetable.hpp"
#include "pagedkv/core/eviction/recency.hpp"
#include "pagedkv/core/eviction/s3fifo.hpp"

namespace pagedkv::inline v0_1 {

/// Eviction policies; `lifetable` is our own.
enum class EvictionKind : std::uint8_t { lru, lfu, fifo, s3fifo, lifetable };

namespace detail {
inline constexpr std::array<std::string_view, 5> kEvictionNames{"lru", "lfu", "fifo", "s3fifo",
                                                                "lifetable"};

// In the order of EvictionKind.
using EvictionPolicy =
    std::variant<LruPolicy, LfuPolicy, FifoPolicy, S3FifoPolicy, LifetablePolicy>;

// A switch that the compiler can see through, where std::visit calls through a table.
template <class Policy, class Call>
decltype(auto) with_policy(Policy& policy, Call&& call) {
  switch (static_cast<EvictionKind>(policy.index())) {
    case EvictionKind::lfu: return call(*std::get_if<1>(&policy));
    case EvictionKind::fifo: return call(*std::get_if<2>(&policy));
    case EvictionKind::s3fifo: return call(*std::get_if<3>(&policy));
    case EvictionKind::lifetable: return call(*std::get_if<4>(&policy));
    case EvictionKind::lru: break;
  }
  return call(*std::get_if<0>(&policy));
}
}  // namespace detail

/// Name of `kind`, as `parse_eviction` takes it.
[[nodiscard]] constexpr std::string_view eviction_name(EvictionKind kind) noexcept {
  return detail::kEvictionNames[static_cast<std::size_t>(kind)];
}

/// The policy of that name, or nothing. "own" is `lifetable`.
[[nodiscard]] constexpr std::optional<EvictionKind> parse_eviction(std::string_view name) noexcept {
  if (name == "own") return EvictionKind::lifetable;
  for (std::size_t i = 0; i < detail::kEvictionNames.size(); ++i) {
    if (detail::kEvictionNames[i] == name) return static_cast<EvictionKind>(i);
  }
  return std::nullopt;
}

/// "lru, lfu, ..."
[[nodiscard]] inline std::string eviction_names() {
  std::string names;
  for (const auto name : detail::kEvictionNames) {
    names += names.empty() ? "" : ", ";
    names += name;
  }
  return names;
}

/// Order in which the blocks of a prefix index are evicted: those of the lowest level first, and
/// those of one level as the policy has it. What the policy learns is of all levels together.
///
/// A block enters referenced; it is evictable from its last `release` to the next `acquire`. Every
/// call is O(1) amortised, whatever the capacity; nothing is allocated after construction. Bytes a
/// block: lru 9, lfu and fifo 13, s3fifo 20.6, lifetable 25.
///
/// Decisions follow from the calls alone, in integer arithmetic: two queues that see the same calls
/// evict the same blocks. The caller keeps to the order of states written at each call; it is not
/// checked. For one thread at a time.
class EvictionQueue {
 public:
  /// @param capacity    blocks; ids are `[0, capacity)`.
  /// @param num_levels  1 to 256.
  /// @throws CapacityError beyond 2^31 - 1, std::bad_alloc.
  EvictionQueue(EvictionKind kind, std::size_t capacity, std::size_t num_levels = 1)
      : policy_(make(kind, checked(capacity), num_levels)),
        levels_(capacity),
        evictable_(num_levels) {}

  [[nodiscard]] EvictionKind kind() const noexcept {
    return static_cast<EvictionKind>(policy_.index());
  }

  /// `b` enters the index, referenced.
  /// @param key    hash of the whole prefix up to `b`; the same when `b`'s content comes again in
  ///               another block, so that the policy knows it. Not keyed, or ranks part company.
  /// @param depth  blocks before `b` in its prompt.
  /// @param level  below `num_levels`.
  void insert(BlockId b, std::uint32_t key, std::uint32_t depth, std::uint8_t level = 0) {
    levels_[b] = level;
    detail::with_policy(policy_, [&](auto& policy) { policy.insert(b, level, key, depth); });
  }

  [[nodiscard]] std::uint8_t level(BlockId b) const noexcept { return levels_[b]; }

  /// `b`, which is referenced, belongs to another level from now on.
  void change_level(BlockId b, std::uint8_t to) {
    detail::with_policy(policy_, [&](auto& policy) { policy.change_level(b, to); });
    levels_[b] = to;
  }

  /// A request finds `b` in the index and will use it. Before `acquire` when `b` is evictable.
  void hit(BlockId b) {
    detail::with_policy(policy_, [&](auto& policy) { policy.hit(b); });
  }

  /// `b` was evictable and is referenced again.
  void acquire(BlockId b) {
    detail::with_policy(policy_, [&](auto& policy) { policy.acquire(b, levels_[b]); });
    --evictable_[levels_[b]];
  }

  /// The last reference to `b` went; the tail of a sequence comes before its head.
  /// @param leaf  no block in the index follows `b`.
  void release(BlockId b, bool leaf) {
    detail::with_policy(policy_, [&](auto& policy) { policy.release(b, levels_[b], leaf); });
    ++evictable_[levels_[b]];
  }

  /// Calls `give(release)`, which may call `release(b, leaf)` for many blocks at less than each by
  /// itself.
  template <class Give>
  void release_each(Give give) {
    detail::with_policy(policy_, [&](auto& policy) {
      give([&](BlockId b, bool leaf) {
        policy.release(b, levels_[b], leaf);
        ++evictable_[levels_[b]];
      });
    });
  }

  /// A prompt went another way at the block before `b`, which only `b` had followed so far, or at
  /// an earlier one: called for `b` and for what follows it, nearest first. A hint: the chain has
  /// most likely been edited, or its last block filled, and the old end is dead. Ignored for
  /// referenced blocks and by policies other than `lifetable`.
  /// @return whether that was news.
  bool supersede(BlockId b) {
    return detail::with_policy(policy_,
                               [&](auto& policy) { return policy.supersede(b, levels_[b]); });
  }

  /// `b` leaves the index for another reason than eviction, in whatever state it is.
  void remove(BlockId b) {
    const bool was_evictable =
        detail::with_policy(policy_, [&](auto& policy) { return policy.remove(b, levels_[b]); });
    if (was_evictable) --evictable_[levels_[b]];
  }

  /// Block `from` of the index is called `to` from now on, which was not in it.
  void rename(BlockId from, BlockId to) {
    levels_[to] = levels_[from];
    detail::with_policy(policy_, [&](auto& policy) { policy.rename(from, to); });
  }

  /// Takes out the next block to evict. A candidate for which `can_go(block)` is false, since
  /// others in the index follow it, is set aside until `reconsider`.
  /// @return nothing when no evictable block can go.
  template <class CanGo>
  [[nodiscard]] std::optional<BlockId> victim(CanGo&& can_go) {
    for (std::size_t level = 0; level < evictable_.size(); ++level) {
      if (evictable_[level] == 0) continue;
      const auto found = detail::with_policy(policy_, [&](auto& policy) {
        return policy.victim(static_cast<detail::Level>(level), can_go);
      });
      if (!found) continue;
      --evictable_[level];
      return found;
    }
    return std::nullopt;
  }

  /// What kept `b` from going is gone: if it was set aside it is next again. Otherwise nothing
  /// happens.
  void reconsider(BlockId b) {
    detail::with_policy(policy_, [&](auto& policy) { policy.reconsider(b, levels_[b]); });
  }

  /// Blocks that are not referenced, those set aside included. O(levels).
  [[nodiscard]] std::size_t evictable_count() const noexcept {
    return std::accumulate(evictable_.begin(), evictable_.end(), std::size_t{0});
  }

  /// Bytes a block that it holds, ghosts included.
  [[nodiscard]] static constexpr double bytes_per_block(EvictionKind kind) noexcept {
    constexpr std::array<double, detail::kEvictionNames.size()> bytes{9, 13, 13, 20.6, 25};
    return bytes[static_cast<std::size_t>(kind)];
  }

 private:
  static std::size_t checked(std::size_t capacity) {
    if (capacity > BlockAllocator::kMaxCapacity) {
      detail::throw_capacity("EvictionQueue", "capacity " + std::to_string(capacity) +
                                                  "; expected at most 2147483647 (ids are int32)");
    }
    return capacity;
  }

  static detail::EvictionPolicy make(EvictionKind kind, std::size_t capacity,
                                     std::size_t num_levels) {
    switch (kind) {
      case EvictionKind::lfu: return detail::LfuPolicy(capacity, num_levels);
      case EvictionKind::fifo: return detail::FifoPolicy(capacity, num_levels);
      case EvictionKind::s3fifo: return detail::S3FifoPolicy(capacity, num_levels);
      case EvictionKind::lifetable: return detail::LifetablePolicy(capacity, num_levels);
      case EvictionKind::lru: break;
    }
    return detail::LruPolicy(capacity, num_levels);
  }

  detail::EvictionPolicy policy_;
  std::vector<std::uint8_t> levels_;      // of each block
  std::vector<std::uint32_t> evictable_;  // how many of each level
};

}  // namespace pagedkv::inline v0_1
