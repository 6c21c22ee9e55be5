// BlockPool: pages of keys and values in host memory. What every pool has in common is in
// pool_contract_test.cpp.

#include "pagedkv/core/block_pool.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <set>
#include <utility>

#include "expect_error.hpp"

namespace {

using namespace pagedkv;
using pagedkv_test::expect_error;

constexpr auto kMax = static_cast<std::size_t>(-1);

TEST(BlockPool, KeepsItsDimensions) {
  const BlockPool pool(3, 16, 32, 8, 128, DType::bfloat16);
  EXPECT_EQ(pool.total_count(), 3u);
  EXPECT_EQ(pool.block_size(), 16u);
  EXPECT_EQ(pool.num_layers(), 32u);
  EXPECT_EQ(pool.num_kv_heads(), 8u);
  EXPECT_EQ(pool.head_dim(), 128u);
  EXPECT_EQ(pool.dtype(), DType::bfloat16);
  EXPECT_EQ(BlockPool(1, 1, 1, 1, 1).dtype(), DType::float32) << "unless told otherwise";
}

TEST(BlockPool, APageHoldsKeysAndValuesOfOneLayer) {
  BlockPool pool(2, 4, 7, 3, 5);
  const auto id = *pool.allocate();
  // [num_kv_heads, block_size, head_dim]: num_layers is for information and multiplies nothing.
  EXPECT_EQ(pool.keys(id).size(), 3u * 4 * 5 * sizeof(float));
  EXPECT_EQ(pool.values_as<float>(id).size(), 3u * 4 * 5);
}

TEST(BlockPool, EveryPageIsZeroedAtConstructionAndAligned) {
  BlockPool pool(5, 3, 1, 1, 7);
  std::set<const void*> starts;
  while (const auto id = pool.allocate()) {
    for (const auto half : {pool.keys(*id), pool.values(*id)}) {
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(half.data()) % 64, 0u);
      EXPECT_TRUE(std::ranges::all_of(half, [](std::byte byte) { return byte == std::byte{0}; }));
      starts.insert(half.data());
    }
  }
  EXPECT_EQ(starts.size(), 10u);
}

TEST(BlockPool, PagesAreWritableAndDoNotOverlap) {
  BlockPool pool(3, 2, 1, 2, 3);
  float next = 0;
  while (const auto id = pool.allocate()) {
    for (auto& key : pool.keys_as<float>(*id)) key = next++;
    for (auto& value : pool.values_as<float>(*id)) value = next++;
  }
  next = 0;
  for (BlockId id = 0; id < 3; ++id) {
    for (const auto key : pool.keys_as<float>(id)) EXPECT_EQ(key, next++);
    for (const auto value : pool.values_as<float>(id)) EXPECT_EQ(value, next++);
  }
}

TEST(BlockPool, AllocateGivesNothingWhenExhausted) {
  BlockPool pool(1, 1, 1, 1, 1);
  EXPECT_TRUE(pool.allocate());
  EXPECT_FALSE(pool.allocate());
}

TEST(BlockPool, FreeKeepsTheContents) {
  BlockPool pool(1, 1, 1, 1, 1);
  pool.keys_as<float>(*pool.allocate())[0] = 3.5f;
  pool.free(0);
  EXPECT_EQ(pool.keys_as<float>(*pool.allocate())[0], 3.5f);
}

TEST(BlockPool, UtilizationIsTheShareInUse) {
  BlockPool pool(4, 1, 1, 1, 1);
  EXPECT_EQ(pool.utilization(), 0.0);
  (void)pool.allocate();
  EXPECT_EQ(pool.utilization(), 0.25);
  while (pool.allocate()) {
  }
  EXPECT_EQ(pool.utilization(), 1.0);
  EXPECT_EQ(BlockPool(0, 1, 1, 1, 1).utilization(), 0.0) << "at capacity 0";
}

