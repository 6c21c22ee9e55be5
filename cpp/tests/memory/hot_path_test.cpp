// What an engine calls for each token or step allocates nothing.

#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "counting_new.hpp"
#include "pagedkv/pagedkv.hpp"

namespace {

using namespace pagedkv;
using pagedkv_test::total_allocations;

/// `call` allocates nothing, the first time and later.
template <class Call>
void expect_no_allocation(const char* what, Call call) {
  for (int round = 0; round < 3; ++round) {
    const std::size_t before = total_allocations();
    call();
    EXPECT_EQ(total_allocations() - before, 0u) << what << ", round " << round;
  }
}

TEST(HotPath, OfTheCounterItselfIsSeen) {
  const std::size_t before = total_allocations();
  const auto memory = std::make_unique<int>(1);
  pagedkv_test::keep(memory.get());
  EXPECT_EQ(total_allocations() - before, 1u);
}

TEST(HotPath, BlockAllocator) {
  BlockAllocator alloc(64);
  std::array<BlockId, 8> ids{};
  expect_no_allocation("allocate, free", [&] { alloc.free(alloc.allocate()); });
  expect_no_allocation("allocate_n, acquire, free of a list", [&] {
    alloc.allocate_n(ids);
    alloc.acquire(ids);
    alloc.free(ids);
    alloc.free(ids);
  });
  expect_no_allocation("try_allocate", [&] { (void)alloc.try_allocate(); });
}

TEST(HotPath, BlockPool) {
  BlockPool pool(4, 4, 1, 1, 8);
  expect_no_allocation("allocate, keys, values, free", [&] {
    const auto id = *pool.allocate();
    pool.keys_as<float>(id)[0] = pool.values_as<float>(id)[0];
    pool.free(id);
  });
}

TEST(HotPath, KvCachePool) {
  KvCachePool pool(8, 4);
  expect_no_allocation("alloc, page, free", [&] {
    const auto page = pool.alloc();
    pool.page_as<float>(page)[0] = 1.0f;
    pool.free(page);
  });
}

TEST(HotPath, BlockTableReads) {
  BlockTable table(2, 4);
  table.append_block(0, 3);
  std::array<std::int32_t, 2> array{};
  expect_no_allocation("get_block, write_array", [&] {
    (void)table.get_block(0, 0);
    table.write_array(array);
  });
}

TEST(HotPath, PagedSeqState) {
  BlockAllocator alloc(64);
  cpu::Context ctx;
  PagedSeqState<CpuBackend> state(4, 64);
  std::size_t tokens = 0;
  expect_no_allocation("ensure_capacity, sync_context_len", [&] {
    for (int i = 0; i < 50; ++i) {
      state.ensure_capacity(ctx, alloc, ++tokens);
      state.set_len(tokens);
      state.sync_context_len(ctx);
    }
  });
  expect_no_allocation("truncate, release", [&] {
    state.truncate(alloc, 7);
    state.release(ctx, alloc);
    state.ensure_capacity(ctx, alloc, 100);
  });
}

TEST(HotPath, KvCache) {
  using Cache = pagedkv::KvCache<CpuBackend>;
  const std::array<float, 8> token{};
  std::array<float, 8 * 64> dense{};
  auto alloc = std::make_shared<BlockAllocator>(64);
  std::vector<Cache> caches;
  caches.push_back(Cache::paged(64, 2, 4, 4, 64, alloc));
  caches.push_back(Cache::contiguous(64, 2, 4));
  for (auto& cache : caches) {
    cpu::Context ctx;
    expect_no_allocation("append, to_dense, truncate", [&] {
      for (int i = 0; i < 10; ++i) cache.append<float>(token, token);
      const auto out = std::span(dense).first(8 * cache.len());
      cache.to_dense<float>(out, out);
      cache.truncate(ctx, cache.len() - 3);
    });
    expect_no_allocation("reserve, release", [&] {
      cache.release();
      cache.reserve(ctx, 17);
    });
  }
}

TEST(HotPath, PagedKvCache) {
  pagedkv::PagedKvCache cache(256, 4);
  const std::array<double, 4 * 20> tokens{};
  std::array<double, 4 * 256> out{};
  expect_no_allocation("append, append_tensor, as_tensor, as_span, get_token, clear", [&] {
    for (int i = 0; i < 20; ++i) cache.append(std::span(tokens).first(4));
    cache.append_tensor(tokens);
    cache.as_tensor(std::span(out).first(4 * cache.len()));
    (void)cache.as_span();
    (void)cache.get_token(0);
    cache.clear();
    cache.append_tensor(tokens);
  });
}

TEST(HotPath, SsmStatePool) {
  const SsmStateSpec spec{1, 1, 2, 2, 2, 3, DType::float32};
  SsmStatePool pool(4, spec);
  const SsmSnapshot snapshot(spec);
  expect_no_allocation("alloc, slot, advance, restore, release", [&] {
    const auto slot = *pool.slot(pool.alloc(1));
    slot.ssm_state_as<float>()[0] = 1.0f;
    slot.conv_state_as<float>()[0] = 1.0f;
    slot.advance();
    slot.restore(snapshot);
    pool.release(slot.index());
  });
}

TEST(HotPath, SequencePool) {
  auto pages = SequencePool::kv(8, 2);
  expect_no_allocation("alloc_kv, free_kv", [&] { pages.free_kv(pages.alloc_kv()); });
  auto slots = SequencePool::ssm(2, {1, 1, 2, 2, 2, 3, DType::float32});
  expect_no_allocation("alloc_ssm, ssm_slot_mut, release_ssm", [&] {
    const auto slot = slots.alloc_ssm(1);
    slots.ssm_slot_mut(slot)->advance();
    slots.release_ssm(slot);
  });
}

}  // namespace
