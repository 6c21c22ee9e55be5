// KvCache: many sequences on one pool, and what a failing device leaves of them.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "pagedkv/core/kv_cache.hpp"
#include "recording_backend.hpp"

namespace {

using namespace pagedkv;
using pagedkv_test::DeviceError;
using pagedkv_test::RecordingBackend;
using pagedkv_test::Tape;
using Cache = KvCache<RecordingBackend>;
using Floats = std::vector<float>;

constexpr std::size_t kBlockSize = 4;
constexpr std::size_t kPool = 12;

class SharedPool : public testing::Test {
 protected:
  void append(Cache& cache, std::size_t n, float start) {
    Floats k(2 * n);
    Floats v(2 * n);
    for (std::size_t i = 0; i < 2 * n; ++i) {
      k[i] = start + static_cast<float>(i);
      v[i] = -k[i];
    }
    cache.append<float>(k, v);
  }

  static Floats keys(const Cache& cache) {
    Floats k(2 * cache.len());
    Floats v(2 * cache.len());
    cache.to_dense<float>(k, v);
    for (std::size_t i = 0; i < k.size(); ++i) EXPECT_EQ(v[i], -k[i]);
    return k;
  }

  static Floats counting(std::size_t n, float start) {
    Floats values(2 * n);
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = start + static_cast<float>(i);
    return values;
  }

  /// The device's table must be the host's mirror, padded with -1, and its length the cache's.
  static void expect_device_in_step(const Cache& cache) {
    const auto table = cache.block_table()->as<std::int32_t>();
    std::vector<std::int32_t> expected(table.size(), kNoBlock);
    std::ranges::copy(cache.paged_block_indices(), expected.begin());
    EXPECT_TRUE(std::ranges::equal(table, expected));
    EXPECT_EQ(cache.context_lens()->as<std::int32_t>()[0], static_cast<std::int32_t>(cache.len()));
  }

