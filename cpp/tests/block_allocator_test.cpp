// BlockAllocator: ids alone, reference-counted.

#include "pagedkv/core/block_allocator.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <limits>
#include <memory>
#include <utility>
#include <vector>

#include "expect_error.hpp"

namespace {

using namespace pagedkv;
using pagedkv_test::expect_error;
using Ids = std::vector<BlockId>;

Ids take(BlockAllocator& alloc, std::size_t n) {
  Ids ids(n);
  alloc.allocate_n(ids);
  return ids;
}

TEST(BlockAllocator, FreshIdsComeZeroFirst) {
  BlockAllocator alloc(4);
  EXPECT_EQ(alloc.allocate(), 0u);
  EXPECT_EQ(alloc.try_allocate(), BlockId{1});
  EXPECT_EQ(take(alloc, 2), (Ids{2, 3}));
}

TEST(BlockAllocator, ReuseIsLastInFirstOut) {
  BlockAllocator alloc(8);
  take(alloc, 4);
  alloc.free(1);
  alloc.free(3);
  alloc.free(0);
  EXPECT_EQ(alloc.allocate(), 0u);
  EXPECT_EQ(alloc.allocate(), 3u);
  EXPECT_EQ(alloc.allocate(), 1u);
  EXPECT_EQ(alloc.allocate(), 4u) << "and then a fresh one";
}

TEST(BlockAllocator, AListIsFreedInItsOrderAndTakenBackFromItsEnd) {
  BlockAllocator alloc(6);
  take(alloc, 4);
  alloc.free(Ids{0, 1, 2});
  EXPECT_EQ(take(alloc, 5), (Ids{2, 1, 0, 4, 5})) << "reused ids before fresh ones";
}

TEST(BlockAllocator, AllocateFromAnExhaustedOneIsAnError) {
  BlockAllocator alloc(1);
  EXPECT_EQ(alloc.allocate(), 0u);
  const auto error = expect_error<PoolExhaustedError>(
      [&] { (void)alloc.allocate(); }, "BlockAllocator.allocate", "1 needed, 0 free", "as many");
  EXPECT_EQ(error.needed(), 1u);
  EXPECT_EQ(error.free(), 0u);
  EXPECT_FALSE(alloc.try_allocate());
}

TEST(BlockAllocator, AllocateNIsAllOrNothing) {
  BlockAllocator alloc(5);
  take(alloc, 2);
  Ids ids(4, 99);
  const auto error =
      expect_error<PoolExhaustedError>([&] { alloc.allocate_n(ids); }, "BlockAllocator.allocate_n",
                                       "4 needed, 3 free", "as many free");
  EXPECT_EQ(error.needed(), 4u);
  EXPECT_EQ(error.free(), 3u);
  EXPECT_EQ(ids, Ids(4, 99)) << "the caller's list is as it was";
  EXPECT_EQ(alloc.in_use(), 2u);
  EXPECT_EQ(take(alloc, 3), (Ids{2, 3, 4}));
}

TEST(BlockAllocator, AllocateNOfNothingIsNothing) {
  BlockAllocator alloc(0);
  alloc.allocate_n({});
  EXPECT_EQ(alloc.in_use(), 0u);
}

TEST(BlockAllocator, AcquireHoldsABlockOnceMore) {
  BlockAllocator alloc(2);
  const auto id = alloc.allocate();
  EXPECT_EQ(alloc.ref_count(id), 1u);
  alloc.acquire(id);
  alloc.acquire(Ids{id, id});
  EXPECT_EQ(alloc.ref_count(id), 4u);
  EXPECT_EQ(alloc.in_use(), 1u) << "held often, but one block";
}

TEST(BlockAllocator, ABlockIsFreeWhenNobodyHoldsIt) {
  BlockAllocator alloc(1);
  const auto id = alloc.allocate();
  alloc.acquire(id);
  alloc.free(id);
  EXPECT_TRUE(alloc.is_live(id));
  EXPECT_EQ(alloc.free_count(), 0u);
  alloc.free(id);
  EXPECT_FALSE(alloc.is_live(id));
  EXPECT_EQ(alloc.free_count(), 1u);
  EXPECT_EQ(alloc.ref_count(id), 0u);
}

TEST(BlockAllocator, AcquireIsAllOrNothing) {
  BlockAllocator alloc(4);
  take(alloc, 3);
  alloc.free(2);
  for (const BlockId bad : {2u, 3u, 4u, std::numeric_limits<BlockId>::max()}) {
    const auto error = expect_error<InvalidSlotError>([&] { alloc.acquire(Ids{0, 1, 0, bad}); },
                                                      "BlockAllocator.acquire",
                                                      "block id " + std::to_string(bad), "");
    EXPECT_EQ(error.slot(), bad);
    EXPECT_EQ(alloc.ref_count(0), 1u);
    EXPECT_EQ(alloc.ref_count(1), 1u);
  }
}

TEST(BlockAllocator, FreeOfAnIdThatIsNotLiveIsAnErrorAndChangesNothing) {
  BlockAllocator alloc(3);
  take(alloc, 2);
  alloc.free(1);
  const auto expect_refused = [&](BlockId id, const char* given, const char* expected) {
    EXPECT_EQ(expect_error<InvalidSlotError>([&] { alloc.free(id); }, "BlockAllocator.free", given,
                                             expected)
                  .slot(),
              id);
    EXPECT_EQ(alloc.free_count(), 2u);
  };
  expect_refused(1, "block id 1 is not live", "held");
  expect_refused(2, "block id 2 is not live", "held");
  expect_refused(3, "block id 3 is out of range", "less than 3");
  expect_refused(std::numeric_limits<BlockId>::max(), "block id 4294967295 is out of range",
                 "less than 3");
  EXPECT_EQ(alloc.allocate(), 1u);
}

TEST(BlockAllocator, FreeOfAListIsAllOrNothing) {
  BlockAllocator alloc(5);
  take(alloc, 4);
  alloc.free(3);
  for (const BlockId bad : {3u, 4u, 5u}) {
    const auto error = expect_error<InvalidSlotError>([&] { alloc.free(Ids{2, 0, bad, 1}); },
                                                      "BlockAllocator.free",
                                                      "block id " + std::to_string(bad), "");
    EXPECT_EQ(error.slot(), bad);
  }
  EXPECT_EQ(alloc.in_use(), 3u);
  for (const BlockId id : {0u, 1u, 2u}) EXPECT_EQ(alloc.ref_count(id), 1u);
  EXPECT_EQ(take(alloc, 2), (Ids{3, 4})) << "the order of reuse is as it was, too";
}

TEST(BlockAllocator, AnIdNamedMoreOftenThanItIsHeldIsAnErrorAndChangesNothing) {
  BlockAllocator alloc(3);
  take(alloc, 2);
  alloc.acquire(0);
  EXPECT_EQ(expect_error<InvalidSlotError>([&] { alloc.free(Ids{0, 1, 0, 0}); },
                                           "BlockAllocator.free", "block id 0", "held")
                .slot(),
            0u);
  EXPECT_EQ(alloc.ref_count(0), 2u);
  EXPECT_EQ(alloc.ref_count(1), 1u);
  alloc.free(Ids{0, 1, 0});  // as often as it is held is right
  EXPECT_EQ(alloc.in_use(), 0u);
}

TEST(BlockAllocator, RefCountOfAFreeIdIsZeroAndOutOfRangeAnError) {
  BlockAllocator alloc(2);
  EXPECT_EQ(alloc.ref_count(0), 0u) << "never handed out";
  alloc.free(alloc.allocate());
  EXPECT_EQ(alloc.ref_count(0), 0u) << "handed out and given back";
  EXPECT_EQ(
      expect_error<InvalidSlotError>([&] { (void)alloc.ref_count(2); }, "BlockAllocator.ref_count",
                                     "block id 2 is out of range", "less than 2")
          .slot(),
      2u);
}

TEST(BlockAllocator, AnyNumberMayBeAskedAbout) {
  BlockAllocator alloc(2);
  take(alloc, 1);
  EXPECT_TRUE(alloc.is_live(0));
  EXPECT_FALSE(alloc.is_live(1));
  EXPECT_FALSE(alloc.is_live(2));
  EXPECT_FALSE(alloc.is_live(std::uint64_t{1} << 32)) << "not cut down to 32 bits";
  EXPECT_FALSE(alloc.is_live(std::numeric_limits<std::uint64_t>::max()));
}

TEST(BlockAllocator, CountsWhatIsFreeInUseAndWasEverInUse) {
  BlockAllocator alloc(4);
  EXPECT_EQ(alloc.capacity(), 4u);
  EXPECT_EQ(alloc.free_count(), 4u);
  EXPECT_EQ(alloc.peak_in_use(), 0u);
  take(alloc, 3);
  alloc.free(Ids{0, 1});
  EXPECT_EQ(alloc.in_use(), 1u);
  EXPECT_EQ(alloc.free_count(), 3u);
  EXPECT_EQ(alloc.peak_in_use(), 3u);
  EXPECT_THROW(take(alloc, 4), PoolExhaustedError);
  EXPECT_EQ(alloc.peak_in_use(), 3u) << "what was refused was never in use";
}

TEST(BlockAllocator, TakesUpTo2To31Minus1BlocksAndNoMore) {
  EXPECT_EQ(BlockAllocator::kMaxCapacity, 2147483647u);
  for (const auto capacity :
       {BlockAllocator::kMaxCapacity + 1, std::numeric_limits<std::size_t>::max()}) {
    expect_error<CapacityError>([&] { BlockAllocator alloc(capacity); }, "BlockAllocator",
                                "capacity " + std::to_string(capacity), "at most 2147483647");
  }
}

TEST(BlockAllocator, MovesAndLeavesAnEmptyOneBehind) {
  BlockAllocator from(3);
  take(from, 2);
  from.free(0);
  BlockAllocator to(std::move(from));
  EXPECT_EQ(to.capacity(), 3u);
  EXPECT_EQ(to.in_use(), 1u);
  EXPECT_EQ(to.peak_in_use(), 2u);
  EXPECT_EQ(from.capacity(), 0u);  // NOLINT(bugprone-use-after-move): that is the question
  EXPECT_EQ(from.free_count(), 0u);
  EXPECT_FALSE(from.is_live(1));
  EXPECT_THROW((void)from.allocate(), PoolExhaustedError);

  from = std::move(to);
  EXPECT_EQ(from.allocate(), 0u);
  auto& self = from;
  from = std::move(self);
  EXPECT_EQ(from.in_use(), 2u);
}

// A count at its limit cannot be reached in a test's time, so it is written into the one private
// array: naming a private member is allowed in an explicit instantiation.
using Counts = std::unique_ptr<std::uint32_t[]> BlockAllocator::*;
Counts counts_of();
template <Counts member>
struct Reveal {
  friend Counts counts_of() { return member; }
};
template struct Reveal<&BlockAllocator::ref_counts_>;

TEST(BlockAllocator, ABlockHeldAsOftenAsCanBeCountedCannotBeAcquired) {
  BlockAllocator alloc(2);
  take(alloc, 2);
  (alloc.*counts_of())[1] = std::numeric_limits<std::uint32_t>::max() - 1;
  alloc.acquire(1);
  expect_error<CapacityError>([&] { alloc.acquire(Ids{0, 1}); }, "BlockAllocator.acquire",
                              "block id 1 is held 4294967295 times", "fewer");
  EXPECT_EQ(alloc.ref_count(0), 1u);
  EXPECT_EQ(alloc.ref_count(1), std::numeric_limits<std::uint32_t>::max());
}

}  // namespace
