#pragma once

// When blocks of a kind are used again, and what it is worth to wait for it.

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace pagedkv::inline v0_1::detail {

/// Life tables, as an actuary keeps them, of the spells between two uses of a block. Spells are
/// sorted by the kind of the block and aged in epochs; the table of a kind holds, for each age, how
/// many spells reached it and how many ended there in a reuse. The past fades by 1/128 an epoch.
///
/// `value(kind, age)` is what a block of that kind and age promises: expected hits for each epoch
/// that it will be kept, if it is kept for the best time (the Gittins index). To evict the least of
/// it is to evict what pays the least rent.
///
/// Little evidence is not believed: hits come in clumps (a prompt reuses a whole chain at once),
/// and an estimate starts with two mean clumps that say what is known without it. So a kind at an
/// age is taken to be like the kind, as against all blocks at that age; all blocks to be reused
/// less the older they are (which is LRU); and a kind by itself to be reused `prior` times as often
/// as others.
///
/// All of it is integer arithmetic: the same calls give the same values on every machine.
/// O(1) a call; O(kinds x ages) `close_epoch`, a few microseconds. 32 bytes a kind and age.
template <std::size_t kKinds>
class LifeTables {
 public:
  /// Ages 0 to 31; the last one is "that old or older".
  static constexpr unsigned kAges = 32;

  /// @param capacity  blocks of the cache, at least 1.
  /// @param prior     how often, as against others, each kind is taken to be reused at first.
  LifeTables(std::size_t capacity, const std::array<std::uint8_t, kKinds>& prior)
      : capacity_(capacity), prior_(prior) {
    revalue();
  }

  /// A spell begins: a block of this kind was used for the last time so far.
  void begin(std::size_t kind) noexcept { ++rows_[kind].open[0]; }

  /// A spell ends or is lost sight of.
  void end(std::size_t kind, unsigned age) noexcept {
    std::uint32_t& open = rows_[kind].open[age];
    open -= open != 0;
  }

  /// A spell ends in a reuse.
  void reuse(std::size_t kind, unsigned age) noexcept {
    end(kind, age);
    rows_[kind].reused[age] += kOne;
    rows_[kind].reached[age] += kOne;
    if (kind == clump_kind_ && age == clump_age_) {
      ++clump_;
    } else {
      close_clump();
      clump_ = 1;
      clump_kind_ = kind;
      clump_age_ = age;
    }
  }

  /// All spells become an epoch older.
  void close_epoch() noexcept {
    close_clump();
    fade(clump_sum_);
    fade(clump_squares_);
    for (Row& row : rows_) {
      for (unsigned age = 0; age < kAges; ++age) {
        fade(row.reused[age]);
        fade(row.reached[age]);
        row.reached[age] += std::uint64_t{row.open[age]} * kOne;
      }
      row.open[kAges - 1] += row.open[kAges - 2];
      std::copy_backward(row.open.begin(), row.open.end() - 2, row.open.end() - 1);
      row.open[0] = 0;
    }
    revalue();
  }

  /// Expected hits an epoch, in units that only comparisons give a meaning.
  [[nodiscard]] std::uint64_t value(std::size_t kind, unsigned age) const noexcept {
    return rows_[kind].value[age];
  }

  /// Spells of a kind that are at an age now, those of evicted blocks that are remembered included.
  [[nodiscard]] std::uint32_t open(std::size_t kind, unsigned age) const noexcept {
    return rows_[kind].open[age];
  }

 private:
  static constexpr std::uint64_t kOne = 256;                         // one block in a count
  static constexpr std::uint64_t kCertain = std::uint64_t{1} << 30;  // probability 1
  static constexpr std::uint64_t kDoubt = 2;  // clumps in an estimate's prior

  using Ages = std::array<std::uint64_t, kAges>;
  struct Row {
    std::array<std::uint32_t, kAges> open{};
    Ages reached{};
    Ages reused{};
    Ages value{};
  };

  static void fade(std::uint64_t& count) noexcept { count -= count >> 7; }

  /// `part / whole`, 2^30 being 1; 16 at most.
  static std::uint64_t ratio(std::uint64_t part, std::uint64_t whole) noexcept {
    const int excess = static_cast<int>(std::bit_width(part | whole)) - 34;
    if (excess > 0) {
      part >>= excess;
      whole >>= excess;
    }
    return whole == 0 ? 16 * kCertain : std::min((part << 30) / whole, 16 * kCertain);
  }

  /// `count * factor`, 2^30 being 1, for factors of 16 at most.
  static std::uint64_t scaled(std::uint64_t count, std::uint64_t factor) noexcept {
    return (count >> 30) * factor + (((count & (kCertain - 1)) * factor) >> 30);
  }

  /// Probability of a reuse at an age that `reached` came to and where `reused` ended, taken to be
  /// `expected` before these were seen.
  static std::uint64_t chance(std::uint64_t reused, std::uint64_t reached, std::uint64_t weight,
                              std::uint64_t expected) noexcept {
    expected = std::clamp<std::uint64_t>(expected, 1, kCertain);
    const std::uint64_t estimate = ratio(reused + weight, reached + (weight << 30) / expected);
    return std::clamp<std::uint64_t>(estimate, 1, kCertain);
  }

  void close_clump() noexcept {
    const std::uint64_t size = std::min<std::uint64_t>(clump_, std::uint64_t{1} << 16);
    clump_sum_ += size * kOne;
    clump_squares_ += size * size * kOne;
    clump_ = 0;
    clump_kind_ = kKinds;
  }

  void revalue() noexcept {
    // The mean clump that a hit is in, which is how many hits say as much as one.
    const std::uint64_t weight =
        kDoubt * kOne * std::max<std::uint64_t>(1, clump_squares_ / std::max(kOne, clump_sum_));
    Ages reused{};
    Ages reached{};
    for (const Row& row : rows_) {
      for (unsigned age = 0; age < kAges; ++age) {
        reused[age] += row.reused[age];
        reached[age] += row.reached[age];
      }
    }
    std::uint64_t all_reused = weight;
    std::uint64_t all_reached = weight * capacity_;
    for (unsigned age = 0; age < kAges; ++age) {
      all_reused += reused[age];
      all_reached += reached[age] / (age + 1);
    }
    // Enough for the oldest age to differ from the one before, however large the cache.
    const std::uint64_t at_first =
        std::max(std::uint64_t{kAges} * kAges, ratio(all_reused, all_reached));
    Ages of_all;
    for (unsigned age = 0; age < kAges; ++age) {
      of_all[age] = chance(reused[age], reached[age], weight, at_first / (age + 1));
    }
    for (std::size_t kind = 0; kind < kKinds; ++kind) {
      revalue(rows_[kind], prior_[kind], of_all, weight);
    }
  }

  static void revalue(Row& row, std::uint64_t prior, const Ages& of_all,
                      std::uint64_t weight) noexcept {
    std::uint64_t reused = weight;
    std::uint64_t expected = weight / prior;
    for (unsigned age = 0; age < kAges; ++age) {
      reused += row.reused[age];
      expected += scaled(row.reached[age], of_all[age]);
    }
    const std::uint64_t factor = ratio(reused, expected);

    // From the oldest age to the youngest: the best time to keep a block is this epoch, and on
    // through all that pays better than what is before it.
    struct Stay {
      std::uint64_t hits, time, survival, value;
    };
    std::array<Stay, kAges> stays;
    unsigned count = 0;
    for (unsigned age = kAges; age-- > 0;) {
      const std::uint64_t hit =
          chance(row.reused[age], row.reached[age], weight, scaled(of_all[age], factor));
      Stay stay{hit, kCertain - hit / 2, kCertain - hit, 0};
      stay.value = ratio(stay.hits, stay.time);
      while (count > 0 && stays[count - 1].value > stay.value) {
        const Stay& next = stays[--count];
        stay.hits += scaled(next.hits, stay.survival);
        stay.time += scaled(next.time, stay.survival);
        stay.survival = scaled(next.survival, stay.survival);
        stay.value = ratio(stay.hits, stay.time);
      }
      stays[count++] = stay;
      row.value[age] = stay.value;
    }
  }

  std::array<Row, kKinds> rows_{};
  std::uint64_t capacity_;
  std::array<std::uint8_t, kKinds> prior_;
  std::uint64_t clump_ = 0;  // hits of one kind and age in a row, so far
  std::size_t clump_kind_ = kKinds;
  unsigned clump_age_ = 0;
  std::uint64_t clump_sum_ = 0;
  std::uint64_t clump_squares_ = 0;
};

}  // namespace pagedkv::inline v0_1::detail
