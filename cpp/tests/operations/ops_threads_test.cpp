// Operations of several threads at once, over one pool of workers: what one writes another sees,
// and none disturbs another. Runs under the thread sanitizer.

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "ops_caches.hpp"
#include "ops_kernels.hpp"
#include "pagedkv/cpu/copy_blocks.hpp"
#include "pagedkv/cpu/gather_kv.hpp"
#include "pagedkv/cpu/write_kv.hpp"

namespace {

using namespace pagedkv;
using namespace pagedkv::cpu;
using namespace pagedkv_test;

/// Writes tokens to one half of a pool, copies them to the other half, and reads them from there.
void there_and_back(ThreadPool& executor, std::uint64_t seed) {
  constexpr std::int64_t heads = 4, dim = 64, block_size = 16, blocks = 160;
  constexpr std::int64_t n = blocks / 2 * block_size;
  std::mt19937_64 random(seed);
  TestRows rows(DType::float32, n, heads, dim, Values::ordinary, random);
  TestRows k(DType::float32, n, heads, dim, Values::any_bits, random);
  TestRows v(DType::float32, n, heads, dim, Values::any_bits, random);
  TestCache k_cache(DType::float32, blocks, heads, block_size, dim, Layout::hnd, Values::any_bits,
                    random);
  TestCache v_cache(DType::float32, blocks, heads, block_size, dim, Layout::nhd, Values::any_bits,
                    random);
  const auto ids = random_slots(blocks, blocks, random);
  std::vector<std::int64_t> slots;
  std::vector<IndexPair> pairs;
  std::vector<std::int32_t> table;
  for (std::size_t i = 0; i < blocks / 2; ++i) {
    for (std::int64_t j = 0; j < block_size; ++j) slots.push_back(ids[i] * block_size + j);
    pairs.push_back({ids[i], ids[i + blocks / 2]});
    table.push_back(static_cast<std::int32_t>(pairs.back().to));
  }
  const CacheView caches[] = {k_cache.view, v_cache.view};
  const auto length = static_cast<std::int32_t>(n);
  write_kv({rows.view, rows.view, caches[0], caches[1], {}, {}, slots.data()}, executor,
           test_kernels());
  copy_blocks(caches, pairs, executor);
  GatherKvCall call;
  call.k_cache = caches[0];
  call.v_cache = caches[1];
  call.block_tables = table.data();
  call.max_blocks = blocks / 2;
  call.seq_lens = &length;
  call.num_seqs = 1;
  call.k = k.view;
  call.v = v.view;
  gather_kv(call, executor, test_kernels());
  for (std::int64_t token = 0; token < n; ++token) {
    for (std::int64_t head = 0; head < heads; ++head) {
      const std::byte* row = rows.view.row(token, head);
      ASSERT_EQ(std::memcmp(row, k.view.row(token, head), dim * 4), 0);
      ASSERT_EQ(std::memcmp(row, v.view.row(token, head), dim * 4), 0);
    }
  }
}

TEST(OperationsOfThreads, DoNotDisturbOneAnother) {
  ThreadPool executor(3);
  std::vector<std::thread> threads;
  for (std::uint64_t seed = 0; seed < 4; ++seed) {
    threads.emplace_back([&executor, seed] {
      for (std::uint64_t i = 0; i < 3; ++i) there_and_back(executor, seed * 10 + i);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
