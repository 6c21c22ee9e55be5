// PagedSeqState as its device sees it: what is written, when, and what happens when a write fails.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "pagedkv/core/paged_seq_state.hpp"
#include "recording_backend.hpp"

namespace {

using namespace pagedkv;
using pagedkv_test::DeviceError;
using pagedkv_test::RecordingBackend;
using pagedkv_test::Tape;
using Ints = std::vector<std::int32_t>;

constexpr std::size_t kBlockSize = 4;
constexpr std::size_t kMaxBlocks = 6;

class PagedSeqStateOnDevice : public testing::Test {
 protected:
  Ints device_table() const {
    const auto table = state.block_table_buf().as<std::int32_t>();
    return {table.begin(), table.end()};
  }
  std::int32_t device_len() const { return state.context_lens_buf().as<std::int32_t>()[0]; }

  /// What the device must show: the blocks, then -1.
  Ints padded_blocks() const {
    Ints table(kMaxBlocks, kNoBlock);
    std::ranges::copy(state.blocks(), table.begin());
    return table;
  }

  /// The only write since the tape was cleared was `[first, first + count)` of the table.
  void expect_one_table_write(std::size_t first, std::size_t count) const {
    ASSERT_EQ(tape.writes.size(), 1u);
    EXPECT_EQ(tape.writes[0].buffer, state.block_table_buf().bytes().data());
    EXPECT_EQ(tape.writes[0].first, first);
    EXPECT_EQ(tape.writes[0].count, count);
  }

