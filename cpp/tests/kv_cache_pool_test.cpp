// KvCachePool: slabs of values. What every pool has in common is in pool_contract_test.cpp.

#include "pagedkv/core/kv_cache_pool.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <utility>

#include "expect_error.hpp"

namespace {

using namespace pagedkv;
using pagedkv_test::expect_error;

constexpr auto kMax = static_cast<std::size_t>(-1);

TEST(KvCachePool, APageIsASlabOfValues) {
  KvCachePool pool(20, 3);
  EXPECT_EQ(pool.page_size(), 20u);
  EXPECT_EQ(pool.num_pages(), 3u);
  EXPECT_EQ(pool.dtype(), DType::float32) << "unless told otherwise";
  const auto page = pool.alloc();
  EXPECT_EQ(pool.page(page).size(), 20 * sizeof(float));
  EXPECT_EQ(pool.page_as<float>(page).size(), 20u);
}

TEST(KvCachePool, PagesAreZeroedAlignedAndDoNotOverlap) {
  KvCachePool pool(17, 3);
  for (float i = 0; i < 3; ++i) {
    const auto page = pool.page_as<float>(pool.alloc());
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(page.data()) % 64, 0u);
    for (auto& value : page) {
      EXPECT_EQ(value, 0.0f);
      value = i;
    }
  }
  for (std::size_t page = 0; page < 3; ++page) {
    for (const float value : pool.page_as<float>(page)) EXPECT_EQ(value, static_cast<float>(page));
  }
}

TEST(KvCachePool, FreeKeepsTheContents) {
  KvCachePool pool(1, 1);
  pool.page_as<float>(pool.alloc())[0] = 2.5f;
  pool.free(0);
  EXPECT_EQ(pool.page_as<float>(pool.alloc())[0], 2.5f);
}

TEST(KvCachePool, CountsFreeAndUsedPages) {
  KvCachePool pool(1, 3);
  (void)pool.alloc();
  EXPECT_EQ(pool.free_count(), 2u);
  EXPECT_EQ(pool.used_count(), 1u);
}

TEST(KvCachePool, APageThatIsNotLiveCannotBeSeen) {
  KvCachePool pool(1, 2);
  EXPECT_EQ(expect_error<InvalidSlotError>([&] { (void)pool.page(0); }, "KvCachePool.page",
                                           "page 0 is not live", "held")
                .slot(),
            0u);
  expect_error<InvalidSlotError>([&] { (void)pool.page(2); }, "KvCachePool.page",
                                 "page 2 is out of range", "less than 2");
  pool.free(pool.alloc());
  EXPECT_THROW((void)pool.page_as<float>(0), InvalidSlotError) << "given back";
}

TEST(KvCachePool, ErrorsNameTheCall) {
  KvCachePool pool(1, 1);
  expect_error<InvalidSlotError>([&] { pool.free(0); }, "KvCachePool.free", "page 0 is not live",
                                 "held");
  expect_error<InvalidSlotError>([&] { pool.free(1); }, "KvCachePool.free",
                                 "page 1 is out of range", "less than 1");
  (void)pool.alloc();
  expect_error<PoolExhaustedError>([&] { (void)pool.alloc(); }, "KvCachePool.alloc",
                                   "1 needed, 0 free", "as many free");
}

TEST(KvCachePool, APageNumberIsNotCutDownTo32Bits) {
  KvCachePool pool(1, 1);
  (void)pool.alloc();
  EXPECT_THROW(pool.free(std::size_t{1} << 32), InvalidSlotError);
  EXPECT_THROW((void)pool.page(std::size_t{1} << 32), InvalidSlotError);
  EXPECT_EQ(pool.used_count(), 1u);
}

TEST(KvCachePool, RefusesToShowAPageAsAnotherType) {
  KvCachePool pool(2, 1, DType::float64);
  const auto page = pool.alloc();
  EXPECT_EQ(pool.page_as<double>(page).size(), 2u);
  expect_error<ShapeError>([&] { (void)pool.page_as<float>(page); }, "KvCachePool.page_as",
                           "does not hold float64", "one that does");
}

TEST(KvCachePool, APageSizeOfZeroIsAShapeError) {
  expect_error<ShapeError>([] { KvCachePool pool(0, 1); }, "KvCachePool", "page_size is 0",
                           "at least 1");
}

TEST(KvCachePool, SizesThatOverflowAreErrors) {
  EXPECT_THROW(KvCachePool(kMax, 1), ShapeError);
  EXPECT_THROW(KvCachePool(kMax / 4 - 15, 1), ShapeError) << "a multiple of the alignment";
  EXPECT_THROW(KvCachePool(kMax >> 20, 1 << 20), ShapeError);
  EXPECT_THROW(KvCachePool(1, BlockAllocator::kMaxCapacity + 1), CapacityError);
  EXPECT_THROW(KvCachePool(3, 1, DType::int4), ShapeError);
}

TEST(KvCachePool, MovesWithItsPages) {
  KvCachePool from(1, 1);
  from.page_as<float>(from.alloc())[0] = 2.0f;
  KvCachePool to(std::move(from));
  EXPECT_EQ(to.page_as<float>(0)[0], 2.0f);
  EXPECT_EQ(from.num_pages(), 0u);  // NOLINT(bugprone-use-after-move): that is the question
  EXPECT_THROW((void)from.page(0), InvalidSlotError);
}

}  // namespace
