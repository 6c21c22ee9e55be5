// PagedKvCache: the CPU cache of float64 tokens in blocks of 16.

#include "pagedkv/core/paged_kv_cache.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cstdint>
#include <cstring>
#include <limits>
#include <numeric>
#include <utility>
#include <vector>

#include "expect_error.hpp"

namespace {

using namespace pagedkv;
using pagedkv_test::expect_error;
using Doubles = std::vector<double>;

constexpr auto kMax = static_cast<std::size_t>(-1);

Doubles counting(std::size_t size, double first = 0) {
  Doubles values(size);
  std::iota(values.begin(), values.end(), first);
  return values;
}

/// A cache of `dim` 2 with `len` tokens, counted through.
PagedKvCache filled(std::size_t len, std::size_t max_tokens = 64) {
  PagedKvCache cache(max_tokens, 2);
  cache.append_tensor(counting(2 * len));
  return cache;
}

TEST(PagedKvCache, AllocatesAllBlocksUpFront) {
  for (const auto& [max_tokens, blocks] : std::vector<std::pair<std::size_t, std::size_t>>{
           {0, 0}, {1, 1}, {16, 1}, {17, 2}, {64, 4}, {65, 5}}) {
    const PagedKvCache cache(max_tokens, 3);
    EXPECT_EQ(cache.num_blocks(), blocks) << max_tokens << ": ceil(max_tokens / 16)";
    EXPECT_EQ(cache.max_tokens(), max_tokens);
    EXPECT_EQ(cache.blocks_in_use(), 0u);
    EXPECT_EQ(cache.dim(), 3u);
    EXPECT_EQ(cache.len(), 0u);
    EXPECT_TRUE(cache.is_empty());
  }
  EXPECT_EQ(PagedKvCache::kBlockSize, 16u);
}

TEST(PagedKvCache, ReachesItsBlocksThroughABlockTable) {
  const PagedKvCache cache(40, 1);
  EXPECT_EQ(cache.block_table().num_layers(), 1u);
  EXPECT_EQ(cache.block_table().block_size(), 16u);
  EXPECT_EQ(cache.block_table().num_blocks(0), 3u);
}

TEST(PagedKvCache, CountsTokensAndBlocksInUse) {
  PagedKvCache cache(40, 2);
  cache.append(counting(2));
  EXPECT_EQ(cache.len(), 1u);
  EXPECT_EQ(cache.size(), 1u);
  EXPECT_EQ(cache.blocks_in_use(), 1u);
  EXPECT_FALSE(cache.is_empty());
  cache.append_tensor(counting(32));
  EXPECT_EQ(cache.len(), 17u);
  EXPECT_EQ(cache.blocks_in_use(), 2u);
}

TEST(PagedKvCache, TokensComeBackInOrder) {
  PagedKvCache cache(40, 2);
  for (double token = 0; token < 20; ++token) cache.append(counting(2, 2 * token));
  cache.append_tensor(counting(40, 40));
  EXPECT_EQ(cache.as_tensor(), counting(80));
  for (std::size_t i = 0; i < 40; ++i) {
    const auto token = cache.get_token(i);
    ASSERT_EQ(token.size(), 2u);
    EXPECT_EQ(token[0], 2.0 * static_cast<double>(i));
  }
}

TEST(PagedKvCache, AWrongSizeIsAShapeErrorAlsoWhenFull) {
  auto cache = filled(16, 16);
  for (const std::size_t size : {0u, 1u, 3u}) {
    expect_error<ShapeError>([&] { cache.append(counting(size)); }, "PagedKvCache.append",
                             std::to_string(size) + " values", "2 (dim)");
  }
  expect_error<ShapeError>([&] { cache.append_tensor(counting(3)); }, "PagedKvCache.append_tensor",
                           "3 values", "a multiple of 2 (dim)");
  EXPECT_EQ(cache.len(), 16u);
}

TEST(PagedKvCache, IsFullAtMaxTokensEvenIfTheLastBlockHasRoom) {
  auto cache = filled(20, 20);
  EXPECT_EQ(cache.num_blocks() * 16, 32u);
  expect_error<CapacityError>([&] { cache.append(counting(2)); }, "PagedKvCache.append",
                              "20 tokens held and 1 more", "at most 20 (max_tokens)");
  EXPECT_EQ(cache.as_tensor(), counting(40));
}

TEST(PagedKvCache, AppendTensorIsAllOrNothing) {
  auto cache = filled(10, 20);
  expect_error<CapacityError>([&] { cache.append_tensor(counting(22)); },
                              "PagedKvCache.append_tensor", "10 tokens held and 11 more",
                              "at most 20 (max_tokens)");
  EXPECT_EQ(cache.as_tensor(), counting(20));
  cache.append_tensor(counting(20, 20));
  EXPECT_EQ(cache.as_tensor(), counting(40));
}

TEST(PagedKvCache, AppendTensorOfNoTokensIsFine) {
  auto cache = filled(20, 20);
  cache.append_tensor({});
  EXPECT_EQ(cache.len(), 20u);
}

TEST(PagedKvCache, OfNoTokensIsLegalAndAlwaysFull) {
  PagedKvCache cache(0, 4);
  EXPECT_THROW(cache.append(counting(4)), CapacityError);
  EXPECT_THROW(cache.append_tensor(counting(4)), CapacityError);
  cache.append_tensor({});
  EXPECT_TRUE(cache.as_tensor().empty());
  EXPECT_TRUE(cache.as_span());
  cache.permute_blocks({});
}

TEST(PagedKvCache, ADimOfZeroIsAShapeError) {
  expect_error<ShapeError>([] { PagedKvCache cache(4, 0); }, "PagedKvCache", "dim is 0",
                           "at least 1");
}

TEST(PagedKvCache, SizesThatOverflowAreErrors) {
  EXPECT_THROW(PagedKvCache(16, kMax / 64), ShapeError);
  expect_error<CapacityError>([] { PagedKvCache cache(kMax, 1); }, "PagedKvCache",
                              "max_tokens 1844", "fewer than 2^31 blocks of 16");
}

TEST(PagedKvCache, AnyFloat64SurvivesBitForBit) {
  using Limits = std::numeric_limits<double>;
  const Doubles odd{Limits::quiet_NaN(),
                    -Limits::quiet_NaN(),
                    std::bit_cast<double>(std::uint64_t{0x7ff0000000000001}),  // signalling
                    std::bit_cast<double>(std::uint64_t{0xfff8deadbeefcafe}),  // with a payload
                    Limits::infinity(),
                    -Limits::infinity(),
                    -0.0,
                    Limits::denorm_min(),
                    -Limits::denorm_min(),
                    Limits::max()};
  PagedKvCache cache(4, odd.size());
  cache.append(odd);
  cache.append_tensor(odd);
  const auto out = cache.as_tensor();
  for (std::size_t i = 0; i < out.size(); ++i) {
    EXPECT_EQ(std::bit_cast<std::uint64_t>(out[i]),
              std::bit_cast<std::uint64_t>(odd[i % odd.size()]));
  }
}

TEST(PagedKvCache, AsTensorIsACopy) {
  auto cache = filled(3);
  auto out = cache.as_tensor();
  out[0] = 99;
  EXPECT_EQ(cache.get_token(0)[0], 0.0);
}

TEST(PagedKvCache, AsTensorFillsTheCallersBuffer) {
  const auto cache = filled(20);
  Doubles out(40, -1);
  cache.as_tensor(out);
  EXPECT_EQ(out, counting(40));
  Doubles wrong(41, -1);
  expect_error<ShapeError>([&] { cache.as_tensor(wrong); }, "PagedKvCache.as_tensor", "41 values",
                           "20 x 2");
  EXPECT_EQ(wrong, Doubles(41, -1)) << "and leaves one of another size alone";
}

TEST(PagedKvCache, AsSpanShowsTheTokensInPlaceWhereTheBlocksLieInOrder) {
  auto cache = filled(20);
  const auto view = cache.as_span();
  ASSERT_TRUE(view);
  EXPECT_EQ(Doubles(view->begin(), view->end()), counting(40));
  cache.append(counting(2, 40));
  EXPECT_EQ(view->data(), cache.as_span()->data()) << "appending leaves it as it is";
  EXPECT_EQ(cache.as_span()->size(), 42u);
  EXPECT_TRUE(PagedKvCache(4, 2).as_span()->empty());
}

TEST(PagedKvCache, AsSpanIsNothingWhereTheBlocksInUseDoNotLieInOrder) {
  PagedKvCache cache(64, 2);
  cache.permute_blocks(std::vector<BlockId>{1, 2, 0, 3});
  cache.append_tensor(counting(2 * 32));
  ASSERT_TRUE(cache.as_span()) << "1 and 2 lie in order";
  EXPECT_EQ(Doubles(cache.as_span()->begin(), cache.as_span()->end()), counting(64));
  cache.append(counting(2));
  EXPECT_FALSE(cache.as_span()) << "2 and 0 do not";
}

TEST(PagedKvCache, ShuffledBlocksGiveTheSameTokens) {
  for (const auto& order : std::vector<std::vector<BlockId>>{
           {0, 1, 2, 3}, {3, 2, 1, 0}, {2, 0, 3, 1}, {1, 2, 3, 0}, {0, 2, 3, 1}}) {
    PagedKvCache cache(64, 3);
    cache.permute_blocks(order);
    cache.append(counting(3));
    cache.append_tensor(counting(3 * 40, 3));
    cache.append_tensor(counting(3 * 23, 123));
    EXPECT_EQ(cache.as_tensor(), counting(3 * 64));
    EXPECT_EQ(cache.get_token(63)[2], 191.0);
    EXPECT_EQ(cache.block_table().get_block(0, 1), order[1]);
  }
}

TEST(PagedKvCache, StorageIsTheBlocksAsTheyLieInMemory) {
  PagedKvCache cache(20, 2);
  cache.permute_blocks(std::vector<BlockId>{1, 0});
  cache.append(counting(2, 5));
  ASSERT_EQ(cache.storage().size(), 2 * 16 * 2 * sizeof(double));
  double value = 0;
  std::memcpy(&value, cache.storage().data() + 16 * 2 * sizeof(double), sizeof value);
  EXPECT_EQ(value, 5.0) << "logical block 0 lies on physical block 1";
}

TEST(PagedKvCache, PermuteTakesOnlyAPermutationOfAnEmptyCache) {
  PagedKvCache cache(64, 2);
  for (const auto& order : std::vector<std::vector<BlockId>>{
           {}, {0, 1, 2}, {0, 1, 2, 2}, {0, 1, 2, 4}, {0, 1, 2, 3, 3}, {0, 1, 2, 3, 4}}) {
    expect_error<ShapeError>([&] { cache.permute_blocks(order); }, "PagedKvCache.permute_blocks",
                             std::to_string(order.size()) + " ids",
                             "a permutation of the 4 block ids");
  }
  EXPECT_EQ(cache.block_table().get_block(0, 3), BlockId{3}) << "nothing has changed";
  cache.append(counting(2));
  expect_error<CapacityError>([&] { cache.permute_blocks(std::vector<BlockId>{3, 2, 1, 0}); },
                              "PagedKvCache.permute_blocks", "tokens are held", "an empty cache");
}

TEST(PagedKvCache, GetTokenOutOfRangeIsAnError) {
  const auto cache = filled(3);
  EXPECT_EQ(
      expect_error<InvalidSlotError>([&] { (void)cache.get_token(3); }, "PagedKvCache.get_token",
                                     "token 3 is out of range", "less than 3")
          .slot(),
      3u);
  EXPECT_THROW((void)cache.get_token(kMax), InvalidSlotError);
}

TEST(PagedKvCache, ClearForgetsTheTokensAndKeepsTheMemory) {
  auto cache = filled(20);
  const auto* const memory = cache.as_span()->data();
  cache.clear();
  EXPECT_TRUE(cache.is_empty());
  EXPECT_EQ(cache.blocks_in_use(), 0u);
  EXPECT_EQ(cache.num_blocks(), 4u);
  EXPECT_THROW((void)cache.get_token(0), InvalidSlotError);
  cache.append(counting(2, 7));
  EXPECT_EQ(cache.as_span()->data(), memory);
  EXPECT_EQ(cache.as_tensor(), counting(2, 7));
}

TEST(PagedKvCache, ACopyIsDeep) {
  PagedKvCache cache(64, 2);
  cache.permute_blocks(std::vector<BlockId>{2, 0, 3, 1});
  cache.append_tensor(counting(40));
  PagedKvCache copy(cache);
  copy.append(counting(2, 40));
  cache.clear();
  cache.append(counting(2, -9));
  EXPECT_EQ(copy.as_tensor(), counting(42));
  copy = cache;
  EXPECT_EQ(copy.as_tensor(), counting(2, -9));
  const auto& self = copy;
  copy = self;
  EXPECT_EQ(copy.as_tensor(), counting(2, -9));
}

TEST(PagedKvCache, MovesAndLeavesACacheForNoTokens) {
  auto from = filled(20);
  PagedKvCache to(std::move(from));
  EXPECT_EQ(to.as_tensor(), counting(40));
  // NOLINTBEGIN(bugprone-use-after-move): that is the question
  EXPECT_EQ(from.repr(), "PagedKvCache(len=0, max=0, dim=2, blocks=0/0)");
  EXPECT_TRUE(from.as_tensor().empty());
  EXPECT_TRUE(from.as_span()->empty());
  EXPECT_THROW(from.append(counting(2)), CapacityError);
  from.append_tensor({});
  EXPECT_EQ(PagedKvCache(from).len(), 0u);
  // NOLINTEND(bugprone-use-after-move)
  from = std::move(to);
  EXPECT_EQ(from.as_tensor(), counting(40));
  auto& self = from;
  from = std::move(self);
  EXPECT_EQ(from.as_tensor(), counting(40));
}

TEST(PagedKvCache, ReprTellsLengthLimitsAndBlocks) {
  PagedKvCache cache(64, 8);
  cache.append_tensor(counting(160));
  EXPECT_EQ(cache.repr(), "PagedKvCache(len=20, max=64, dim=8, blocks=2/4)");
}

}  // namespace