  Tape tape;
  RecordingBackend::Context ctx{&tape};
  BlockAllocator alloc{16};
  PagedSeqState<RecordingBackend> state{kBlockSize, kMaxBlocks, {&tape}};
};

TEST_F(PagedSeqStateOnDevice, StartsWithATableOfMinus1AndALengthOf0) {
  EXPECT_EQ(device_table(), Ints(kMaxBlocks, -1)) << "never 0, which is a real block";
  EXPECT_EQ(device_len(), 0);
  EXPECT_EQ(tape.device_writes(), 0u);
}

TEST_F(PagedSeqStateOnDevice, EnsureCapacityUploadsOnlyTheNewEntriesInOneWrite) {
  state.ensure_capacity(ctx, alloc, 2 * kBlockSize);
  expect_one_table_write(0, 2);
  tape.clear();
  state.ensure_capacity(ctx, alloc, 5 * kBlockSize);
  expect_one_table_write(2, 3);
  EXPECT_EQ(device_table(), (Ints{0, 1, 2, 3, 4, -1})) << "padded with -1";
}

TEST_F(PagedSeqStateOnDevice, ACallThatNeedsNothingWritesNothing) {
  state.ensure_capacity(ctx, alloc, 2 * kBlockSize);
  state.set_len(5);
  state.sync_context_len(ctx);
  tape.clear();
  state.ensure_capacity(ctx, alloc, 0);
  state.ensure_capacity(ctx, alloc, 2 * kBlockSize);
  state.sync_context_len(ctx);
  EXPECT_EQ(tape.device_writes(), 0u);
}

TEST_F(PagedSeqStateOnDevice, EnsureCapacityDoesNotTouchTheLength) {
  state.ensure_capacity(ctx, alloc, kBlockSize);
  EXPECT_EQ(device_len(), 0);
}

TEST_F(PagedSeqStateOnDevice, SyncContextLenWritesTheLength) {
  state.ensure_capacity(ctx, alloc, 2 * kBlockSize);
  state.set_len(5);
  EXPECT_EQ(device_len(), 0) << "not before it is synced";
  tape.clear();
  state.sync_context_len(ctx);
  EXPECT_EQ(device_len(), 5);
  ASSERT_EQ(tape.writes.size(), 1u);
  EXPECT_EQ(tape.writes[0].buffer, state.context_lens_buf().bytes().data());
}

TEST_F(PagedSeqStateOnDevice, ReleaseWithoutAContextLeavesTheDeviceAlone) {
  state.ensure_capacity(ctx, alloc, 3 * kBlockSize);
  state.set_len(9);
  state.sync_context_len(ctx);
  tape.clear();
  state.release(alloc);
  EXPECT_EQ(tape.device_writes(), 0u);
  EXPECT_EQ(device_table(), (Ints{0, 1, 2, -1, -1, -1}));
  EXPECT_EQ(device_len(), 9);
}

TEST_F(PagedSeqStateOnDevice, TheNextEnsureCapacityRewritesWhatAReleaseLeftStale) {
  state.ensure_capacity(ctx, alloc, 3 * kBlockSize);
  state.release(alloc);
  tape.clear();
  state.ensure_capacity(ctx, alloc, 1);
  expect_one_table_write(0, 3);
  EXPECT_EQ(device_table(), padded_blocks());
}

TEST_F(PagedSeqStateOnDevice, StaleEntriesAreRewrittenAlsoWhenNoBlockIsNeeded) {
  state.ensure_capacity(ctx, alloc, 3 * kBlockSize);
  state.release(alloc);
  tape.clear();
  state.ensure_capacity(ctx, alloc, 0);
  expect_one_table_write(0, 3);
  EXPECT_EQ(device_table(), Ints(kMaxBlocks, -1));
}

TEST_F(PagedSeqStateOnDevice, TheNextSyncRewritesALengthThatAReleaseLeftStale) {
  state.ensure_capacity(ctx, alloc, kBlockSize);
  state.set_len(3);
  state.sync_context_len(ctx);
  state.release(alloc);
  tape.clear();
  state.sync_context_len(ctx);
  EXPECT_EQ(tape.writes.size(), 1u);
  EXPECT_EQ(device_len(), 0);
}

TEST_F(PagedSeqStateOnDevice, ReleaseWithAContextResetsTheDevice) {
  state.ensure_capacity(ctx, alloc, 3 * kBlockSize);
  state.set_len(9);
  state.sync_context_len(ctx);
  state.release(ctx, alloc);
  EXPECT_EQ(device_table(), Ints(kMaxBlocks, -1));
  EXPECT_EQ(device_len(), 0);
  EXPECT_EQ(alloc.in_use(), 0u);
  tape.clear();
  state.release(ctx, alloc);
  EXPECT_EQ(tape.device_writes(), 0u) << "twice is harmless";
}

TEST_F(PagedSeqStateOnDevice, ATruncatedTailIsRewrittenByTheNextCall) {
  state.ensure_capacity(ctx, alloc, 5 * kBlockSize);
  state.truncate(alloc, 2 * kBlockSize);
  tape.clear();
  state.ensure_capacity(ctx, alloc, 3 * kBlockSize);
  expect_one_table_write(2, 3);
  EXPECT_EQ(device_table(), padded_blocks());
}

TEST_F(PagedSeqStateOnDevice, ExhaustionLeavesTheDeviceAsItWas) {
  BlockAllocator small(2);
  state.ensure_capacity(ctx, small, kBlockSize);
  tape.clear();
  EXPECT_THROW(state.ensure_capacity(ctx, small, 3 * kBlockSize), PoolExhaustedError);
  EXPECT_EQ(tape.device_writes(), 0u);
  EXPECT_EQ(device_table(), (Ints{0, -1, -1, -1, -1, -1}));
}

TEST_F(PagedSeqStateOnDevice, TooLongASequenceLeavesTheDeviceAsItWas) {
  EXPECT_THROW(state.ensure_capacity(ctx, alloc, 7 * kBlockSize), CapacityError);
  EXPECT_EQ(tape.device_writes(), 0u);
}

TEST_F(PagedSeqStateOnDevice, AFailedUploadLeavesHostAndAllocatorAsTheyWere) {
  for (const bool torn : {false, true}) {
    state.ensure_capacity(ctx, alloc, 2 * kBlockSize);
    const std::vector<BlockId> before(state.blocks().begin(), state.blocks().end());
    tape.calls_until_failure = 0;
    tape.torn = torn;
    EXPECT_THROW(state.ensure_capacity(ctx, alloc, 5 * kBlockSize), DeviceError);
    EXPECT_TRUE(std::ranges::equal(state.blocks(), before));
    EXPECT_EQ(alloc.in_use(), 2u);
    EXPECT_EQ(alloc.ref_count(2), 0u);
  }
}

TEST_F(PagedSeqStateOnDevice, AFailedUploadLeavesNoTraceInTheIdsThatFollow) {
  const auto ids_after = [](bool fails) {
    BlockAllocator ids(16);
    Tape events;
    RecordingBackend::Context context{&events};
    PagedSeqState<RecordingBackend> one(kBlockSize, kMaxBlocks);
    one.ensure_capacity(context, ids, 3 * kBlockSize);
    one.truncate(ids, kBlockSize);  // 1 and 2 are to be reused, 3 is fresh
    if (fails) {
      events.calls_until_failure = 0;
      EXPECT_THROW(one.ensure_capacity(context, ids, 4 * kBlockSize), DeviceError);
    }
    std::vector<BlockId> next(5);
    ids.allocate_n(next);
    return next;
  };
  EXPECT_EQ(ids_after(true), ids_after(false));
}

TEST_F(PagedSeqStateOnDevice, TheNextCallRepairsWhatAFailedUploadLeft) {
  for (const std::size_t target : {0 * kBlockSize, 1 * kBlockSize, 6 * kBlockSize}) {
    state.release(ctx, alloc);
    state.ensure_capacity(ctx, alloc, kBlockSize);
    tape.calls_until_failure = 0;
    tape.torn = true;
    EXPECT_THROW(state.ensure_capacity(ctx, alloc, 5 * kBlockSize), DeviceError);
    EXPECT_NE(device_table(), padded_blocks()) << "half of it was written";
    tape.clear();
    state.ensure_capacity(ctx, alloc, target);
    EXPECT_EQ(tape.writes.size(), 1u);
    EXPECT_EQ(device_table(), padded_blocks()) << "target " << target;
  }
}

TEST_F(PagedSeqStateOnDevice, AFailedSyncIsWrittenAgainByTheNextOne) {
  state.ensure_capacity(ctx, alloc, kBlockSize);
  state.set_len(3);
  tape.calls_until_failure = 0;
  EXPECT_THROW(state.sync_context_len(ctx), DeviceError);
  EXPECT_EQ(state.len(), 3u);
  state.sync_context_len(ctx);
  EXPECT_EQ(device_len(), 3);

  state.set_len(4);
  tape.calls_until_failure = 0;
  EXPECT_THROW(state.sync_context_len(ctx), DeviceError);
  state.set_len(3);
  tape.clear();
  state.sync_context_len(ctx);
  EXPECT_EQ(tape.writes.size(), 1u) << "what is there is unknown, so it is written";
}

TEST_F(PagedSeqStateOnDevice, AReleaseThatCannotReachTheDeviceGivesTheBlocksBackAllTheSame) {
  for (const std::size_t calls_before : {0u, 1u}) {
    state.ensure_capacity(ctx, alloc, 2 * kBlockSize);
    state.set_len(5);
    state.sync_context_len(ctx);
    tape.calls_until_failure = calls_before;
    EXPECT_THROW(state.release(ctx, alloc), DeviceError);
    EXPECT_EQ(alloc.in_use(), 0u);
    EXPECT_EQ(state.len(), 0u);
    state.release(ctx, alloc);
    EXPECT_EQ(device_table(), Ints(kMaxBlocks, -1));
    EXPECT_EQ(device_len(), 0);
  }
}

TEST_F(PagedSeqStateOnDevice, AMovedStateKnowsWhatItsDeviceHolds) {
  state.ensure_capacity(ctx, alloc, 3 * kBlockSize);
  state.release(alloc);
  PagedSeqState<RecordingBackend> moved(std::move(state));
  tape.clear();
  moved.ensure_capacity(ctx, alloc, 1);
  ASSERT_EQ(tape.writes.size(), 1u);
  EXPECT_EQ(tape.writes[0].count, 3u) << "what was stale is stale still";
  tape.clear();
  state.ensure_capacity(ctx, alloc, 0);  // NOLINT(bugprone-use-after-move): that is the question
  state.sync_context_len(ctx);
  EXPECT_EQ(tape.device_writes(), 0u) << "the one left behind has no device";
}

TEST_F(PagedSeqStateOnDevice, ConstructionThatFailsOnTheDeviceIsTheDevicesError) {
  for (const std::size_t calls_before : {0u, 1u}) {
    tape.calls_until_failure = calls_before;
    EXPECT_THROW((PagedSeqState<RecordingBackend>(kBlockSize, kMaxBlocks, {&tape})), DeviceError);
  }
}

}  // namespace
