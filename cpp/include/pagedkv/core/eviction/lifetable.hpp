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
/// 24 bytes a block: links 8, key 4, state 4, two ghosts 8. O(1) amortised.
class LifetablePolicy {
 public:
  LifetablePolicy(std::size_t capacity, std::size_t num_levels)
      : lists_(capacity, kKinds * num_levels),
        ghosts_(kGhosts * capacity),
        tables_(std::max<std::size_t>(1, capacity), kPrior),
        epoch_length_(
            std::max(kShortestEpoch, static_cast<std::uint32_t>(capacity / kEpochsPerCapacity))),
        ends_(num_levels) {}

  void insert(BlockId b, Level /*level*/, std::uint32_t key, std::uint32_t depth) noexcept {
    Note note{};
    note.key = key;
    note.epoch = epoch_;
    note.depth = depth < 4 ? 0 : depth < 16 ? 1 : depth < 64 ? 2 : 3;
    if (const auto ghost = ghosts_.take(key)) {
      const std::uint32_t kind = *ghost >> kGhostEpochBits;
      tables_.reuse(kind, age(*ghost, kGhostEpochMask));
      note.reuses = std::min(kind > kUsedOnce ? kind - kUsedOnce + 1 : 1, kMostReuses) & 3u;
    }
    lists_.note(b) = note;
    lists_.move_to(Place::referenced, b);
    pass_time();
  }

  void hit(BlockId b) noexcept {
    Note& note = lists_.note(b);
    const bool first_in_epoch = note.epoch != epoch_;
    if (note.reuses < kMostReuses) ++note.reuses;
    if (lists_.place(b) == Place::referenced) {
      note.epoch = epoch_;
    } else if (!note.counted) {
      tables_.reuse(note.kind, age(note.epoch));
      note.counted = true;
    }
    if (first_in_epoch) pass_time();
  }

  void acquire(BlockId b, Level level) noexcept {
    end_spell(b);
    unlist(b, level, Place::referenced);
  }

  void release(BlockId b, Level level, bool leaf) noexcept {
    const Note& note = lists_.note(b);
    begin_spell(b, note.reuses > 0 ? kUsedOnce + note.reuses
                   : leaf          ? kLeaf
                                   : kUsedOnce - note.depth);
    list_newest(b, level);
  }

  bool supersede(BlockId b, Level level) noexcept {
    const Place place = lists_.place(b);
    if (place != Place::listed && place != Place::aside) return false;
    if (lists_.note(b).kind == kSuperseded) return false;
    end_spell(b);
    unlist(b, level, Place::aside);
    begin_spell(b, kSuperseded);
    if (place == Place::listed) list_newest(b, level);
    return true;
  }

  void reconsider(BlockId b, Level level) noexcept {
    if (lists_.place(b) != Place::aside) return;
    const Note& note = lists_.note(b);
    if (note.from_newest) {
      list_newest(b, level);
    } else {
      lists_.push_oldest(list_of(level, note.kind), b);
      ends_[level].stale |= 1u << note.kind;
    }
  }

  bool remove(BlockId b, Level level) noexcept {
    const Place place = lists_.place(b);
    const bool evictable = place == Place::listed || place == Place::aside;
    if (evictable) end_spell(b);
    unlist(b, level, Place::absent);
    return evictable;
  }

  void change_level(BlockId /*b*/, Level /*to*/) noexcept {}
  void rename(BlockId from, BlockId to) noexcept { lists_.rename(from, to); }

  template <class CanGo>
  std::optional<BlockId> victim(Level level, CanGo&& can_go) {
    while (const auto end = cheapest(level)) {
      const std::size_t list = list_of(level, end->kind);
      const BlockId b = end->newest ? lists_.newest(list) : lists_.oldest(list);
      if (can_go(b)) {
        bury(b, level);
        return b;
      }
      lists_.note(b).from_newest = end->newest;
      unlist(b, level, Place::aside);
    }
    return std::nullopt;
  }

 private:
  // Kinds; what is cheaper among equals comes first. A block that was used once is a leaf when no
  // block followed it, and superseded when its chain went on without it; else its depth counts,
  // from 64, 16, 4 and 0 blocks on.
  static constexpr std::uint32_t kLeaf = 0;
  static constexpr std::uint32_t kSuperseded = 1;
  static constexpr std::uint32_t kUsedOnce = 5;
  static constexpr std::uint32_t kKinds = 9;
  static constexpr std::uint32_t kMostReuses = 3;  // more are not told apart
  // Until there is evidence, blocks are reused at a rate that grows with their uses.
  static constexpr std::array<std::uint8_t, kKinds> kPrior{1, 1, 1, 1, 1, 1, 2, 3, 4};

