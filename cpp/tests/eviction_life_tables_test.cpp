// LifeTables: what a block of a kind and age promises.

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <random>
#include <string>

#include "pagedkv/core/eviction/life_tables.hpp"

namespace {

constexpr std::size_t kKinds = 3;
using Tables = pagedkv::detail::LifeTables<kKinds>;
constexpr unsigned kAges = Tables::kAges;
constexpr std::array<std::uint8_t, kKinds> kPrior{1, 1, 2};

/// `count` blocks of a kind an epoch, each reused `after` epochs later.
void run_loop(Tables& tables, std::size_t kind, unsigned after, int epochs, int count = 20) {
  for (int epoch = 0; epoch < epochs; ++epoch) {
    for (int i = 0; i < count; ++i) {
      if (epoch >= static_cast<int>(after)) tables.reuse(kind, after);
      tables.begin(kind);
    }
    tables.close_epoch();
  }
}

TEST(LifeTables, WithoutEvidenceTheOlderIsWorthLess) {
  for (const std::size_t capacity : {std::size_t{100}, std::size_t{1000}, std::size_t{1} << 31}) {
    const Tables tables(capacity, kPrior);
    for (std::size_t kind = 0; kind < kKinds; ++kind) {
      for (unsigned age = 1; age < kAges; ++age) {
        EXPECT_LT(tables.value(kind, age), tables.value(kind, age - 1));
      }
    }
  }
}

TEST(LifeTables, WithoutEvidenceThePriorTellsKindsApart) {
  const Tables tables(1000, kPrior);
  EXPECT_EQ(tables.value(0, 0), tables.value(1, 0));
  EXPECT_GT(tables.value(2, 0), tables.value(1, 0));
}

TEST(LifeTables, AKindThatIsNeverReusedIsWorthLittle) {
  Tables tables(1000, kPrior);
  for (int epoch = 0; epoch < 100; ++epoch) {
    for (int i = 0; i < 50; ++i) {
      tables.begin(2);
      if (epoch >= 3 && i % 2 == 0) tables.reuse(0, 3);
      tables.begin(0);
    }
    tables.close_epoch();
  }
  EXPECT_LT(tables.value(2, 1) * 20, tables.value(0, 1));
}

TEST(LifeTables, BeforeALoopComesRoundItsBlocksAreWorthMoreTheOlderTheyAre) {
  Tables tables(1000, kPrior);
  run_loop(tables, 1, 10, 200);
  for (unsigned age = 1; age <= 10; ++age) {
    EXPECT_GT(tables.value(1, age), tables.value(1, age - 1)) << "age " << age;
  }
  EXPECT_GT(tables.value(1, 10), 4 * tables.value(1, 11)) << "who missed the turn is lost";
}

TEST(LifeTables, TheFuturePeakCountsInTheValueOfTheYoung) {
  Tables tables(1000, kPrior);
  run_loop(tables, 1, 10, 200);
  // One hit for ten epochs and a half.
  EXPECT_NEAR(static_cast<double>(tables.value(1, 0)), 0x1p30 / 10.5, 0x1p30 / 100);
}

TEST(LifeTables, HitsInOneClumpSayLessThanHitsApart) {
  Tables clumps(1000, kPrior);
  Tables apart(1000, kPrior);
  for (int i = 0; i < 200; ++i) {
    for (Tables* tables : {&clumps, &apart}) {
      tables->begin(0);
      tables->begin(1);
    }
  }
  clumps.close_epoch();
  apart.close_epoch();
  for (int i = 0; i < 100; ++i) clumps.reuse(0, 1);
  for (int i = 0; i < 10; ++i) clumps.reuse(1, 1);
  for (int i = 0; i < 100; ++i) {
    apart.reuse(0, 1);
    if (i % 10 == 0) apart.reuse(1, 1);
  }
  for (int i = 0; i < 10; ++i) apart.reuse(2, 1);
  clumps.close_epoch();
  apart.close_epoch();
  const auto contrast = [](const Tables& tables) {
    return static_cast<double>(tables.value(0, 1)) / static_cast<double>(tables.value(1, 1));
  };
  EXPECT_GT(contrast(apart), contrast(clumps));
  EXPECT_GT(contrast(clumps), 1.0);
}

TEST(LifeTables, ThePastFades) {
  Tables tables(1000, kPrior);
  run_loop(tables, 0, 2, 300);
  for (int i = 0; i < 2; ++i) {  // the last turns of the loop are lost sight of
    for (int k = 0; k < 20; ++k) tables.end(0, static_cast<unsigned>(i) + 1);
  }
  ASSERT_GT(tables.value(0, 2), tables.value(1, 2));
  for (int epoch = 0; epoch < 600; ++epoch) {
    for (int i = 0; i < 20; ++i) {
      tables.begin(0);
      if (epoch >= 2) tables.reuse(1, 2);
      tables.begin(1);
    }
    tables.close_epoch();
  }
  EXPECT_LT(tables.value(0, 2), tables.value(1, 2));
}

TEST(LifeTables, CountsTheSpellsThatAreOpenByAge) {
  Tables tables(1000, kPrior);
  tables.begin(0);
  tables.begin(0);
  tables.close_epoch();
  tables.begin(0);
  EXPECT_EQ(tables.open(0, 0), 1u);
  EXPECT_EQ(tables.open(0, 1), 2u);
  tables.end(0, 1);
  tables.reuse(0, 0);
  for (unsigned i = 0; i < 2 * kAges; ++i) tables.close_epoch();
  EXPECT_EQ(tables.open(0, kAges - 1), 1u) << "the last age is that old or older";
  tables.end(0, kAges - 1);
  tables.end(0, kAges - 1);
  EXPECT_EQ(tables.open(0, kAges - 1), 0u) << "what it has lost count of it does not count below 0";
}

TEST(LifeTables, StaysInRangeForTheLargestCache) {
  Tables tables((std::size_t{1} << 31) - 1, kPrior);
  for (int epoch = 0; epoch < 40; ++epoch) {
    for (int i = 0; i < 200000; ++i) tables.begin(0);
    for (int i = 0; i < 100000; ++i) tables.reuse(0, 0);
    tables.close_epoch();
  }
  for (unsigned age = 0; age < kAges; ++age) {
    EXPECT_GT(tables.value(0, age), 0u);
    EXPECT_LE(tables.value(0, age), std::uint64_t{1} << 31);
  }
  EXPECT_GT(tables.value(0, 0), tables.value(0, 5));
}

/// The same in floating point, from the definitions: every age looks at every time to stay.
class Reference {
 public:
  explicit Reference(double capacity) : capacity_(capacity) {}

