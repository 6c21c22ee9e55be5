// copy_blocks, move_slots and swap_blocks: each does as if one pair came after the other.

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "../expect_error.hpp"
#include "ops_caches.hpp"
#include "pagedkv/cpu/copy_blocks.hpp"

namespace {

using namespace pagedkv;
using namespace pagedkv::cpu;
using namespace pagedkv_test;

using Pairs = std::vector<IndexPair>;

/// Does the pieces of work in the order that threads might, but nobody would choose.
struct LastFirst {
  [[nodiscard]] static unsigned size() { return 2; }
  template <class Task>
  void run(std::int64_t count, Task&& task, unsigned = 1) const {
    while (count-- > 0) task(count, 0U);
  }
};

/// What a cache holds, by slot and head.
class Model {
 public:
  explicit Model(const TestCache& cache) : cache_(cache) {
    for (std::int64_t slot = 0; slot < cache.view.num_blocks * cache.view.block_size; ++slot) {
      rows_.push_back(read(slot));
    }
  }
  void move(std::int64_t from, std::int64_t to) { at(to) = at(from); }
  void copy_block(std::int64_t from, std::int64_t to) {
    for (std::int64_t i = 0; i < cache_.view.block_size; ++i) {
      move(from * cache_.view.block_size + i, to * cache_.view.block_size + i);
    }
  }
  void put(std::int64_t to, const Model& other, std::int64_t from) { at(to) = other.at(from); }
  void expect_held() const {
    for (std::size_t slot = 0; slot < rows_.size(); ++slot) {
      ASSERT_EQ(rows_[slot], read(static_cast<std::int64_t>(slot))) << "slot " << slot;
    }
  }

 private:
  [[nodiscard]] std::vector<std::byte> read(std::int64_t slot) const {
    std::vector<std::byte> bytes;
    for (std::int64_t head = 0; head < cache_.view.num_heads; ++head) {
      const std::byte* row = cache_.row(slot, head);
      bytes.insert(bytes.end(), row, row + cache_.view.row_bytes());
    }
    return bytes;
  }
  std::vector<std::byte>& at(std::int64_t slot) { return rows_[static_cast<std::size_t>(slot)]; }
  [[nodiscard]] const std::vector<std::byte>& at(std::int64_t slot) const {
    return rows_[static_cast<std::size_t>(slot)];
  }

  const TestCache& cache_;
  std::vector<std::vector<std::byte>> rows_;
};

Pairs random_pairs(std::int64_t count, std::int64_t end, std::mt19937_64& random) {
  Pairs pairs;
  const auto index = [&] {
    return static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(end));
  };
  for (std::int64_t i = 0; i < count; ++i) pairs.push_back({index(), index()});
  return pairs;
}

/// Pairs of which none needs another.
Pairs apart_pairs(std::int64_t end, std::mt19937_64& random) {
  const auto ids = random_slots(end, end, random);
  Pairs pairs;
  for (std::size_t i = 0; i + 1 < ids.size(); i += 2) pairs.push_back({ids[i], ids[i + 1]});
  return pairs;
}

struct Caches {
  Caches(std::mt19937_64& random, std::int64_t blocks, std::int64_t block_size, bool mixed = true) {
    for (const DType dtype : kCacheDTypes) {
      all.emplace_back(dtype, blocks, 3, block_size, mixed ? 40 : 512,
                       all.size() % 2 == 0 ? Layout::hnd : Layout::nhd, Values::any_bits, random);
    }
    all.emplace_back(DType::float32, blocks, 3, block_size, 1, Layout::hnd, Values::ordinary,
                     random);  // scales
    for (const TestCache& cache : all) {
      views.push_back(cache.view);
      models.emplace_back(cache);
    }
  }
  std::vector<TestCache> all;
  std::vector<CacheView> views;
  std::vector<Model> models;
};

class Copies : public testing::TestWithParam<std::tuple<std::int64_t, unsigned>> {};

TEST_P(Copies, OfBlocksAreDoneInOrderInEachCache) {
  const auto [block_size, threads] = GetParam();
  std::mt19937_64 random(1);
  ThreadPool executor(threads);
  for (const bool apart : {true, false}) {
    Caches caches(random, 9, block_size);
    const Pairs pairs = apart ? apart_pairs(9, random) : random_pairs(30, 9, random);
    copy_blocks(caches.views, pairs, executor);
    for (Model& model : caches.models) {
      for (const IndexPair& pair : pairs) model.copy_block(pair.from, pair.to);
      model.expect_held();
    }
  }
}