  static constexpr std::size_t kGhosts = 2;             // a block
  static constexpr std::size_t kEpochsPerCapacity = 8;  // time is counted in blocks touched
  static constexpr std::uint32_t kShortestEpoch = 64;
  static constexpr unsigned kGhostEpochBits = GhostTable::kNoteBits - 4;
  static constexpr std::uint32_t kGhostEpochMask = (1u << kGhostEpochBits) - 1;
  static constexpr std::uint64_t kNoPrice = ~std::uint64_t{0};

  struct Note {
    std::uint32_t key;
    std::uint16_t epoch;      // of the last use, modulo 2^16
    std::uint8_t kind;        // of the spell since the last use
    std::uint8_t reuses : 2;  // those before its last eviction included
    std::uint8_t depth : 2;
    bool from_newest : 1;  // set aside at the newest end
    bool counted : 1;      // the spell ended in a reuse, and the table has it
  };
  static_assert(sizeof(Note) == 8);
  struct End {
    std::uint32_t kind;
    bool newest;
  };
  /// What the ends of a level's lists were last found to be worth.
  struct Ends {
    std::uint32_t stale = 0;                            // bit n: the ends of list n have changed
    std::array<std::uint64_t, kKinds + kKinds> prices;  // of the oldest ends, of the newest ends
    Ends() { prices.fill(kNoPrice); }
  };
  using Tables = LifeTables<kKinds>;

  [[nodiscard]] unsigned age(std::uint32_t epoch, std::uint32_t mask = 0xFFFF) const noexcept {
    return std::min((epoch_ - epoch) & mask, Tables::kAges - 1);
  }

  // A block counts once an epoch: a system prompt that every request uses does not make others old.
  void pass_time() noexcept {
    if (++ticks_ < epoch_length_) return;
    ticks_ = 0;
    ++epoch_;
    tables_.close_epoch();
    for (Ends& ends : ends_) ends.stale = (1u << kKinds) - 1;
  }

  void begin_spell(BlockId b, std::uint32_t kind) noexcept {
    Note& note = lists_.note(b);
    note.epoch = epoch_;
    note.kind = static_cast<std::uint8_t>(kind);
    tables_.begin(kind);
  }

  void end_spell(BlockId b) noexcept {
    Note& note = lists_.note(b);
    if (!note.counted) tables_.end(note.kind, age(note.epoch));
    note.counted = false;
  }

  /// Evicts `b`; its spell goes on among the ghosts.
  void bury(BlockId b, Level level) noexcept {
    const Note& note = lists_.note(b);
    unlist(b, level, Place::absent);
    const std::uint32_t kind = note.kind;
    const auto lost =
        ghosts_.put(note.key, (kind << kGhostEpochBits) | (note.epoch & kGhostEpochMask));
    if (lost) tables_.end(*lost >> kGhostEpochBits, age(*lost, kGhostEpochMask));
  }

  static std::size_t list_of(Level level, std::uint32_t kind) noexcept {
    return level * kKinds + kind;
  }

  void list_newest(BlockId b, Level level) noexcept {
    const std::uint32_t kind = lists_.note(b).kind;
    lists_.push_newest(list_of(level, kind), b);
    ends_[level].stale |= 1u << kind;
  }

  void unlist(BlockId b, Level level, Place place) noexcept {
    if (lists_.place(b) == Place::listed) ends_[level].stale |= 1u << lists_.note(b).kind;
    lists_.move_to(place, b);
  }

  /// The end of a list where the next block to evict is.
  [[nodiscard]] std::optional<End> cheapest(Level level) noexcept {
    Ends& ends = ends_[level];
    for (; ends.stale != 0; ends.stale &= ends.stale - 1) {
      price(level, static_cast<std::uint32_t>(std::countr_zero(ends.stale)));
    }
    const auto least = std::min_element(ends.prices.begin(), ends.prices.end());
    if (*least == kNoPrice) return std::nullopt;
    const auto at = static_cast<std::uint32_t>(least - ends.prices.begin());
    return End{at % kKinds, at >= kKinds};
  }

  // The newest end must be cheaper by a third: estimates differ by less for no reason, and what is
  // old is the safer loss.
  void price(Level level, std::uint32_t kind) noexcept {
    const auto value = [&](BlockId b) { return tables_.value(kind, age(lists_.note(b).epoch)); };
    const std::size_t list = list_of(level, kind);
    const bool none = lists_.empty(list);
    ends_[level].prices[kind] = none ? kNoPrice : 2 * value(lists_.oldest(list));
    ends_[level].prices[kKinds + kind] = none ? kNoPrice : 3 * value(lists_.newest(list));
  }

  BlockLists<Note> lists_;  // one a level and kind
  GhostTable ghosts_;
  Tables tables_;
  std::uint32_t epoch_length_;
  std::uint32_t ticks_ = 0;
  std::uint16_t epoch_ = 0;
  std::vector<Ends> ends_;  // a level each
};

}  // namespace pagedkv::inline v0_1::detail
