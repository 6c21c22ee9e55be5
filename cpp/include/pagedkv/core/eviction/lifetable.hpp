#pragma once

// Our own policy: evict the block that promises the fewest hits for the room it takes.

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "pagedkv/core/eviction/block_lists.hpp"
#include "pagedkv/core/eviction/ghost_table.hpp"
#include "pagedkv/core/eviction/life_tables.hpp"

namespace pagedkv::inline v0_1::detail {

/// Blocks are sorted into kinds by what is known of them without looking ahead; a life table of
/// each kind, learned as it goes and reaching past eviction by ghosts, says what a block of this
/// kind and age is worth; the least is evicted. Each kind is a list in order of release, so that
/// only its two ends need to be compared: the oldest, and the newest (where a loop that does not
/// fit wastes the least). Without evidence it is LRU that favours blocks used more often.
///
/// 28 bytes a block: links 8, key 4, state 4, three ghosts 12. O(1) amortised.
class LifetablePolicy {
 public:
  explicit LifetablePolicy(std::size_t capacity)
      : lists_(capacity, kKinds),
        states_(capacity),
        keys_(capacity),
        ghosts_(3 * capacity),
        tables_(std::max<std::size_t>(1, capacity), kPrior),
        epoch_length_(
            std::max(kShortestEpoch, static_cast<std::uint32_t>(capacity / kEpochsPerCapacity))) {}

  void insert(BlockId b, std::uint32_t key, std::uint32_t depth) noexcept {
    State state{};
    state.epoch = epoch_ & kEpochMask;
    state.depth = static_cast<std::uint32_t>(std::bit_width(std::min(depth, 64u) / 4) + 1) / 2 & 3u;
    if (const auto ghost = ghosts_.take(key)) {
      const unsigned kind = *ghost >> kGhostEpochBits;
      tables_.reuse(kind, age((epoch_ - *ghost) & kGhostEpochMask));
      state.uses = std::min(uses_of(kind) + 1, kMostUses) & 3u;
    }
    keys_[b] = key;
    states_[b] = state;
    lists_.move_to(Place::referenced, b);
    pass_time();
  }

  void hit(BlockId b) noexcept {
    State& state = states_[b];
    if (state.uses < kMostUses) state.uses = (state.uses + 1u) & 3u;
    const bool first_in_epoch = state.epoch != epoch_;
    if (lists_.place(b) == Place::referenced) {
      state.epoch = epoch_ & kEpochMask;
    } else if (!state.counted) {
      tables_.reuse(state.kind, age_of(state));
      state.counted = true;
    }
    if (first_in_epoch) pass_time();
  }

  void acquire(BlockId b) noexcept {
    end_spell(b);
    lists_.move_to(Place::referenced, b);
    --evictable_;
  }

  void release(BlockId b, bool leaf) noexcept {
    State& state = states_[b];
    begin_spell(b, state.uses > 0 ? kUsedOnce + state.uses : leaf ? kLeaf : kFirst - state.depth);
    lists_.push_newest(state.kind, b);
    ++evictable_;
  }

  void supersede(BlockId b) noexcept {
    const Place place = lists_.place(b);
    if (place != Place::listed && place != Place::aside) return;
    end_spell(b);
    begin_spell(b, kSuperseded);
    if (place == Place::aside) return;
    lists_.move_to(Place::aside, b);
    lists_.push_newest(kSuperseded, b);
  }

  void reconsider(BlockId b) noexcept {
    if (lists_.place(b) != Place::aside) return;
    if (states_[b].from_newest) {
      lists_.push_newest(states_[b].kind, b);
    } else {
      lists_.push_oldest(states_[b].kind, b);
    }
  }

  void remove(BlockId b) noexcept {
    const Place place = lists_.place(b);
    if (place == Place::listed || place == Place::aside) {
      end_spell(b);
      --evictable_;
    }
    lists_.move_to(Place::absent, b);
  }

  void rename(BlockId from, BlockId to) noexcept {
    lists_.rename(from, to);
    states_[to] = states_[from];
    keys_[to] = keys_[from];
  }

  template <class CanGo>
  std::optional<BlockId> victim(CanGo&& can_go) {
    while (const auto candidate = cheapest()) {
      const BlockId b = candidate->block;
      State& state = states_[b];
      if (can_go(b)) {
        bury(b);
        return b;
      }
      state.from_newest = candidate->newest;
      lists_.move_to(Place::aside, b);
    }
    return std::nullopt;
  }

  [[nodiscard]] std::size_t evictable_count() const noexcept { return evictable_; }