  Tape tape;
  RecordingBackend::Context ctx{&tape};
  std::shared_ptr<BlockAllocator> alloc = std::make_shared<BlockAllocator>(kPool);
  Cache first = Cache::paged(kPool, 1, 2, kBlockSize, 6, alloc, DType::float32, {&tape});
};

TEST_F(SharedPool, AnotherCacheStartsEmptyOverTheSamePool) {
  append(first, 5, 0);
  auto second = first.share();
  EXPECT_EQ(second.len(), 0u);
  EXPECT_EQ(second.capacity(), first.capacity());
  EXPECT_EQ(second.block_size(), first.block_size());
  EXPECT_EQ(second.allocator(), alloc);
  EXPECT_EQ(&second.k(), &first.k()) << "one pool of keys";
  EXPECT_EQ(&second.v(), &first.v());
  EXPECT_NE(second.block_table(), first.block_table()) << "but a table of its own";
  EXPECT_NE(second.context_lens(), first.context_lens());
}

TEST_F(SharedPool, SequencesThatGrowInTurnKeepTheirOwnTokens) {
  auto second = first.share();
  auto third = second.share();
  for (float token = 0; token < 9; ++token) {
    append(first, 1, 2 * token);
    append(second, 1, 1000 + 2 * token);
    append(third, 1, 2000 + 2 * token);
  }
  EXPECT_EQ(keys(first), counting(9, 0));
  EXPECT_EQ(keys(second), counting(9, 1000));
  EXPECT_EQ(keys(third), counting(9, 2000));
  std::set<BlockId> ids;
  for (const auto* cache : {&first, &second, &third}) {
    ids.insert(cache->paged_block_indices().begin(), cache->paged_block_indices().end());
    expect_device_in_step(*cache);
  }
  EXPECT_EQ(ids.size(), 9u) << "no block belongs to two of them";
}

TEST_F(SharedPool, ReleaseGivesBlocksToTheOthers) {
  auto second = first.share();
  append(first, 24, 0);
  append(second, 24, 1000);
  auto third = first.share();
  EXPECT_THROW(append(third, 1, 0), PoolExhaustedError);
  first.release();
  append(third, 24, 3000);
  EXPECT_EQ(keys(second), counting(24, 1000));
  EXPECT_EQ(keys(third), counting(24, 3000));
  expect_device_in_step(third);
}

TEST_F(SharedPool, ACacheGivesItsBlocksBackAtTheEndOfItsLife) {
  {
    auto second = first.share();
    append(second, 9, 0);
    EXPECT_EQ(alloc->in_use(), 3u);
  }
  EXPECT_EQ(alloc->in_use(), 0u);
  auto second = first.share();
  append(second, 9, 0);
  second = first.share();
  EXPECT_EQ(alloc->in_use(), 0u) << "and when another takes its place";
}

TEST_F(SharedPool, APoolLivesAsLongAsOneOfItsCaches) {
  std::optional<Cache> second = first.share();
  append(*second, 3, 7);
  first = Cache::contiguous(1, 1, 2);
  EXPECT_EQ(keys(*second), counting(3, 7));
}

TEST_F(SharedPool, ACacheWhoseBlocksWereFreedBehindItsBackStillEnds) {
  auto second = first.share();
  append(second, 5, 0);
  alloc->free(second.paged_block_indices());
  EXPECT_THROW(second.release(), InvalidSlotError);
  // Its end must not throw; the blocks are no longer its to give back.
  static_cast<void>(Cache(std::move(second)));
  EXPECT_EQ(alloc->in_use(), 0u);
}

TEST_F(SharedPool, ExhaustionLeavesTheCacheAsItWas) {
  auto second = first.share();
  append(first, 24, 0);
  append(second, 17, 1000);
  const auto blocks = second.paged_block_indices().size();
  auto third = first.share();
  append(third, 1, 0);
  tape.clear();
  EXPECT_THROW(append(third, 8, 5), PoolExhaustedError);
  EXPECT_EQ(tape.device_writes(), 0u);
  EXPECT_EQ(third.len(), 1u);
  EXPECT_EQ(third.paged_block_indices().size(), 1u);
  EXPECT_EQ(second.paged_block_indices().size(), blocks);
  expect_device_in_step(third);
}

TEST_F(SharedPool, AppendWithinAHeldBlockTakesNoneAndLeavesTheTableAlone) {
  append(first, 1, 0);
  tape.clear();
  append(first, 3, 2);
  EXPECT_EQ(alloc->in_use(), 1u);
  ASSERT_EQ(tape.writes.size(), 1u) << "the length alone";
  EXPECT_EQ(tape.writes[0].buffer, first.context_lens()->bytes().data());
}

TEST_F(SharedPool, AppendOfNothingWritesNothing) {
  append(first, 3, 0);
  tape.clear();
  append(first, 0, 0);
  EXPECT_EQ(tape.device_writes(), 0u);
}

TEST_F(SharedPool, AnAppendThatFailsAtAnyDeviceCallLeavesCacheAndAllocatorAsTheyWere) {
  for (const bool torn : {false, true}) {
    for (std::size_t call = 0;; ++call) {
      ASSERT_LT(call, 100u);
      first.release();
      append(first, 3, 0);
      append(first, 3, 6);
      const std::vector<BlockId> blocks(first.paged_block_indices().begin(),
                                        first.paged_block_indices().end());
      tape.calls_until_failure = call;
      tape.torn = torn;
      try {
        append(first, 9, 50);
      } catch (const DeviceError&) {
        EXPECT_EQ(first.len(), 6u) << "call " << call;
        EXPECT_TRUE(std::ranges::equal(first.paged_block_indices(), blocks));
        EXPECT_EQ(alloc->in_use(), 2u);
        EXPECT_EQ(keys(first), counting(6, 0));
        append(first, 1, 12);  // the next call repairs what the failed one left
        EXPECT_EQ(keys(first), counting(7, 0));
        expect_device_in_step(first);
        continue;
      }
      EXPECT_GT(call, 5u) << "a table, keys, values, a length";
      tape.clear();
      break;
    }
  }
}

TEST_F(SharedPool, AContiguousCacheIsAllOrNothingToo) {
  auto cache = Cache::contiguous(8, 1, 2, DType::float32, {&tape});
  append(cache, 2, 0);
  for (const std::size_t call : {0u, 1u}) {
    tape.calls_until_failure = call;
    EXPECT_THROW(append(cache, 3, 9), DeviceError);
    EXPECT_EQ(keys(cache), counting(2, 0));
  }
  append(cache, 3, 4);
  EXPECT_EQ(keys(cache), counting(5, 0));
}

TEST_F(SharedPool, AFailedTruncateIsShorterAllTheSame) {
  append(first, 9, 0);
  tape.calls_until_failure = 0;
  EXPECT_THROW(first.truncate(ctx, 2), DeviceError);
  EXPECT_EQ(first.len(), 2u);
  EXPECT_EQ(alloc->in_use(), 1u);
  append(first, 0, 0);
  expect_device_in_step(first);
}

TEST_F(SharedPool, ConstructionThatFailsOnTheDeviceIsTheDevicesError) {
  for (std::size_t call = 0; call < 4; ++call) {  // keys, values, table, length
    tape.calls_until_failure = call;
    EXPECT_THROW((void)Cache::paged(kPool, 1, 1, 1, 4, alloc, DType::float32, {&tape}),
                 DeviceError);
  }
  for (std::size_t call = 0; call < 2; ++call) {
    tape.calls_until_failure = call;
    EXPECT_THROW((void)first.share(), DeviceError);
  }
  EXPECT_EQ(alloc->in_use(), 0u);
  EXPECT_EQ(alloc.use_count(), 2) << "the first cache's and this test's";
}

TEST_F(SharedPool, ReserveHoldsBlocksThatAppendThenFills) {
  first.reserve(ctx, 10);
  EXPECT_EQ(alloc->in_use(), 3u);
  auto second = first.share();
  append(second, 24, 0);
  append(first, 10, 0);
  EXPECT_EQ(alloc->in_use(), 9u) << "nothing more was taken";
  EXPECT_EQ(keys(first), counting(10, 0));
}

}  // namespace
