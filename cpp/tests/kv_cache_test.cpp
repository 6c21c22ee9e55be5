// KvCache: both layouts, append and to_dense, limits.

#include "pagedkv/core/kv_cache.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "expect_error.hpp"
#include "pagedkv/cpu/backend.hpp"

namespace {

using namespace pagedkv;
using pagedkv_test::expect_error;
using Cache = KvCache<CpuBackend>;
using Floats = std::vector<float>;

constexpr std::size_t kHeads = 2;
constexpr std::size_t kDim = 3;
constexpr std::size_t kBlockSize = 4;
constexpr auto kMax = static_cast<std::size_t>(-1);

std::shared_ptr<BlockAllocator> ids(std::size_t capacity) {
  return std::make_shared<BlockAllocator>(capacity);
}

Cache paged(std::size_t num_blocks = 8, std::size_t max_blocks = 4) {
  return Cache::paged(num_blocks, kHeads, kDim, kBlockSize, max_blocks, ids(num_blocks));
}
Cache contiguous(std::size_t capacity = 16) { return Cache::contiguous(capacity, kHeads, kDim); }

/// `n` tokens of values from `first` on.
Floats tokens(std::size_t n, float first) {
  Floats values(n * kHeads * kDim);
  std::iota(values.begin(), values.end(), first);
  return values;
}

void append(Cache& cache, std::size_t n, float first) {
  cache.append<float>(tokens(n, first), tokens(n, -first));
}

std::pair<Floats, Floats> dense(const Cache& cache) {
  const std::size_t size = cache.len() * kHeads * kDim;
  std::pair<Floats, Floats> out{Floats(size), Floats(size)};
  cache.to_dense<float>(out.first, out.second);
  return out;
}

TEST(ContiguousKvCache, HasNoBlocksAndNoTables) {
  const auto cache = contiguous();
  EXPECT_EQ(cache.block_size(), 0u);
  EXPECT_EQ(cache.num_blocks(), 0u);
  EXPECT_EQ(cache.block_table(), nullptr);
  EXPECT_EQ(cache.context_lens(), nullptr);
  EXPECT_TRUE(cache.paged_block_indices().empty());
  EXPECT_EQ(cache.allocator(), nullptr);
  EXPECT_EQ(cache.len(), 0u);
  EXPECT_EQ(cache.capacity(), 16u);
  EXPECT_EQ(cache.num_kv_heads(), kHeads);
  EXPECT_EQ(cache.head_dim(), kDim);
  EXPECT_EQ(cache.dtype(), DType::float32) << "unless told otherwise";
  EXPECT_EQ(cache.k().size(), kHeads * 16 * kDim);
  EXPECT_EQ(cache.v().size(), kHeads * 16 * kDim);
}

TEST(ContiguousKvCache, LiesAsHeadsCapacityDim) {
  auto cache = contiguous(4);
  append(cache, 3, 0);
  const auto k = cache.k().as<float>();
  const auto given = tokens(3, 0);
  for (std::size_t token = 0; token < 3; ++token) {
    for (std::size_t head = 0; head < kHeads; ++head) {
      for (std::size_t i = 0; i < kDim; ++i) {
        EXPECT_EQ(k[(head * 4 + token) * kDim + i], given[(token * kHeads + head) * kDim + i]);
      }
    }
  }
}

TEST(PagedLayoutKvCache, HasPoolsATableAndAHostMirror) {
  auto cache = paged();
  EXPECT_EQ(cache.block_size(), kBlockSize);
  EXPECT_EQ(cache.num_blocks(), 8u);
  EXPECT_EQ(cache.capacity(), 4 * kBlockSize);
  EXPECT_EQ(cache.k().size(), 8 * kHeads * kBlockSize * kDim);
  EXPECT_EQ(cache.dtype(), DType::float32) << "unless told otherwise";
  append(cache, 6, 0);
  EXPECT_EQ(cache.paged_block_indices().size(), 2u);
  const auto table = cache.block_table()->as<std::int32_t>();
  ASSERT_EQ(table.size(), 4u);
  EXPECT_EQ(table[0], 0);
  EXPECT_EQ(table[1], 1);
  EXPECT_EQ(table[2], -1);
  ASSERT_EQ(cache.context_lens()->size(), 1u);
  EXPECT_EQ(cache.context_lens()->as<std::int32_t>()[0], 6);
}

TEST(PagedLayoutKvCache, LiesAsBlocksHeadsBlockSizeDim) {
  auto cache = paged();
  (void)cache.allocator()->allocate();  // so that logical and physical differ
  append(cache, 6, 0);
  const auto v = cache.v().as<float>();
  const auto given = tokens(6, -0.0f);
  for (std::size_t token = 0; token < 6; ++token) {
    const std::size_t block = cache.paged_block_indices()[token / kBlockSize];
    EXPECT_EQ(block, 1 + token / kBlockSize);
    for (std::size_t head = 0; head < kHeads; ++head) {
      for (std::size_t i = 0; i < kDim; ++i) {
        EXPECT_EQ(v[((block * kHeads + head) * kBlockSize + token % kBlockSize) * kDim + i],
                  given[(token * kHeads + head) * kDim + i]);
      }
    }
  }
}

/// Both layouts, made with room for 16 tokens.
class KvCacheOfEitherLayout : public testing::TestWithParam<bool> {
 protected:
  Cache cache = GetParam() ? paged() : contiguous();
  cpu::Context ctx;
};
INSTANTIATE_TEST_SUITE_P(Layouts, KvCacheOfEitherLayout, testing::Bool(),
                         [](const auto& of) { return of.param ? "paged" : "contiguous"; });

TEST_P(KvCacheOfEitherLayout, GivesBackWhatWasAppended) {
  append(cache, 3, 0);
  append(cache, 0, 99);
  append(cache, 1, 18);
  append(cache, 12, 24);
  EXPECT_EQ(cache.len(), 16u);
  const auto [k, v] = dense(cache);
  EXPECT_EQ(k, tokens(16, 0));
  Floats values = tokens(3, -0.0f);
  for (const auto& part : {tokens(1, -18), tokens(12, -24)}) {
    values.insert(values.end(), part.begin(), part.end());
  }
  EXPECT_EQ(v, values);
}

TEST_P(KvCacheOfEitherLayout, IsEmptyAtFirst) {
  const auto [k, v] = dense(cache);
  EXPECT_TRUE(k.empty() && v.empty());
}

TEST_P(KvCacheOfEitherLayout, CapacityIsAHardLimit) {
  append(cache, 15, 0);
  const auto before = dense(cache);
  expect_error<CapacityError>([&] { append(cache, 2, 7); }, "KvCache.append",
                              "15 tokens held and 2 more", "at most 16 in all");
  EXPECT_EQ(cache.len(), 15u) << "nothing is dropped silently, nothing is taken partly";
  EXPECT_EQ(dense(cache), before);
  append(cache, 1, 7);
  EXPECT_THROW(append(cache, 1, 7), CapacityError);
}

TEST_P(KvCacheOfEitherLayout, KeysAndValuesOfDifferentSizesAreAShapeError) {
  const auto one = tokens(1, 0);
  const auto two = tokens(2, 0);
  expect_error<ShapeError>([&] { cache.append<float>(one, two); }, "KvCache.append",
                           "24 bytes of keys and 48 of values", "equal multiples of 24");
  EXPECT_EQ(cache.len(), 0u);
}

TEST_P(KvCacheOfEitherLayout, APartOfATokenIsAShapeError) {
  const Floats part(kHeads * kDim + 1);
  EXPECT_THROW(cache.append<float>(part, part), ShapeError);
  const std::vector<std::byte> bytes(5);
  EXPECT_THROW(cache.append(ctx, bytes, bytes), ShapeError);
  EXPECT_EQ(cache.len(), 0u);
}

TEST_P(KvCacheOfEitherLayout, TheShapeIsCheckedBeforeTheCapacity) {
  append(cache, 16, 0);
  const Floats part(kHeads * kDim + 1);
  EXPECT_THROW(cache.append<float>(part, part), ShapeError);
}

TEST_P(KvCacheOfEitherLayout, AnotherElementTypeIsAShapeError) {
  const std::vector<double> doubles(kHeads * kDim);
  std::vector<double> out;
  expect_error<ShapeError>([&] { cache.append<double>(doubles, doubles); }, "KvCache.append",
                           "does not hold float32", "one that does");
  expect_error<ShapeError>([&] { cache.to_dense<double>(out, out); }, "KvCache.to_dense",
                           "does not hold float32", "one that does");
}

TEST_P(KvCacheOfEitherLayout, ToDenseNeedsBuffersOfTheRightSize) {
  append(cache, 2, 0);
  Floats right(2 * kHeads * kDim);
  Floats wrong(right.size() + 1);
  expect_error<ShapeError>([&] { cache.to_dense<float>(right, wrong); }, "KvCache.to_dense",
                           "48 and 52 bytes", "48 each");
  EXPECT_THROW(cache.to_dense<float>(wrong, right), ShapeError);
}

TEST_P(KvCacheOfEitherLayout, ReleaseEmptiesItForReuse) {
  append(cache, 9, 0);
  for (int round = 0; round < 2; ++round) {
    cache.release();
    EXPECT_EQ(cache.len(), 0u) << "twice is harmless";
  }
  append(cache, 5, 50);
  EXPECT_EQ(dense(cache).first, tokens(5, 50));
}

TEST_P(KvCacheOfEitherLayout, TruncateForgetsTheTailAlone) {
  append(cache, 9, 0);
  cache.truncate(ctx, 100);
  EXPECT_EQ(cache.len(), 9u);
  cache.truncate(ctx, 3);
  EXPECT_EQ(dense(cache).first, tokens(3, 0));
  append(cache, 2, 18);
  EXPECT_EQ(dense(cache).first, tokens(5, 0));
}

TEST_P(KvCacheOfEitherLayout, ReserveTakesRoomAndWritesNoToken) {
  cache.reserve(ctx, 16);
  EXPECT_EQ(cache.len(), 0u);
  expect_error<CapacityError>([&] { cache.reserve(ctx, 17); }, "KvCache.reserve",
                              "0 tokens held and 17 more", "at most 16 in all");
  expect_error<CapacityError>([&] { cache.reserve(ctx, kMax); }, "KvCache.reserve",
                              "tokens held and 1844", "at most 16 in all");
  append(cache, 16, 0);
}

TEST_P(KvCacheOfEitherLayout, MovesWithItsTokens) {
  append(cache, 5, 0);
  Cache moved(std::move(cache));
  EXPECT_EQ(dense(moved).first, tokens(5, 0));
  cache.release();  // NOLINT(bugprone-use-after-move): harmless on what was left behind
  EXPECT_EQ(dense(moved).first, tokens(5, 0));
  cache = contiguous();
  cache = std::move(moved);
  EXPECT_EQ(dense(cache).first, tokens(5, 0));
  auto& self = cache;
  cache = std::move(self);
  EXPECT_EQ(dense(cache).first, tokens(5, 0));
}

TEST(ContiguousKvCache, CannotBeShared) {
  expect_error<UnsupportedError>([] { (void)contiguous().share(); }, "KvCache.share",
                                 "a contiguous cache", "a paged one");
}

TEST(ContiguousKvCache, OfNoCapacityIsAlwaysFull) {
  auto cache = contiguous(0);
  append(cache, 0, 0);
  EXPECT_THROW(append(cache, 1, 0), CapacityError);
  EXPECT_TRUE(dense(cache).first.empty());
}

TEST(PagedLayoutKvCache, OfNoBlocksIsAlwaysFull) {
  auto none = paged(0, 0);
  append(none, 0, 0);
  EXPECT_EQ(none.num_blocks(), 0u);
  EXPECT_THROW(append(none, 1, 0), CapacityError);
  auto no_pool = paged(0, 4);
  EXPECT_THROW(append(no_pool, 1, 0), PoolExhaustedError);
}

TEST(KvCacheConstruction, ADimensionOfZeroIsAShapeError) {
  expect_error<ShapeError>([] { (void)Cache::contiguous(4, 0, 2); }, "KvCache.contiguous",
                           "num_kv_heads is 0", "at least 1");
  expect_error<ShapeError>([] { (void)Cache::contiguous(4, 2, 0); }, "KvCache.contiguous",
                           "head_dim is 0", "at least 1");
  expect_error<ShapeError>([] { (void)Cache::paged(4, 0, 2, 4, 4, ids(4)); }, "KvCache.paged",
                           "num_kv_heads is 0", "at least 1");
  expect_error<ShapeError>([] { (void)Cache::paged(4, 2, 0, 4, 4, ids(4)); }, "KvCache.paged",
                           "head_dim is 0", "at least 1");
  expect_error<ShapeError>([] { (void)Cache::paged(4, 2, 2, 0, 4, ids(4)); }, "KvCache.paged",
                           "block_size is 0", "at least 1");
}

TEST(KvCacheConstruction, APagedCacheNeedsAnAllocatorThatFitsItsPool) {
  expect_error<ShapeError>([] { (void)Cache::paged(4, 1, 1, 1, 4, nullptr); }, "KvCache.paged",
                           "no allocator", "the one that hands out the pool's blocks");
  expect_error<ShapeError>([] { (void)Cache::paged(4, 1, 1, 1, 4, ids(5)); }, "KvCache.paged",
                           "an allocator of 5 ids for a pool of 4 blocks", "no more ids");
  EXPECT_EQ(Cache::paged(4, 1, 1, 1, 4, ids(3)).num_blocks(), 4u) << "fewer ids are fine";
}

TEST(KvCacheConstruction, SizesThatOverflowAreAShapeErrorAlsoWhereNothingIsStored) {
  constexpr std::size_t k2To32 = std::size_t{1} << 32;
  EXPECT_THROW((void)Cache::contiguous(k2To32, k2To32, 1), ShapeError);
  EXPECT_THROW((void)Cache::contiguous(0, k2To32, k2To32), ShapeError) << "a token";
  EXPECT_THROW((void)Cache::contiguous(0, 1, kMax / 4), ShapeError) << "a row in bytes";
  EXPECT_THROW((void)Cache::paged(0, k2To32, k2To32 / 2, 2, 0, ids(0)), ShapeError) << "a block";
  EXPECT_THROW((void)Cache::paged(0, 1, 1, k2To32, k2To32, ids(0)), ShapeError) << "the capacity";
}

TEST(KvCacheConstruction, Int4RowsEndOnWholeBytes) {
  auto cache = Cache::contiguous(2, 1, 4, DType::int4);
  const std::vector<std::uint8_t> token{0x21, 0x43};
  cache.append<std::uint8_t>(token, token);
  EXPECT_EQ(cache.len(), 1u) << "two bytes are four elements";
  EXPECT_THROW((void)Cache::contiguous(2, 2, 3, DType::int4), ShapeError);
}

}  // namespace
