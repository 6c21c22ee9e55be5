// KvCache: every dtype survives both layouts bit for bit, and the two agree.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "pagedkv/core/kv_cache.hpp"
#include "pagedkv/cpu/backend.hpp"

namespace {

using namespace pagedkv;
using Cache = KvCache<CpuBackend>;
using Bytes = std::vector<std::byte>;

class KvCacheOfDtype : public testing::TestWithParam<DType> {};
INSTANTIATE_TEST_SUITE_P(Dtypes, KvCacheOfDtype,
                         testing::Values(DType::float64, DType::float32, DType::float16,
                                         DType::bfloat16, DType::float8_e4m3, DType::float8_e5m2,
                                         DType::int8, DType::int4, DType::int32),
                         [](const auto& of) { return std::string(dtype_name(of.param)); });

TEST_P(KvCacheOfDtype, ContiguousAndPagedGiveEqualDense) {
  constexpr std::size_t kHeads = 3;
  constexpr std::size_t kDim = 6;
  constexpr unsigned kSeed = 20240131;
  SCOPED_TRACE("seed " + std::to_string(kSeed));
  std::mt19937 random(kSeed);
  const DType dtype = GetParam();
  const std::size_t token_bytes = kHeads * kDim * dtype_bits(dtype) / 8;

  // A shuffled pool, so that logical order is not physical order.
  constexpr std::size_t kBlocks = 16;
  auto alloc = std::make_shared<BlockAllocator>(kBlocks);
  std::vector<BlockId> order(kBlocks);
  alloc->allocate_n(order);
  std::ranges::shuffle(order, random);
  alloc->free(order);

  auto paged = Cache::paged(kBlocks, kHeads, kDim, 5, 8, alloc, dtype);
  auto contiguous = Cache::contiguous(40, kHeads, kDim, dtype);
  cpu::Context ctx;
  Bytes expected_k;
  Bytes expected_v;
  for (const std::size_t n : {0u, 1u, 4u, 1u, 5u, 13u, 0u, 2u, 14u}) {  // 40 in all
    Bytes k(n * token_bytes);
    Bytes v(n * token_bytes);
    for (auto* bytes : {&k, &v}) {
      for (auto& byte : *bytes) byte = static_cast<std::byte>(random());
    }
    paged.append(ctx, k, v);
    contiguous.append(ctx, k, v);
    expected_k.insert(expected_k.end(), k.begin(), k.end());
    expected_v.insert(expected_v.end(), v.begin(), v.end());

    for (const auto* cache : {&paged, &contiguous}) {
      Bytes dense_k(expected_k.size());
      Bytes dense_v(expected_v.size());
      cache->to_dense(ctx, dense_k, dense_v);
      EXPECT_EQ(dense_k, expected_k);
      EXPECT_EQ(dense_v, expected_v);
    }
  }
  EXPECT_FALSE(std::ranges::is_sorted(paged.paged_block_indices()));
}

}  // namespace