TEST(BlockPool, APageThatIsNotLiveCannotBeSeen) {
  BlockPool pool(2, 1, 1, 1, 1);
  (void)pool.allocate();
  const auto seen = [&](BlockId id) { return [&pool, id] { (void)pool.keys(id); }; };
  EXPECT_EQ(
      expect_error<InvalidSlotError>(seen(1), "BlockPool.keys", "page id 1 is not live", "held")
          .slot(),
      1u);
  expect_error<InvalidSlotError>(seen(2), "BlockPool.keys", "page id 2 is out of range",
                                 "less than 2");
  expect_error<InvalidSlotError>([&] { (void)pool.values(1); }, "BlockPool.values",
                                 "page id 1 is not live", "held");
  pool.free(0);
  EXPECT_THROW((void)pool.keys_as<float>(0), InvalidSlotError) << "given back";
}

TEST(BlockPool, FreeNamesItselfInItsErrors) {
  BlockPool pool(2, 1, 1, 1, 1);
  expect_error<InvalidSlotError>([&] { pool.free(0); }, "BlockPool.free", "page id 0 is not live",
                                 "held");
  expect_error<InvalidSlotError>([&] { pool.free(7); }, "BlockPool.free",
                                 "page id 7 is out of range", "less than 2");
}

TEST(BlockPool, RefusesToShowAPageAsAnotherType) {
  BlockPool pool(1, 1, 1, 1, 1, DType::float16);
  const auto id = *pool.allocate();
  EXPECT_EQ(pool.keys_as<std::uint16_t>(id).size(), 1u);
  expect_error<ShapeError>([&] { (void)pool.keys_as<float>(id); }, "BlockPool.keys_as",
                           "does not hold float16", "one that does");
  expect_error<ShapeError>([&] { (void)pool.values_as<double>(id); }, "BlockPool.values_as",
                           "does not hold float16", "one that does");
}

TEST(BlockPool, ADimensionOfZeroIsAShapeError) {
  const auto expect_refused = [](const char* dimension, std::size_t block_size,
                                 std::size_t num_layers, std::size_t num_kv_heads,
                                 std::size_t head_dim) {
    expect_error<ShapeError>(
        [&] { BlockPool pool(2, block_size, num_layers, num_kv_heads, head_dim); }, "BlockPool",
        std::string(dimension) + " is 0", "at least 1");
  };
  expect_refused("block_size", 0, 1, 1, 1);
  expect_refused("num_layers", 1, 0, 1, 1);
  expect_refused("num_kv_heads", 1, 1, 0, 1);
  expect_refused("head_dim", 1, 1, 1, 0);
}

TEST(BlockPool, DimensionsThatOverflowAreAShapeError) {
  EXPECT_THROW(BlockPool(1, kMax, 1, kMax, 1), ShapeError);
  EXPECT_THROW(BlockPool(1, kMax / 8, 1, 1, 1), ShapeError) << "only in bytes";
  EXPECT_THROW(BlockPool(1 << 20, kMax >> 20, 1, 1, 1), ShapeError) << "only in all pages";
  expect_error<ShapeError>([] { BlockPool pool(0, kMax, 1, 1, 1); }, "BlockPool", "a size beyond",
                           "an array can have");
}

TEST(BlockPool, TooManyPagesAreACapacityError) {
  EXPECT_THROW(BlockPool(BlockAllocator::kMaxCapacity + 1, 1, 1, 1, 1), CapacityError);
}

TEST(BlockPool, HoldsWholeBytesOfInt4) {
  BlockPool pool(1, 4, 1, 1, 2, DType::int4);
  EXPECT_EQ(pool.keys(*pool.allocate()).size(), 4u);
  EXPECT_THROW(BlockPool(1, 2, 1, 1, 3, DType::int4), ShapeError) << "a row ends inside a byte";
}

TEST(BlockPool, MovesWithItsPages) {
  BlockPool from(1, 1, 1, 1, 1);
  from.keys_as<float>(*from.allocate())[0] = 2.0f;
  BlockPool to(std::move(from));
  EXPECT_EQ(to.keys_as<float>(0)[0], 2.0f);
  EXPECT_EQ(from.total_count(), 0u);  // NOLINT(bugprone-use-after-move): that is the question
  EXPECT_THROW((void)from.keys(0), InvalidSlotError);
}

}  // namespace
