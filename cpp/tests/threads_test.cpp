// What the headers promise to several threads: different pages, slots and caches may be used side
// by side. The assertions are the smaller part; ThreadSanitizer is the larger.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <memory>
#include <span>
#include <thread>
#include <vector>

#include "pagedkv/pagedkv.hpp"

namespace {

using namespace pagedkv;

constexpr std::size_t kThreads = 4;

/// Runs `work(0)` to `work(kThreads - 1)`, each in a thread of its own.
template <class Work>
void in_parallel(Work work) {
  std::vector<std::thread> threads;
  for (std::size_t i = 0; i < kThreads; ++i) threads.emplace_back(work, i);
  for (auto& thread : threads) thread.join();
}

TEST(Threads, DifferentPagesOfABlockPool) {
  BlockPool pool(kThreads, 5, 1, 1, 3);
  for (std::size_t i = 0; i < kThreads; ++i) (void)pool.allocate();
  in_parallel([&](std::size_t i) {
    const auto id = static_cast<BlockId>(i);
    for (int round = 0; round < 100; ++round) {
      std::ranges::fill(pool.keys(id), static_cast<std::byte>(i));
      std::ranges::fill(pool.values(id), static_cast<std::byte>(i + 100));
    }
  });
  for (std::size_t i = 0; i < kThreads; ++i) {
    const auto id = static_cast<BlockId>(i);
    EXPECT_EQ(std::ranges::count(pool.keys(id), static_cast<std::byte>(i)), 60);
    EXPECT_EQ(std::ranges::count(pool.values(id), static_cast<std::byte>(i + 100)), 60);
  }
}

TEST(Threads, DifferentPagesOfAKvCachePool) {
  KvCachePool pool(3, kThreads, DType::int8);
  for (std::size_t i = 0; i < kThreads; ++i) (void)pool.alloc();
  in_parallel([&](std::size_t i) {
    for (int round = 0; round < 100; ++round) {
      std::ranges::fill(pool.page(i), static_cast<std::byte>(i));
    }
  });
  for (std::size_t i = 0; i < kThreads; ++i) {
    EXPECT_EQ(std::ranges::count(pool.page(i), static_cast<std::byte>(i)), 3);
  }
}

TEST(Threads, DifferentSlotsOfAnSsmStatePool) {
  const SsmStateSpec spec{1, 1, 3, 3, 3, 3, DType::int8};
  SsmStatePool pool(kThreads, spec);
  for (std::size_t i = 0; i < kThreads; ++i) (void)pool.alloc(i);
  std::vector<SsmSnapshot> snapshots(kThreads, SsmSnapshot(spec));
  in_parallel([&](std::size_t i) {
    const auto slot = *pool.slot(i);
    for (int round = 0; round < 100; ++round) {
      std::ranges::fill(slot.ssm_state(), static_cast<std::byte>(i + 1));
      std::ranges::fill(slot.conv_state(), static_cast<std::byte>(i + 50));
      slot.advance(i);
      snapshots[i] = slot.snapshot();
      slot.restore(snapshots[i]);
    }
  });
  for (std::size_t i = 0; i < kThreads; ++i) {
    EXPECT_EQ(snapshots[i].position, 100 * i);
    EXPECT_EQ(std::ranges::count(snapshots[i].ssm_state(), static_cast<std::byte>(i + 1)), 9);
    EXPECT_EQ(std::ranges::count(snapshots[i].conv_state(), static_cast<std::byte>(i + 50)), 6);
  }
}

TEST(Threads, AppendsWithinReservedRoomAndReadsOfDifferentCachesOverOnePool) {
  constexpr std::size_t kTokens = 50;
  auto alloc = std::make_shared<BlockAllocator>(kThreads * 13);
  std::vector<KvCache<CpuBackend>> caches;
  caches.push_back(KvCache<CpuBackend>::paged(kThreads * 13, 1, 2, 4, 13, alloc));
  while (caches.size() < kThreads) caches.push_back(caches.front().share());
  cpu::Context ctx;
  // In turn, so that neighbouring blocks belong to different threads.
  for (std::size_t tokens = 4; tokens <= 52; tokens += 4) {
    for (auto& cache : caches) cache.reserve(ctx, tokens);
  }
  in_parallel([&](std::size_t i) {
    const std::vector<float> token(2, static_cast<float>(i));
    for (std::size_t n = 1; n <= kTokens; ++n) {
      caches[i].append<float>(token, token);
      std::vector<float> k(2 * n);
      std::vector<float> v(2 * n);
      caches[i].to_dense<float>(k, v);
      if (std::ranges::count(k, token[0]) != static_cast<std::ptrdiff_t>(2 * n)) return;
    }
  });
  for (const auto& cache : caches) EXPECT_EQ(cache.len(), kTokens);
}

TEST(Threads, ObjectsThatShareNothing) {
  in_parallel([](std::size_t) {
    BlockAllocator alloc(32);
    PagedSeqState<CpuBackend> state(4, 32);
    cpu::Context ctx;
    for (std::size_t tokens = 1; tokens <= 128; ++tokens) {
      state.ensure_capacity(ctx, alloc, tokens);
      state.set_len(tokens);
      state.sync_context_len(ctx);
    }
    state.release(ctx, alloc);
  });
}

}  // namespace