TEST_P(Copies, OfSlotsAreDoneInOrderInEachCache) {
  const auto [block_size, threads] = GetParam();
  std::mt19937_64 random(2);
  ThreadPool executor(threads);
  for (const bool apart : {true, false}) {
    Caches caches(random, 5, block_size);
    const std::int64_t slots = 5 * block_size;
    const Pairs pairs = apart ? apart_pairs(slots, random) : random_pairs(40, slots, random);
    move_slots(caches.views, pairs, executor);
    for (Model& model : caches.models) {
      for (const IndexPair& pair : pairs) model.move(pair.from, pair.to);
      model.expect_held();
    }
  }
}

TEST_P(Copies, ToAnotherCacheLeaveTheFirstAsItWas) {
  const auto [block_size, threads] = GetParam();
  std::mt19937_64 random(3);
  ThreadPool executor(threads);
  for (const DType dtype : kCacheDTypes) {
    for (const bool apart : {true, false}) {
      TestCache source(dtype, 9, 2, block_size, 40, Layout::hnd, Values::any_bits, random);
      TestCache target(dtype, 6, 2, block_size, 40, Layout::nhd, Values::any_bits, random);
      const Model before(source);
      Model model(target);
      Pairs pairs = random_pairs(apart ? 3 : 12, 6, random);
      if (apart) pairs[0].to = 0, pairs[1].to = 3, pairs[2].to = 5;
      pairs[0].from = 8;
      swap_blocks(source.view, target.view, pairs, executor);
      for (const IndexPair& pair : pairs) {
        for (std::int64_t i = 0; i < block_size; ++i) {
          model.put(pair.to * block_size + i, before, pair.from * block_size + i);
        }
      }
      model.expect_held();
      EXPECT_TRUE(source.unchanged());
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, Copies,
                         testing::Combine(testing::Values(1, 8, 16, 256), testing::Values(1U, 3U)),
                         [](const auto& i) {
                           return "blocks_of_" + std::to_string(std::get<0>(i.param)) +
                                  "_threads_" + std::to_string(std::get<1>(i.param));
                         });

TEST(CopyBlocks, OfMoreThanTheCachesHoldAreTheSame) {
  std::mt19937_64 random(4);
  TestCache cache(DType::float32, 520, 8, 16, 128, Layout::hnd, Values::any_bits, random);
  Model model(cache);
  const Pairs pairs = apart_pairs(520, random);
  ThreadPool executor(3);
  copy_blocks(std::span(&cache.view, 1), pairs, executor);
  for (const IndexPair& pair : pairs) model.copy_block(pair.from, pair.to);
  model.expect_held();
}

TEST(CopyBlocks, ThatNeedOneAnotherAreDoneOneAfterTheOther) {
  std::mt19937_64 random(8);
  // Blocks of half a MiB: each pair is a piece of work of its own.
  TestCache cache(DType::float32, 12, 8, 128, 128, Layout::hnd, Values::any_bits, random);
  Model model(cache);
  Pairs pairs;
  for (std::int64_t i = 0; i + 1 < 12; ++i) pairs.push_back({i, i + 1});
  pairs.push_back({3, 0});
  LastFirst executor;
  for (int round = 0; round < 3; ++round) {
    copy_blocks(std::span(&cache.view, 1), pairs, executor);
    for (const IndexPair& pair : pairs) model.copy_block(pair.from, pair.to);
    model.expect_held();
    std::swap(pairs[0], pairs[6]);
  }
}

TEST(CopyBlocks, ToAnotherCacheOverTheSameBlockLeaveTheLast) {
  std::mt19937_64 random(9);
  TestCache source(DType::float32, 8, 8, 128, 128, Layout::hnd, Values::any_bits, random);
  TestCache target(DType::float32, 2, 8, 128, 128, Layout::hnd, Values::any_bits, random);
  const Model before(source);
  Model model(target);
  Pairs pairs;
  for (std::int64_t i = 0; i < 8; ++i) pairs.push_back({i, 1});
  LastFirst executor;
  swap_blocks(source.view, target.view, pairs, executor);
  for (std::int64_t i = 0; i < 128; ++i) model.put(128 + i, before, 7 * 128 + i);
  model.expect_held();
}

TEST(CopyBlocks, OfNothingDoNothing) {
  std::mt19937_64 random(5);
  TestCache cache(DType::float32, 2, 1, 4, 8, Layout::hnd, Values::any_bits, random);
  SerialExecutor executor;
  const Pairs self{{1, 1}};
  copy_blocks({}, self, executor);
  copy_blocks(std::span(&cache.view, 1), {}, executor);
  copy_blocks(std::span(&cache.view, 1), self, executor);
  move_slots(std::span(&cache.view, 1), self, executor);
  EXPECT_TRUE(cache.unchanged());
}

class CopyErrors : public testing::Test {
 protected:
  std::mt19937_64 random{6};
  TestCache a{DType::float32, 4, 2, 4, 8, Layout::hnd, Values::any_bits, random};
  TestCache b{DType::float32, 3, 2, 4, 8, Layout::hnd, Values::any_bits, random};
  std::vector<CacheView> both{a.view, b.view};
  SerialExecutor executor;

  void expect_unchanged() const { EXPECT_TRUE(a.unchanged() && b.unchanged()); }
};

TEST_F(CopyErrors, ABlockThatOneCacheDoesNotHaveIsRefused) {
  for (const IndexPair bad :
       {IndexPair{3, 0}, IndexPair{0, 3}, IndexPair{-1, 0}, IndexPair{0, -1}}) {
    const Pairs pairs{{0, 1}, bad};
    const std::int64_t id = bad.from == 0 ? bad.to : bad.from;
    expect_error<InvalidSlotError>([&] { copy_blocks(both, pairs, executor); }, "cpu.copy_blocks",
                                   "block " + std::to_string(id) + " at 1", "0 to ");
    expect_unchanged();
  }
}

TEST_F(CopyErrors, ASlotThatOneCacheDoesNotHaveIsRefused) {
  const Pairs pairs{{0, 1}, {15, 12}};
  expect_error<InvalidSlotError>([&] { move_slots(both, pairs, executor); }, "cpu.move_slots",
                                 "slot 15 at 1", "0 to 11");
  expect_unchanged();
}

TEST_F(CopyErrors, BlocksOfEitherCacheAreChecked) {
  Pairs pairs{{3, 2}, {0, 3}};
  expect_error<InvalidSlotError>([&] { swap_blocks(a.view, b.view, pairs, executor); },
                                 "cpu.swap_blocks", "block 3 at 1", "0 to 2");
  pairs[1] = {4, 0};
  expect_error<InvalidSlotError>([&] { swap_blocks(a.view, b.view, pairs, executor); },
                                 "cpu.swap_blocks", "block 4 at 1", "0 to 3");
  expect_unchanged();
}

TEST_F(CopyErrors, CachesThatDifferWhereTheyMustNotAreRefused) {
  const Pairs pairs{{0, 1}};
  CacheView other = b.view;
  other.block_size = 2;
  const CacheView mixed[] = {a.view, other};
  expect_error<ShapeError>([&] { move_slots(mixed, pairs, executor); }, "cpu.move_slots",
                           "caches of 4 and 2 slots a block", "the same");
  expect_error<ShapeError>([&] { swap_blocks(a.view, other, pairs, executor); }, "cpu.swap_blocks",
                           "source [4, 2, 4, 8] of float32 and target [3, 2, 2, 8]", "the same");
  other = b.view;
  other.dtype = DType::int32;
  expect_error<ShapeError>([&] { swap_blocks(a.view, other, pairs, executor); }, "cpu.swap_blocks",
                           "target [3, 2, 4, 8] of int32", "the same");
  expect_unchanged();
}

TEST_F(CopyErrors, MemoryThatIsSharedIsRefused) {
  const Pairs pairs{{0, 1}};
  const CacheView twice[] = {a.view, b.view, a.view};
  expect_error<ShapeError>([&] { copy_blocks(twice, pairs, executor); }, "cpu.copy_blocks",
                           "a cache shares memory with another one", "apart");
  expect_error<ShapeError>([&] { swap_blocks(a.view, a.view, pairs, executor); }, "cpu.swap_blocks",
                           "target shares memory with source", "apart");
  expect_unchanged();
}

}  // namespace
