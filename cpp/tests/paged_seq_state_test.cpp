// PagedSeqState: blocks of one sequence on the host. What the device sees is in
// paged_seq_state_device_test.cpp.

#include "pagedkv/core/paged_seq_state.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "expect_error.hpp"
#include "pagedkv/cpu/backend.hpp"

namespace {

using namespace pagedkv;
using pagedkv_test::expect_error;
using Ids = std::vector<BlockId>;
using State = PagedSeqState<CpuBackend>;

constexpr auto kMax = std::numeric_limits<std::size_t>::max();

Ids ids_of(const State& state) { return {state.blocks().begin(), state.blocks().end()}; }

TEST(PagedSeqState, IsMadeWithoutAnyBlock) {
  const State state(16, 4);
  EXPECT_EQ(state.len(), 0u);
  EXPECT_TRUE(state.blocks().empty());
  EXPECT_EQ(state.block_size(), 16u);
  EXPECT_EQ(state.max_blocks_per_seq(), 4u);
  EXPECT_EQ(state.block_table_buf().size(), 4u);
  EXPECT_EQ(state.block_table_buf().dtype(), DType::int32);
  EXPECT_EQ(state.context_lens_buf().size(), 1u);
  EXPECT_EQ(state.context_lens_buf().dtype(), DType::int32);
}

TEST(PagedSeqState, ABlockSizeOfZeroIsAShapeError) {
  expect_error<ShapeError>([] { State state(0, 4); }, "PagedSeqState", "block_size is 0",
                           "at least 1");
}

TEST(PagedSeqState, ATableThatNoMemoryCouldHoldIsAShapeError) {
  expect_error<ShapeError>([] { State state(16, kMax / 2); }, "PagedSeqState", "a size beyond",
                           "an array can have");
}

TEST(PagedSeqState, EnsureCapacityTakesTheBlocksThatTheTokensNeed) {
  BlockAllocator alloc(8);
  cpu::Context ctx;
  State state(4, 8);
  for (const auto& [tokens, blocks] :
       std::vector<std::pair<std::size_t, std::size_t>>{{0, 0}, {1, 1}, {4, 1}, {5, 2}, {16, 4}}) {
    state.ensure_capacity(ctx, alloc, tokens);
    EXPECT_EQ(state.blocks().size(), blocks) << tokens << " tokens";
    EXPECT_EQ(alloc.in_use(), blocks);
  }
  EXPECT_EQ(ids_of(state), (Ids{0, 1, 2, 3}));
  EXPECT_EQ(state.len(), 0u) << "the length is the caller's";
}

TEST(PagedSeqState, EnsureCapacityIsIdempotentAndNeverShrinks) {
  BlockAllocator alloc(8);
  cpu::Context ctx;
  State state(4, 8);
  state.ensure_capacity(ctx, alloc, 12);
  const auto before = ids_of(state);
  for (const std::size_t target : {12u, 9u, 1u, 0u}) {
    state.ensure_capacity(ctx, alloc, target);
    EXPECT_EQ(ids_of(state), before);
  }
  EXPECT_EQ(alloc.in_use(), 3u);
}

TEST(PagedSeqState, MoreThanMaxBlocksPerSeqIsACapacityErrorAndTakesNothing) {
  BlockAllocator alloc(8);
  cpu::Context ctx;
  State state(4, 2);
  state.ensure_capacity(ctx, alloc, 3);
  expect_error<CapacityError>([&] { state.ensure_capacity(ctx, alloc, 9); },
                              "PagedSeqState.ensure_capacity", "target_len 9 needs 3 blocks",
                              "at most 2");
  expect_error<CapacityError>([&] { state.ensure_capacity(ctx, alloc, kMax); },
                              "PagedSeqState.ensure_capacity", "target_len 1844", "at most 2");
  EXPECT_EQ(ids_of(state), Ids{0});
  EXPECT_EQ(alloc.in_use(), 1u);
  state.ensure_capacity(ctx, alloc, 8);
  EXPECT_EQ(ids_of(state), (Ids{0, 1}));
}

TEST(PagedSeqState, ASequenceMayHaveNoBlocksAtAll) {
  BlockAllocator alloc(1);
  cpu::Context ctx;
  State state(4, 0);
  state.ensure_capacity(ctx, alloc, 0);
  state.sync_context_len(ctx);
  EXPECT_THROW(state.ensure_capacity(ctx, alloc, 1), CapacityError);
}

TEST(PagedSeqState, ExhaustionGivesBackWhatItTookAndLeavesTheHostAsItWas) {
  BlockAllocator alloc(3);
  cpu::Context ctx;
  State other(4, 4);
  other.ensure_capacity(ctx, alloc, 4);
  State state(4, 4);
  state.ensure_capacity(ctx, alloc, 4);
  const auto error =
      expect_error<PoolExhaustedError>([&] { state.ensure_capacity(ctx, alloc, 12); },
                                       "BlockAllocator.allocate_n", "2 needed, 1 free", "as many");
  EXPECT_EQ(error.needed(), 2u);
  EXPECT_EQ(error.free(), 1u);
  EXPECT_EQ(ids_of(state), Ids{1});
  EXPECT_EQ(alloc.in_use(), 2u);
}

TEST(PagedSeqState, ALenBeyondTheBlocksHeldIsACapacityErrorOfSync) {
  BlockAllocator alloc(2);
  cpu::Context ctx;
  State state(4, 2);
  state.ensure_capacity(ctx, alloc, 4);
  state.set_len(4);
  state.sync_context_len(ctx);
  state.set_len(5);
  expect_error<CapacityError>([&] { state.sync_context_len(ctx); },
                              "PagedSeqState.sync_context_len", "len 5 with 1 blocks of 4",
                              "a len that they have room for");
  EXPECT_EQ(state.context_lens_buf().as<std::int32_t>()[0], 4) << "the device is as it was";
}

TEST(PagedSeqState, ALenBeyondInt32IsACapacityErrorOfSync) {
  BlockAllocator alloc(1);
  cpu::Context ctx;
  State state(std::size_t{1} << 40, 1);
  state.ensure_capacity(ctx, alloc, 1);
  state.set_len(std::size_t{1} << 31);
  expect_error<CapacityError>([&] { state.sync_context_len(ctx); },
                              "PagedSeqState.sync_context_len", "len 2147483648", "below 2^31");
  state.set_len((std::size_t{1} << 31) - 1);
  state.sync_context_len(ctx);
  EXPECT_EQ(state.context_lens_buf().as<std::int32_t>()[0],
            std::numeric_limits<std::int32_t>::max());
}

TEST(PagedSeqState, ReleaseFreesEverythingAndTwiceIsHarmless) {
  BlockAllocator alloc(4);
  cpu::Context ctx;
  State state(4, 4);
  state.ensure_capacity(ctx, alloc, 16);
  state.set_len(13);
  const auto* const buffer = state.block_table_buf().bytes().data();
  for (int round = 0; round < 2; ++round) {
    state.release(alloc);
    EXPECT_EQ(alloc.in_use(), 0u);
    EXPECT_EQ(state.len(), 0u);
    EXPECT_TRUE(state.blocks().empty());
    EXPECT_EQ(state.block_table_buf().bytes().data(), buffer) << "buffers are kept for reuse";
  }
  state.ensure_capacity(ctx, alloc, 16);
  EXPECT_EQ(ids_of(state), (Ids{0, 1, 2, 3})) << "in the order that the blocks had";
}

TEST(PagedSeqState, ReleaseToAnAllocatorThatDoesNotHoldTheBlocksChangesNothing) {
  BlockAllocator alloc(4);
  BlockAllocator other(4);
  cpu::Context ctx;
  State state(4, 4);
  state.ensure_capacity(ctx, alloc, 16);
  state.set_len(9);
  (void)other.allocate();
  EXPECT_THROW(state.release(other), InvalidSlotError);
  EXPECT_EQ(ids_of(state), (Ids{0, 1, 2, 3}));
  EXPECT_EQ(state.len(), 9u);
  EXPECT_EQ(other.in_use(), 1u);
}

TEST(PagedSeqState, TruncateGivesBackWhatFewerTokensDoNotNeed) {
  BlockAllocator alloc(4);
  cpu::Context ctx;
  State state(4, 4);
  state.ensure_capacity(ctx, alloc, 16);
  state.set_len(14);
  state.truncate(alloc, 5);
  EXPECT_EQ(ids_of(state), (Ids{0, 1}));
  EXPECT_EQ(state.len(), 5u);
  EXPECT_EQ(alloc.in_use(), 2u);
  state.truncate(alloc, 100);
  EXPECT_EQ(state.len(), 5u) << "never longer";
  EXPECT_EQ(alloc.in_use(), 2u);
}

TEST(PagedSeqState, MovesWithItsBlocksAndLeavesNoneBehind) {
  BlockAllocator alloc(4);
  cpu::Context ctx;
  State from(4, 4);
  from.ensure_capacity(ctx, alloc, 8);
  from.set_len(7);
  State to(std::move(from));
  EXPECT_EQ(ids_of(to), (Ids{0, 1}));
  EXPECT_EQ(to.len(), 7u);
  EXPECT_TRUE(from.blocks().empty());  // NOLINT(bugprone-use-after-move): that is the question
  EXPECT_EQ(from.len(), 0u);
  EXPECT_EQ(from.max_blocks_per_seq(), 0u);
  from.release(alloc);
  EXPECT_EQ(alloc.in_use(), 2u) << "the blocks are held once";
  EXPECT_THROW(from.ensure_capacity(ctx, alloc, 1), CapacityError);
  from.sync_context_len(ctx);
}

TEST(PagedSeqState, MoveAssignmentSwapsSoThatNoBlockIsLost) {
  BlockAllocator alloc(4);
  cpu::Context ctx;
  State a(4, 4);
  a.ensure_capacity(ctx, alloc, 8);
  State b(4, 2);
  b.ensure_capacity(ctx, alloc, 4);
  a = std::move(b);
  EXPECT_EQ(ids_of(a), Ids{2});
  EXPECT_EQ(a.max_blocks_per_seq(), 2u);
  EXPECT_EQ(ids_of(b), (Ids{0, 1}));  // NOLINT(bugprone-use-after-move): that is the question
  a.release(alloc);
  b.release(alloc);
  EXPECT_EQ(alloc.in_use(), 0u);
  auto& self = a;
  a = std::move(self);
  EXPECT_EQ(a.max_blocks_per_seq(), 2u);
}

TEST(PagedSeqState, ManySequencesShareOneAllocatorAndNoBlock) {
  BlockAllocator alloc(6);
  cpu::Context ctx;
  State a(4, 6);
  State b(4, 6);
  for (std::size_t tokens = 1; tokens <= 12; ++tokens) {
    a.ensure_capacity(ctx, alloc, tokens);
    b.ensure_capacity(ctx, alloc, tokens);
  }
  EXPECT_EQ(ids_of(a), (Ids{0, 2, 4}));
  EXPECT_EQ(ids_of(b), (Ids{1, 3, 5}));
  for (BlockId id = 0; id < 6; ++id) EXPECT_EQ(alloc.ref_count(id), 1u);
}

}  // namespace