 private:
  // Kinds, those that go first among equals first. A block that was used once is a leaf when no
  // block followed it, and superseded when its chain went on without it; else its depth counts, on
  // a scale of 0, 4, 16 and 64 blocks.
  enum Kind : std::uint32_t { kLeaf, kSuperseded, kFirst = 5, kUsedOnce = 5, kKinds = 9 };
  static constexpr std::uint32_t kMostUses = 3;  // reuses; more are not told apart
  // Reuse at a rate that grows with the uses that were seen, until there is evidence.
  static constexpr std::array<std::uint8_t, kKinds> kPrior{1, 1, 1, 1, 1, 1, 2, 3, 4};

  static constexpr unsigned kGhostEpochBits = 13;
  static constexpr std::uint32_t kGhostEpochMask = (1u << kGhostEpochBits) - 1;
  static constexpr unsigned kEpochBits = 21;
  static constexpr std::uint32_t kEpochMask = (1u << kEpochBits) - 1;
  static constexpr std::size_t kEpochsPerCapacity = 8;
  static constexpr std::uint32_t kShortestEpoch = 64;

  struct State {
    std::uint32_t epoch : kEpochBits;  // of the last use
    std::uint32_t kind : 4;            // of the spell since the last use
    std::uint32_t uses : 2;            // reuses, ghosts included
    std::uint32_t depth : 2;
    std::uint32_t from_newest : 1;  // set aside at the newest end
    std::uint32_t counted : 1;      // the spell ended in a reuse and is in the table
  };
  struct Candidate {
    BlockId block;
    bool newest;
  };
  using Tables = LifeTables<kKinds>;

  static std::uint32_t uses_of(std::uint32_t kind) noexcept {
    return kind > kUsedOnce ? kind - kUsedOnce : 0;
  }
  static unsigned age(std::uint32_t epochs) noexcept {
    return std::min<unsigned>(epochs, Tables::kAges - 1);
  }
  [[nodiscard]] unsigned age_of(const State& state) const noexcept {
    return age((epoch_ - state.epoch) & kEpochMask);
  }

  // Time is counted in blocks touched, each once an epoch: a system prompt that every request uses
  // does not make the others old.
  void pass_time() noexcept {
    if (++ticks_ < epoch_length_) return;
    ticks_ = 0;
    epoch_ = (epoch_ + 1) & kEpochMask;
    tables_.close_epoch();
  }

  void begin_spell(BlockId b, std::uint32_t kind) noexcept {
    State& state = states_[b];
    state.epoch = epoch_ & kEpochMask;
    state.kind = kind & 15u;
    state.from_newest = false;
    tables_.begin(kind);
  }

  void end_spell(BlockId b) noexcept {
    State& state = states_[b];
    if (!state.counted) tables_.end(state.kind, age_of(state));
    state.counted = false;
  }

  /// Evicts `b`; its spell goes on in the ghosts.
  void bury(BlockId b) noexcept {
    const State& state = states_[b];
    lists_.move_to(Place::absent, b);
    --evictable_;
    const std::uint32_t note =
        std::uint32_t{state.kind} << kGhostEpochBits | (state.epoch & kGhostEpochMask);
    if (const auto lost = ghosts_.put(keys_[b], note)) {
      tables_.end(*lost >> kGhostEpochBits, age((epoch_ - *lost) & kGhostEpochMask));
    }
  }

  [[nodiscard]] std::optional<Candidate> cheapest() const noexcept {
    std::optional<Candidate> found;
    std::uint64_t least = ~std::uint64_t{0};
    unsigned age_of_found = 0;
    for (std::uint32_t kind = 0; kind < kKinds; ++kind) {
      if (lists_.empty(kind)) continue;
      const BlockId b = lists_.oldest(kind);
      const unsigned age = age_of(states_[b]);
      const std::uint64_t value = tables_.value(kind, age);
      if (value < least || (value == least && age > age_of_found)) {
        found = Candidate{b, false};
        least = value;
        age_of_found = age;
      }
    }
    // The newest end must be cheaper by a half: estimates differ by less for no reason, and the old
    // are the safer loss.
    for (std::uint32_t kind = 0; kind < kKinds; ++kind) {
      if (lists_.empty(kind)) continue;
      const BlockId b = lists_.newest(kind);
      const std::uint64_t value = tables_.value(kind, age_of(states_[b]));
      if (value + value / 2 < least) {
        found = Candidate{b, true};
        least = value + value / 2;
      }
    }
    return found;
  }

  BlockLists lists_;
  std::vector<State> states_;
  std::vector<std::uint32_t> keys_;
  GhostTable ghosts_;
  Tables tables_;
  std::uint32_t epoch_length_;
  std::uint32_t epoch_ = 0;
  std::uint32_t ticks_ = 0;
  std::size_t evictable_ = 0;
};

}  // namespace pagedkv::inline v0_1::detail
