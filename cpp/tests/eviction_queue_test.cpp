// EvictionQueue: what holds for every policy.

#include "pagedkv/core/eviction/eviction_queue.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "eviction_steps.hpp"
#include "expect_error.hpp"

namespace {

using namespace pagedkv;
using namespace pagedkv_test;

constexpr EvictionKind kKinds[] = {EvictionKind::lru, EvictionKind::lfu, EvictionKind::fifo,
                                   EvictionKind::s3fifo, EvictionKind::lifetable};
constexpr auto kNoneCanGo = [](BlockId) { return false; };

TEST(EvictionKind, IsNamedAndFoundByItsName) {
  for (const EvictionKind kind : kKinds) EXPECT_EQ(parse_eviction(eviction_name(kind)), kind);
  EXPECT_EQ(eviction_name(EvictionKind::s3fifo), "s3fifo");
  EXPECT_EQ(parse_eviction("own"), EvictionKind::lifetable);
  EXPECT_EQ(parse_eviction("LRU"), std::nullopt);
  EXPECT_EQ(parse_eviction(""), std::nullopt);
}

class EveryPolicy : public testing::TestWithParam<EvictionKind> {};

TEST_P(EveryPolicy, IsTheOneThatWasAskedFor) {
  EXPECT_EQ(EvictionQueue(GetParam(), 4).kind(), GetParam());
}

TEST_P(EveryPolicy, RefusesMoreBlocksThanIdsCanName) {
  expect_error<CapacityError>([] { EvictionQueue(GetParam(), std::size_t{1} << 31); },
                              "EvictionQueue", "2147483648", "at most 2147483647");
}

TEST_P(EveryPolicy, HasNoVictimWhileNothingIsEvictable) {
  EvictionQueue none(GetParam(), 0);
  EXPECT_EQ(none.victim(kAnyCanGo), std::nullopt);
  EvictionQueue queue(GetParam(), 2);
  EXPECT_EQ(queue.victim(kAnyCanGo), std::nullopt);
  queue.insert(1, 7, 0);
  EXPECT_EQ(queue.victim(kAnyCanGo), std::nullopt) << "it is referenced";
  queue.release(1, true);
  EXPECT_EQ(queue.victim(kAnyCanGo), BlockId{1});
  EXPECT_EQ(queue.victim(kAnyCanGo), std::nullopt) << "it is gone";
}

TEST_P(EveryPolicy, EvictsEachBlockOnce) {
  EvictionQueue queue(GetParam(), 100);
  for (BlockId first = 0; first < 100; first += 10) {
    Ids chain(10);
    std::iota(chain.begin(), chain.end(), first);
    add_chain(queue, chain);
  }
  for (BlockId b = 0; b < 100; b += 3) use(queue, b);
  EXPECT_EQ(queue.evictable_count(), 100u);
  Ids victims = evict_all(queue);
  std::sort(victims.begin(), victims.end());
  Ids all(100);
  std::iota(all.begin(), all.end(), 0);
  EXPECT_EQ(victims, all);
  EXPECT_EQ(queue.evictable_count(), 0u);
}

TEST_P(EveryPolicy, NeverEvictsAParentBeforeItsChildren) {
  EvictionQueue queue(GetParam(), 30);
  Ids chain(30);
  std::iota(chain.begin(), chain.end(), 0);
  add_chain(queue, chain);
  BlockId last = 29;  // the end of what is left of the chain
  const auto is_last = [&](BlockId b) { return b == last; };
  for (int left = 30; left > 0; --left) {
    EXPECT_EQ(queue.victim(is_last), last);
    if (last > 0) queue.reconsider(--last);
  }
}

TEST_P(EveryPolicy, SetsAsideWhatCannotGoAndTakesItFirstWhenItCan) {
  EvictionQueue queue(GetParam(), 4);
  add_chain(queue, {0});
  add_chain(queue, {1});
  add_chain(queue, {2});
  const auto blocked = queue.victim([](BlockId b) { return b != 0; });
  EXPECT_TRUE(blocked == 1u || blocked == 2u);
  EXPECT_EQ(queue.evictable_count(), 2u) << "a block set aside is still evictable";
  queue.reconsider(0);
  EXPECT_EQ(queue.victim(kAnyCanGo), 0u);
}

TEST_P(EveryPolicy, AsksNoMoreAboutABlockThatIsSetAside) {
  EvictionQueue queue(GetParam(), 8);
  add_chain(queue, {0, 1, 2, 3, 4, 5, 6, 7});
  int questions = 0;
  const auto refuse = [&](BlockId) {
    ++questions;
    return false;
  };
  EXPECT_EQ(queue.victim(refuse), std::nullopt);
  EXPECT_EQ(questions, 8);
  EXPECT_EQ(queue.victim(refuse), std::nullopt);
  EXPECT_EQ(questions, 8);
  EXPECT_EQ(queue.evictable_count(), 8u);
}

TEST_P(EveryPolicy, AsksTwiceABlockAtMostForAWholeChain) {
  constexpr BlockId kBlocks = 10000;
  EvictionQueue queue(GetParam(), kBlocks);
  Ids chain(kBlocks);
  std::iota(chain.begin(), chain.end(), 0);
  add_chain(queue, chain);
  BlockId last = kBlocks - 1;
  std::size_t questions = 0;
  for (BlockId i = 0; i < kBlocks; ++i) {
    ASSERT_EQ(queue.victim([&](BlockId b) {
      ++questions;
      return b == last;
    }),
              last);
    if (last > 0) queue.reconsider(--last);
  }
  EXPECT_LE(questions, 2u * kBlocks);
}

TEST_P(EveryPolicy, TakesBackABlockThatWasSetAside) {
  EvictionQueue queue(GetParam(), 2);
  add_chain(queue, {0});
  EXPECT_EQ(queue.victim(kNoneCanGo), std::nullopt);
  queue.hit(0);
  queue.acquire(0);
  EXPECT_EQ(queue.evictable_count(), 0u);
  EXPECT_EQ(queue.victim(kAnyCanGo), std::nullopt);
  queue.reconsider(0);
  EXPECT_EQ(queue.victim(kAnyCanGo), std::nullopt) << "it is not aside any more";
  queue.release(0, false);
  EXPECT_EQ(queue.victim(kAnyCanGo), 0u);
}

TEST_P(EveryPolicy, LetsABlockLeaveInAnyState) {
  EvictionQueue queue(GetParam(), 5);
  queue.remove(0);
  queue.insert(1, 11, 0);  // referenced
  add_chain(queue, {2});   // set aside below
  EXPECT_EQ(queue.victim(kNoneCanGo), std::nullopt);
  add_chain(queue, {3});  // evictable
  queue.insert(4, 14, 0);
  queue.release(4, true);
  queue.hit(4);
  queue.acquire(4);  // referenced again
  EXPECT_EQ(queue.evictable_count(), 2u);
  for (BlockId b = 0; b < 5; ++b) queue.remove(b);
  EXPECT_EQ(queue.evictable_count(), 0u);
  for (BlockId b = 0; b < 5; ++b) queue.reconsider(b);
  EXPECT_EQ(queue.victim(kAnyCanGo), std::nullopt);
  add_chain(queue, {0, 1, 2, 3, 4});
  EXPECT_EQ(evict_all(queue).size(), 5u) << "the ids are as good as new";
}

TEST_P(EveryPolicy, CountsWhatIsNotReferenced) {
  EvictionQueue queue(GetParam(), 3);
  for (BlockId b = 0; b < 3; ++b) queue.insert(b, b, b);
  EXPECT_EQ(queue.evictable_count(), 0u);
  queue.release(2, true);
  queue.release(1, false);
  EXPECT_EQ(queue.evictable_count(), 2u);
  queue.acquire(1);
  EXPECT_EQ(queue.evictable_count(), 1u);
  queue.remove(2);
  EXPECT_EQ(queue.evictable_count(), 0u);
}

TEST_P(EveryPolicy, IgnoresTheHintAboutABlockThatIsReferencedOrUnknown) {
  EvictionQueue queue(GetParam(), 2);
  queue.supersede(0);
  queue.insert(1, 1, 0);
  queue.supersede(1);
  EXPECT_EQ(queue.victim(kAnyCanGo), std::nullopt);
  EXPECT_EQ(queue.evictable_count(), 0u);
}

TEST_P(EveryPolicy, EvictsTheLowestLevelFirst) {
  EvictionQueue queue(GetParam(), 6, 101);
  const std::uint8_t levels[] = {100, 0, 50, 0, 50, 7};
  for (BlockId b = 0; b < 6; ++b) {
    queue.insert(b, b, 0, levels[b]);
    queue.release(b, true);
    EXPECT_EQ(queue.level(b), levels[b]);
  }
  EXPECT_EQ(evict_all(queue), (Ids{1, 3, 5, 2, 4, 0}));
}

TEST_P(EveryPolicy, TakesABlockToAnotherLevelWithItsPast) {
  EvictionQueue queue(GetParam(), 3, 3);
  for (const BlockId b : {0, 1, 2}) queue.insert(b, b, 0, 1);
  queue.change_level(1, 2);
  queue.change_level(2, 0);
  for (const BlockId b : {0, 1, 2}) queue.release(b, true);
  EXPECT_EQ(evict_all(queue), (Ids{2, 0, 1}));
}

TEST_P(EveryPolicy, GoesToTheNextLevelWhenNothingOfOneCanGo) {
  EvictionQueue queue(GetParam(), 2, 2);
  for (const BlockId b : {0, 1}) {
    queue.insert(b, b, 0, static_cast<std::uint8_t>(b));
    queue.release(b, true);
  }
  EXPECT_EQ(queue.victim([](BlockId b) { return b == 1; }), 1u);
  queue.reconsider(0);
  EXPECT_EQ(queue.victim(kAnyCanGo), 0u);
}

TEST_P(EveryPolicy, KnowsABlockByItsNewName) {
  EvictionQueue queue(GetParam(), 8, 2);
  add_chain(queue, {0, 1});
  queue.insert(2, 2, 0, 1);
  queue.release(2, true);
  queue.insert(3, 3, 0);  // referenced
  queue.rename(1, 4);
  queue.rename(2, 5);
  queue.rename(3, 6);
  queue.release(6, true);
  const Ids victims = evict_all(queue);
  EXPECT_EQ(victims.size(), 4u);
  EXPECT_EQ(victims.back(), 5u) << "of the higher level";
  EXPECT_EQ(std::count(victims.begin(), victims.end(), 4u), 1);
  EXPECT_EQ(std::count(victims.begin(), victims.end(), 6u), 1);
}

TEST_P(EveryPolicy, GoesOnInAnObjectThatItWasMovedTo) {
  EvictionQueue queue(GetParam(), 3);
  add_chain(queue, {0, 1});
  EvictionQueue moved(std::move(queue));
  EXPECT_EQ(evict_all(moved).size(), 2u);
}

INSTANTIATE_TEST_SUITE_P(Policies, EveryPolicy, testing::ValuesIn(kKinds), [](const auto& tested) {
  return std::string(eviction_name(tested.param));
});

}  // namespace
