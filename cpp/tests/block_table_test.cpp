// BlockTable: logical to physical, a list of blocks a layer.

#include "pagedkv/core/block_table.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <vector>

#include "expect_error.hpp"

namespace {

using namespace pagedkv;
using pagedkv_test::expect_error;
using Ids = std::vector<BlockId>;

BlockTable table_of(std::size_t num_layers, std::size_t block_size, const Ids& blocks) {
  BlockTable table(num_layers, block_size);
  for (const BlockId id : blocks) table.append_block(0, id);
  return table;
}

TEST(BlockTable, StartsEmptyInEachLayer) {
  const BlockTable table(3, 16);
  EXPECT_EQ(table.num_layers(), 3u);
  EXPECT_EQ(table.block_size(), 16u);
  for (std::size_t layer = 0; layer < 3; ++layer) {
    EXPECT_EQ(table.num_blocks(layer), 0u);
    EXPECT_EQ(table.token_capacity(layer), 0u);
    EXPECT_FALSE(table.get_block(layer, 0));
  }
}

TEST(BlockTable, GetBlockTranslatesLogicalToPhysical) {
  const auto table = table_of(2, 16, {7, 3, 7});
  EXPECT_EQ(table.get_block(0, 0), BlockId{7});
  EXPECT_EQ(table.get_block(0, 1), BlockId{3});
  EXPECT_EQ(table.get_block(0, 2), BlockId{7}) << "the same block may stand in it twice";
  EXPECT_FALSE(table.get_block(0, 3)) << "past the end";
  EXPECT_FALSE(table.get_block(0, std::numeric_limits<std::size_t>::max()));
}

TEST(BlockTable, EachLayerHasItsOwnBlocks) {
  auto table = table_of(2, 4, {1, 2});
  table.append_block(1, 9);
  EXPECT_EQ(table.num_blocks(0), 2u);
  EXPECT_EQ(table.num_blocks(1), 1u);
  EXPECT_EQ(table.token_capacity(0), 8u);
  EXPECT_EQ(table.token_capacity(1), 4u);
  EXPECT_EQ(table.blocks(1)[0], 9u);
  EXPECT_EQ(table.max_blocks(), 2u);
}

TEST(BlockTable, TruncateKeepsWhatTheTokensNeedAndReturnsTheRest) {
  auto table = table_of(1, 4, {10, 11, 12, 13});
  EXPECT_EQ(table.truncate(0, 16), Ids{});
  EXPECT_EQ(table.truncate(0, 9), (Ids{13})) << "9 tokens need 3 blocks, the last one partly";
  EXPECT_EQ(table.truncate(0, 4), (Ids{11, 12})) << "in logical order";
  EXPECT_EQ(table.truncate(0, 0), (Ids{10}));
  EXPECT_EQ(table.truncate(0, 0), Ids{});
  EXPECT_EQ(table.num_blocks(0), 0u);
}

TEST(BlockTable, TruncateToMoreTokensThanThereIsRoomForDoesNothing) {
  auto table = table_of(1, 4, {1});
  EXPECT_EQ(table.truncate(0, 1000), Ids{});
  EXPECT_EQ(table.truncate(0, std::numeric_limits<std::size_t>::max()), Ids{});
  EXPECT_EQ(table.num_blocks(0), 1u);
}

TEST(BlockTable, AsAnArrayIsPaddedWithMinus1) {
  auto table = table_of(3, 4, {0, 5});
  table.append_block(2, 8);
  std::vector<std::int32_t> array(6, 77);
  table.write_array(array);
  EXPECT_EQ(array, (std::vector<std::int32_t>{0, 5, -1, -1, 8, -1}));
  EXPECT_EQ(kNoBlock, -1) << "never 0, which is a real block";
}

TEST(BlockTable, AnArrayOfAnotherSizeIsAShapeErrorAndNotWritten) {
  const auto table = table_of(2, 4, {1, 2});
  std::vector<std::int32_t> array(3, 77);
  expect_error<ShapeError>([&] { table.write_array(array); }, "BlockTable.write_array",
                           "3 elements", "2 x 2");
  EXPECT_EQ(array, std::vector<std::int32_t>(3, 77));
  std::vector<std::int32_t> none;
  BlockTable(2, 4).write_array(none);
  BlockTable(0, 4).write_array(none);
}

TEST(BlockTable, ALayerOutOfRangeIsAnErrorOfEachFunction) {
  BlockTable table(2, 4);
  const auto expect_refused = [](const char* where, auto call) {
    EXPECT_EQ(expect_error<InvalidSlotError>(call, where, "layer 2 is out of range", "less than 2")
                  .slot(),
              2u);
  };
  expect_refused("BlockTable.append_block", [&] { table.append_block(2, 0); });
  expect_refused("BlockTable.get_block", [&] { (void)table.get_block(2, 0); });
  expect_refused("BlockTable.blocks", [&] { (void)table.blocks(2); });
  expect_refused("BlockTable.num_blocks", [&] { (void)table.num_blocks(2); });
  expect_refused("BlockTable.token_capacity", [&] { (void)table.token_capacity(2); });
  expect_refused("BlockTable.truncate", [&] { (void)table.truncate(2, 0); });
}

TEST(BlockTable, AnIdThatInt32CannotHoldIsAnErrorAndNotAppended) {
  BlockTable table(1, 4);
  for (const BlockId id : {2147483648u, 4294967295u}) {
    expect_error<InvalidSlotError>([&] { table.append_block(0, id); }, "BlockTable.append_block",
                                   "block id " + std::to_string(id), "less than 2147483648");
  }
  EXPECT_EQ(table.num_blocks(0), 0u);
  table.append_block(0, 2147483647u);
  std::vector<std::int32_t> array(1);
  table.write_array(array);
  EXPECT_EQ(array[0], std::numeric_limits<std::int32_t>::max());
}

TEST(BlockTable, ABlockSizeOfZeroIsAShapeError) {
  expect_error<ShapeError>([] { BlockTable table(1, 0); }, "BlockTable", "block_size is 0",
                           "at least 1");
}

TEST(BlockTable, SizesThatOverflowAreAShapeError) {
  expect_error<ShapeError>([] { BlockTable table(std::size_t{1} << 62, 4); }, "BlockTable",
                           "a size beyond", "an array can have");
  auto table = table_of(1, std::size_t{1} << 62, {1, 2});
  expect_error<ShapeError>([&] { (void)table.token_capacity(0); }, "BlockTable.token_capacity",
                           "a size beyond", "an array can have");
}

TEST(BlockTable, CopiesAreIndependentAndCompareByValue) {
  auto table = table_of(2, 4, {1, 2});
  auto copy = table;
  EXPECT_EQ(copy, table);
  copy.append_block(1, 3);
  EXPECT_NE(copy, table);
  EXPECT_EQ(table.num_blocks(1), 0u);
  EXPECT_NE(table_of(1, 4, {1}), table_of(1, 8, {1})) << "the block size counts, too";
}

TEST(BlockTable, MayHaveNoLayers) {
  BlockTable table(0, 1);
  EXPECT_EQ(table.max_blocks(), 0u);
  EXPECT_THROW(table.append_block(0, 0), InvalidSlotError);
}

}  // namespace