  void begin(std::size_t kind) { ++open_[kind][0]; }
  void reuse(std::size_t kind, unsigned age) {
    --open_[kind][age];
    ++reused_[kind][age];
    ++reached_[kind][age];
    if (clump_.size != 0 && (clump_.kind != kind || clump_.age != age)) close_clump();
    clump_ = {kind, age, clump_.size + 1};
  }
  void close_epoch() {
    close_clump();
    sum_ *= 127.0 / 128;
    squares_ *= 127.0 / 128;
    for (std::size_t kind = 0; kind < kKinds; ++kind) {
      for (unsigned age = 0; age < kAges; ++age) {
        reused_[kind][age] *= 127.0 / 128;
        reached_[kind][age] = reached_[kind][age] * 127.0 / 128 + open_[kind][age];
      }
      for (unsigned age = kAges - 1; age-- > 0;) {
        open_[kind][age + 1] = open_[kind][age] + (age + 1 == kAges - 1 ? open_[kind][age + 1] : 0);
      }
      open_[kind][0] = 0;
    }
  }

  [[nodiscard]] double value(std::size_t kind, unsigned age) const {
    const double weight = 2 * std::max(1.0, std::floor(squares_ / std::max(1.0, sum_)));
    const auto chance = [&](double reused, double reached, double expected) {
      expected = std::clamp(expected, 0x1p-30, 1.0);
      return std::clamp((reused + weight) / (reached + weight / expected), 0x1p-30, 1.0);
    };
    std::array<double, kAges> reused{}, reached{}, of_all{}, hit{};
    double all_reused = weight, all_reached = weight * capacity_;
    for (unsigned a = 0; a < kAges; ++a) {
      for (std::size_t k = 0; k < kKinds; ++k) {
        reused[a] += reused_[k][a];
        reached[a] += reached_[k][a];
      }
      all_reused += reused[a];
      all_reached += reached[a] / (a + 1);
    }
    double kind_reused = weight, kind_expected = weight / kPrior[kind];
    for (unsigned a = 0; a < kAges; ++a) {
      of_all[a] = chance(reused[a], reached[a], all_reused / all_reached / (a + 1));
      kind_reused += reused_[kind][a];
      kind_expected += reached_[kind][a] * of_all[a];
    }
    const double factor = std::min(16.0, kind_reused / kind_expected);
    for (unsigned a = 0; a < kAges; ++a) {
      hit[a] = chance(reused_[kind][a], reached_[kind][a], of_all[a] * factor);
    }
    double best = 0, hits = 0, time = 0, survival = 1;
    for (unsigned a = age; a < kAges; ++a) {
      hits += survival * hit[a];
      time += survival * (1 - hit[a] / 2);
      survival *= 1 - hit[a];
      best = std::max(best, hits / time);
    }
    return best * 0x1p30;
  }

 private:
  struct Clump {
    std::size_t kind;
    unsigned age;
    double size;
  };
  void close_clump() {
    sum_ += clump_.size;
    squares_ += clump_.size * clump_.size;
    clump_ = {};
  }

  double capacity_;
  std::array<std::array<double, kAges>, kKinds> open_{}, reached_{}, reused_{};
  Clump clump_{};
  double sum_ = 0, squares_ = 0;
};

TEST(LifeTables, AgreesWithItsDefinitionInFloatingPoint) {
  for (unsigned seed = 1; seed <= 10; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937 random(seed);
    Tables tables(5000, kPrior);
    Reference reference(5000);
    std::array<std::array<int, kAges>, kKinds> open{};
    for (int epoch = 0; epoch < 150; ++epoch) {
      for (int i = 0; i < 60; ++i) {
        const std::size_t kind = random() % kKinds;
        const int count = 1 + static_cast<int>(random() % 5);
        for (int j = 0; j < count; ++j) {
          tables.begin(kind);
          reference.begin(kind);
          ++open[kind][0];
        }
        const auto age = static_cast<unsigned>(random() % (4 + 6 * kind));
        const int reuses = std::min(open[kind][age], static_cast<int>(random() % 8));
        for (int j = 0; j < reuses; ++j) {
          tables.reuse(kind, age);
          reference.reuse(kind, age);
          --open[kind][age];
        }
      }
      tables.close_epoch();
      reference.close_epoch();
      for (auto& ages : open) {
        ages[kAges - 1] += ages[kAges - 2];
        std::copy_backward(ages.begin(), ages.end() - 2, ages.end() - 1);
        ages[0] = 0;
      }
    }
    for (std::size_t kind = 0; kind < kKinds; ++kind) {
      for (unsigned age = 0; age < kAges; ++age) {
        const double expected = reference.value(kind, age);
        EXPECT_NEAR(static_cast<double>(tables.value(kind, age)), expected, expected * 0.01)
            << "kind " << kind << ", age " << age;
      }
    }
  }
}

}  // namespace
