// KVCacheManager: a step allocates nothing, and a call that finds no memory changes nothing.

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <numeric>
#include <optional>
#include <utility>
#include <vector>

#include "counting_new.hpp"
#include "out_of_memory.hpp"
#include "pagedkv/pagedkv.hpp"

namespace {

using namespace pagedkv;
using pagedkv_test::for_each_failing_allocation;
using Ids = std::vector<SeqId>;
using Counts = std::vector<std::int32_t>;
using Tokens = std::vector<TokenId>;

constexpr std::size_t kBlockSize = 4;

ManagerOptions options() {
  ManagerOptions options;
  options.num_blocks = 64;
  options.block_size = kBlockSize;
  options.groups = {GroupSpec::full_attention(), GroupSpec::sliding_window(6, 2)};
  options.num_host_blocks = 64;
  options.hash_key = detail::HashKey{1, 2};
  return options;
}

Tokens text(std::size_t length, TokenId first = 0) {
  Tokens tokens(length);
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

void prefill(KVCacheManager& manager, SeqId id, const Tokens& tokens) {
  manager.add(id, tokens);
  std::int32_t cached = 0;
  manager.acquire({&id, 1}, {&cached, 1});
  const std::int32_t rest = static_cast<std::int32_t>(tokens.size()) - cached;
  manager.schedule({&id, 1}, {&rest, 1});
  manager.commit({&id, 1}, {&rest, 1});
}

TEST(HotPath, StepOfTheManagerOnceItIsWarm) {
  constexpr std::size_t kSeqs = 8, kSteps = 40;
  ManagerOptions large = options();
  large.num_blocks = 1000;
  KVCacheManager manager(large);
  Batch batch = manager.new_batch(kSeqs, 64, 32);
  Ids ids(kSeqs);
  std::iota(ids.begin(), ids.end(), SeqId{0});
  const Counts one(kSeqs, 1);
  for (int round = 0; round < 3; ++round) {
    for (const SeqId id : ids) prefill(manager, id, text(20, static_cast<TokenId>(100 * id)));
    manager.append(ids, Tokens(kSeqs, 1));
    manager.schedule(ids, one, 0, &batch);
    const std::size_t before = pagedkv_test::total_allocations();
    for (std::size_t step = 0; step < kSteps; ++step) {  // blocks are taken, indexed, given back
      manager.step(ids, Tokens(kSeqs, static_cast<TokenId>(1000 * round + step)), &batch);
    }
    // The tokens are the test's own; the first round grows what later ones find.
    if (round != 0) {
      EXPECT_EQ(pagedkv_test::total_allocations() - before, kSteps);
    }
    manager.free(ids);
  }
}

TEST(ManagerWithoutMemory, WhatIsOverdueIsReconsidered) {
  pagedkv::detail::Expiry expiry;
  ASSERT_TRUE(expiry.set(7, 1));
  ASSERT_TRUE(expiry.set(8, 2));
  EXPECT_EQ(expiry.next(1), 7);
  EXPECT_EQ(expiry.next(1), std::nullopt);
  {
    const pagedkv_test::FailingAllocation none(1, pagedkv_test::FailingAllocation::Then::fails_on);
    expiry.reconsider(7);
    expiry.reconsider(7);
    expiry.reconsider(8);
  }
  EXPECT_EQ(expiry.next(2), 7);
  EXPECT_EQ(expiry.next(2), 8);
  expiry.clear(7);
  expiry.reconsider(7);
  EXPECT_EQ(expiry.next(2), std::nullopt);
}

/// What can be seen of a manager.
struct Seen {
  std::vector<std::vector<std::size_t>> sequences;
  std::size_t free_blocks = 0, cached_blocks = 0, hit = 0;
  friend bool operator==(const Seen&, const Seen&) = default;
};

Seen observe(KVCacheManager& manager) {
  manager.check();
  Seen seen;
  for (SeqId id = 0; id < 10; ++id) {
    if (!manager.contains(id)) continue;
    auto& s = seen.sequences.emplace_back();
    s = {static_cast<std::size_t>(id), manager.num_tokens(id), manager.num_scheduled(id),
         manager.num_committed(id)};
    for (std::size_t g = 0; g < 2; ++g) {
      for (const std::int32_t b : manager.block_ids(id, g))
        s.push_back(static_cast<std::size_t>(b));
    }
  }
  seen.free_blocks = manager.num_free_blocks();
  seen.cached_blocks = manager.stats().num_cached_blocks;
  seen.hit = manager.probe(text(20));
  return seen;
}

/// A manager with cached blocks (of 0), a running sequence (1), one that waits (2), a preempted one
/// (3) and one in host memory (4).
std::unique_ptr<KVCacheManager> make() {
  auto manager = std::make_unique<KVCacheManager>(options());
  prefill(*manager, 0, text(13));
  const SeqId cached = 0, preempted = 3, swapped = 4;
  manager->free({&cached, 1});
  prefill(*manager, 1, text(11, 500));
  manager->add(2, text(15));
  prefill(*manager, preempted, text(9, 700));
  manager->preempt({&preempted, 1});
  prefill(*manager, swapped, text(10, 800));
  manager->swap_out({&swapped, 1});
  return manager;
}

/// `call(manager)` gives std::bad_alloc at each of its allocations in turn; each time nothing has
/// changed, and the books are right. In the end it succeeds.
template <class Call>
void expect_unchanged_without_memory(Call call) {
  for_each_failing_allocation([&](std::size_t n, pagedkv_test::FailingAllocation::Then then) {
    const auto manager = make();
    const Seen before = observe(*manager);
    bool succeeded = false;
    try {
      const pagedkv_test::FailingAllocation failing(n, then);
      call(*manager);
      succeeded = true;
    } catch (const std::bad_alloc&) {
    }
    const Seen after = observe(*manager);
    if (!succeeded) {
      EXPECT_TRUE(after == before) << "changed";
    }
    return succeeded;
  });
}

const Ids kRunning{1};
const Ids kWaiting{2, 3};

TEST(ManagerWithoutMemory, Constructor) {
  pagedkv_test::expect_survives_out_of_memory([] { return KVCacheManager(options()); });
}

TEST(ManagerWithoutMemory, Add) {
  expect_unchanged_without_memory([](KVCacheManager& manager) {
    AddOptions options;
    options.salt = "a salt that is too long to be held in place";
    options.extras = {{3, 2, "a digest that is too long to be held in place"}};
    manager.add(9, text(40), options);
  });
}

TEST(ManagerWithoutMemory, Acquire) {
  expect_unchanged_without_memory([](KVCacheManager& manager) {
    Counts cached(kWaiting.size());
    manager.acquire(kWaiting, cached);
  });
}

TEST(ManagerWithoutMemory, Schedule) {
  const Counts counts{37};
  expect_unchanged_without_memory(
      [&](KVCacheManager& manager) { manager.schedule(kRunning, counts); });
}

TEST(ManagerWithoutMemory, CommitLeavesBlocksOutOfTheIndexAndEntersThemLater) {
  KVCacheManager manager(options());
  const Ids ids{1};
  const Extra image{1, 2, "a digest that is too long to be held in place"};
  AddOptions with_image;
  with_image.extras = {image};
  manager.add(1, text(8), with_image);
  Counts counts{0};
  manager.acquire(ids, counts);
  counts = {8};
  manager.schedule(ids, counts);
  {
    const pagedkv_test::FailingAllocation failing(1,
                                                  pagedkv_test::FailingAllocation::Then::fails_on);
    manager.commit(ids, counts);
  }
  manager.check();
  EXPECT_EQ(manager.num_committed(1), 8u);
  EXPECT_EQ(manager.probe(text(13), {}, {image}), 0u);
  counts = {4};
  manager.schedule(ids, counts);
  manager.append(ids, text(4, 8), counts);
  manager.commit(ids, counts);
  manager.check();
  EXPECT_EQ(manager.probe(text(13), {}, {image}), 12u);
}

TEST(ManagerWithoutMemory, Append) {
  const Counts counts{30};
  const Tokens tokens = text(30, 900);
  expect_unchanged_without_memory(
      [&](KVCacheManager& manager) { manager.append(kRunning, tokens, counts); });
}

TEST(ManagerWithoutMemory, Fork) {
  expect_unchanged_without_memory([](KVCacheManager& manager) { manager.fork(1, 9); });
}

TEST(ManagerWithoutMemory, Hold) {
  expect_unchanged_without_memory([](KVCacheManager& manager) { (void)manager.hold(1, 11); });
}

TEST(ManagerWithoutMemory, SwapOut) {
  expect_unchanged_without_memory(
      [](KVCacheManager& manager) { (void)manager.swap_out(kRunning); });
}

TEST(ManagerWithoutMemory, SwapIn) {
  expect_unchanged_without_memory([](KVCacheManager& manager) {
    const SeqId id = 4;
    (void)manager.swap_in({&id, 1});
  });
}

TEST(ManagerWithoutMemory, Compact) {
  expect_unchanged_without_memory([](KVCacheManager& manager) { (void)manager.compact(); });
}

TEST(ManagerWithoutMemory, NewBatch) {
  expect_unchanged_without_memory(
      [](KVCacheManager& manager) { (void)manager.new_batch(4, 64, 16); });
}

}  // namespace
