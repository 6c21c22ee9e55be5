// What each eviction policy is known for.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "eviction_steps.hpp"
#include "pagedkv/core/eviction/eviction_queue.hpp"

namespace {

using namespace pagedkv;
using namespace pagedkv_test;

TEST(Lru, EvictsTheLeastRecentlyReleasedFirst) {
  EvictionQueue queue(EvictionKind::lru, 6);
  add_chain(queue, {0, 1, 2});
  add_chain(queue, {3, 4});
  use(queue, 1);
  queue.hit(2);
  queue.acquire(2);
  EXPECT_EQ(evict_all(queue), (Ids{0, 4, 3, 1})) << "2 is in use";
}

TEST(Lfu, EvictsTheLeastUsedFirstAndAmongEqualsTheLeastRecentlyReleased) {
  EvictionQueue queue(EvictionKind::lfu, 5);
  for (BlockId b = 0; b < 5; ++b) add_chain(queue, {b});
  use(queue, 3);
  use(queue, 0);
  use(queue, 0);
  use(queue, 1);
  EXPECT_EQ(evict_all(queue), (Ids{2, 4, 3, 1, 0}));
}

TEST(Lfu, ForgetsTheUsesOfWhatItEvicts) {
  EvictionQueue queue(EvictionKind::lfu, 2);
  add_chain(queue, {0});
  for (int i = 0; i < 300; ++i) use(queue, 0);
  EXPECT_EQ(queue.victim(kAnyCanGo), 0u);
  add_chain(queue, {0});
  add_chain(queue, {1});
  use(queue, 1);
  EXPECT_EQ(queue.victim(kAnyCanGo), 0u);
}

TEST(Fifo, EvictsInTheOrderOfArrival) {
  EvictionQueue queue(EvictionKind::fifo, 4);
  for (BlockId b = 0; b < 4; ++b) queue.insert(b, b, 0);
  for (const BlockId b : {2, 0, 3, 1}) queue.release(b, true);
  use(queue, 0);
  EXPECT_EQ(evict_all(queue), (Ids{0, 1, 2, 3}));
}

TEST(S3Fifo, KeepsWhatWasUsedThroughAScan) {
  constexpr BlockId kBlocks = 100;
  EvictionQueue queue(EvictionKind::s3fifo, kBlocks);
  for (BlockId b = 0; b < kBlocks; ++b) add_chain(queue, {b});
  for (BlockId b = 0; b < 20; ++b) {
    use(queue, b);
    use(queue, b);
  }
  std::vector<bool> evicted(kBlocks);
  for (std::uint32_t scanned = 0; scanned < 500; ++scanned) {
    const BlockId b = queue.victim(kAnyCanGo).value();
    evicted[b] = true;
    queue.insert(b, 5000 + scanned, 0);
    queue.release(b, true);
  }
  EXPECT_EQ(std::count(evicted.begin(), evicted.begin() + 20, true), 0);
}

TEST(S3Fifo, TakesAGhostStraightToMain) {
  EvictionQueue queue(EvictionKind::s3fifo, 100);
  queue.insert(0, 42, 0);
  queue.release(0, true);
  EXPECT_EQ(queue.victim(kAnyCanGo), 0u);
  queue.insert(1, 42, 0);
  queue.release(1, true);
  for (BlockId b = 2; b < 30; ++b) add_chain(queue, {b});
  const Ids victims = evict_all(queue);
  EXPECT_GT(std::find(victims.begin(), victims.end(), 1u) - victims.begin(), 15);
}

TEST(Lifetable, IsLruWhileItKnowsNothing) {
  EvictionQueue queue(EvictionKind::lifetable, 200);
  std::vector<Ids> chains;
  for (BlockId first = 0; first < 200; first += 2) {
    chains.push_back({first, first + 1});
    add_chain(queue, chains.back());
  }
  // By epochs of 64 blocks, the older the earlier; within one, leaves go before what is not.
  const Ids victims = evict_all(queue);
  const auto epoch_of = [](BlockId b) { return (b / 2 * 2 + 2) / 64; };
  for (std::size_t i = 1; i < victims.size(); ++i) {
    EXPECT_LE(epoch_of(victims[i - 1]), epoch_of(victims[i])) << "at " << i;
  }
}

TEST(Lifetable, AtFirstTakesBlocksUsedMoreOftenToBeWorthMore) {
  EvictionQueue queue(EvictionKind::lifetable, 4);
  for (BlockId b = 0; b < 4; ++b) add_chain(queue, {b});
  use(queue, 0);
  use(queue, 0);
  use(queue, 2);
  EXPECT_EQ(evict_all(queue), (Ids{1, 3, 2, 0}));
}

}  // namespace
