// The attention kernels beside dense attention in double.

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "cpp/tests/cuda/device.hpp"
#include "cpp/tests/operations/attention_oracle.hpp"
#include "cuda/operations.hpp"

namespace {

using namespace pagedkv;
using pagedkv_test::Arrays;
using pagedkv_test::plain_attention;
using pagedkv_test::Problem;
using pagedkv_test::relative_error;

constexpr DType kCacheDTypes[] = {DType::float32,     DType::float16,     DType::bfloat16,
                                  DType::float8_e4m3, DType::float8_e5m2, DType::int8};

/// Largest error of a result, from the dtypes that are multiplied and that it is rounded to.
double limit(const Problem& problem) {
  const auto of = [](DType dtype) {
    return dtype == DType::float16 ? 2e-3 : dtype == DType::bfloat16 ? 1e-2 : 1e-5;
  };
  // A cache of another dtype is converted to float32, which loses nothing.
  return of(problem.query_dtype);
}

void run(const Arrays& arrays, bool batch_invariant = false) {
  cuda::attend(arrays.call, batch_invariant, {});
  cuda::check({});
}

/// Problem after problem, threads take their turns in another order: what depends on it is a race.
void run_in_next_order(const Arrays& arrays, bool batch_invariant) {
#if !defined(PAGEDKV_ON_DEVICE)
  using pagedkv::simt::Order;
  static unsigned count = 0;
  pagedkv::simt::order() =
      std::array{Order::forward, Order::backward, Order::shuffled}[count++ % 3];
#endif
  run(arrays, batch_invariant);
}

void expect_right(const Problem& problem, bool batch_invariant = false) {
  Arrays arrays(problem);
  run_in_next_order(arrays, batch_invariant);
  const auto expected = plain_attention(arrays.call);
  EXPECT_LT(relative_error(arrays.out(), expected.out), limit(problem));
  for (std::size_t i = 0; i < expected.lse.size(); ++i) {
    const double lse = static_cast<double>(arrays.lse()[i]);
    if (std::isinf(expected.lse[i])) {
      EXPECT_EQ(lse, expected.lse[i]) << "row " << i;
    } else {
      EXPECT_NEAR(lse, expected.lse[i], 2e-3 + 1e-5 * std::fabs(expected.lse[i])) << "row " << i;
    }
  }
}

/// One problem for each dtype of the cache that tensor cores multiply in its own way.
class CudaAttention : public testing::TestWithParam<DType> {
 protected:
  [[nodiscard]] static Problem problem() {
    Problem p;
    p.dtype = GetParam();
    p.query_dtype = p.dtype;
    if (dtype_bits(p.dtype) == 8) p.query_dtype = DType::bfloat16;
    return p;
  }
};

INSTANTIATE_TEST_SUITE_P(Cache, CudaAttention, testing::ValuesIn(kCacheDTypes),
                         [](const auto& param) { return std::string(dtype_name(param.param)); });

TEST_P(CudaAttention, DecodeIsRightForEveryHeadDim) {
  for (const std::int64_t head_dim : {8, 40, 64, 72, 80, 96, 112, 128, 192, 256, 512}) {
    SCOPED_TRACE(head_dim);
    Problem p = problem();
    p.head_dim = head_dim;
    expect_right(p);
  }
}

TEST_P(CudaAttention, DecodeIsRightForEveryRatioOfHeads) {
  for (const std::int64_t group : {1, 2, 3, 5, 8, 16, 17, 33, 64}) {
    SCOPED_TRACE(group);
    Problem p = problem();
    p.group = group;
    p.kv_heads = group > 8 ? 1 : 2;
    expect_right(p);
  }
}

TEST_P(CudaAttention, DecodeIsRightForEveryBlockSizeAndBothLayouts) {
  for (const std::int64_t block_size : {1, 8, 16, 24, 64, 256}) {
    for (const auto layout : {Layout::hnd, Layout::nhd}) {
      SCOPED_TRACE(block_size);
      Problem p = problem();
      p.block_size = block_size;
      p.layout = layout;
      expect_right(p);
    }
  }
}

TEST_P(CudaAttention, KeysAndValuesMayHaveDifferentDimensions) {
  Problem p = problem();
  p.head_dim = 96;
  p.v_head_dim = 40;
  expect_right(p);
  p.query_lens = {37, 0, 64, 1};
  expect_right(p);
}

TEST_P(CudaAttention, ScalesOfEachGranularityAreApplied) {
  for (const int scales : {0, 1, 2}) {
    SCOPED_TRACE(scales);
    Problem p = problem();
    p.scales = scales;
    expect_right(p);
    p.query_lens = {20, 0, 5, 1};
    expect_right(p);
  }
}

TEST_P(CudaAttention, AMixedBatchOfPrefillChunksDecodesAndNothing) {
  Problem p = problem();
  p.seq_lens = {300, 64, 1, 0, 129, 700};
  p.query_lens = {100, 64, 1, 0, 2, 1};
  expect_right(p);
  expect_right(p, true);
}

TEST_P(CudaAttention, PrefillOfEveryWidth) {
  for (const std::int64_t head_dim : {64, 128, 192, 512}) {
    SCOPED_TRACE(head_dim);
    Problem p = problem();
    p.head_dim = head_dim;
    p.seq_lens = {150, 40};
    p.query_lens = {50, 40};
    expect_right(p);
  }
}

TEST_P(CudaAttention, ALongSequenceIsCutIntoPieces) {
  Problem p = problem();
  p.kv_heads = 1;
  p.seq_lens = {512, 513, 2100};
  p.query_lens = {1, 1, 2};
  expect_right(p);
  expect_right(p, true);
}

TEST_P(CudaAttention, EveryOptionAloneAndWithPrefill) {
  const auto with = [](auto change) {
    Problem p = problem();
    p.kv_heads = 1;
    p.seq_lens = {137, 300, 70};
    for (const auto& lens :
         {std::vector<std::int64_t>{1, 1, 1}, std::vector<std::int64_t>{3, 5, 70}}) {
      p.query_lens = lens;
      change(p);
      expect_right(p);
    }
  };
  with([](Problem& p) { p.causal = false; });
  with([](Problem& p) { p.window = 1; });
  with([](Problem& p) { p.window = 33; });
  with([](Problem& p) {
    p.window = 33;
    p.sink_tokens = 4;
  });
  with([](Problem& p) {
    p.window = 600;
    p.sink_tokens = 700;
  });
  with([](Problem& p) { p.sink_logits = true; });
  with([](Problem& p) { p.softcap = 3; });
  with([](Problem& p) { p.alibi = true; });
  with([](Problem& p) { p.tree = true; });
  with([](Problem& p) {
    p.tree = true;
    p.causal = false;
    p.window = 20;
    p.sink_tokens = 2;
  });
  with([](Problem& p) {
    p.sink_logits = p.alibi = true;
    p.softcap = 20;
    p.window = 50;
  });
}

TEST_P(CudaAttention, BatchInvariantTheRestOfTheBatchChangesNoBit) {
  Problem p = problem();
  p.seq_lens = {1500, 90, 40};
  p.query_lens = {1, 30, 3};
  Arrays arrays(p);
  run(arrays, true);
  const std::vector<std::byte> together = arrays.out_bytes();
  // The first sequence alone: its queries come first, and so does its result.
  arrays.call.num_seqs = 1;
  arrays.call.q.num_tokens = arrays.call.out.num_tokens = 1;
  run(arrays, true);
  EXPECT_EQ(arrays.out_bytes(), together);
}

TEST_P(CudaAttention, MultiHeadLatentAttention) {
  for (const std::int64_t heads : {1, 16, 20, 80}) {
    SCOPED_TRACE(heads);
    Problem p = problem();
    p.head_dim = heads == 20 ? 40 : 512;
    p.rope_dim = heads == 20 ? 136 : 64;
    p.kv_heads = 1;
    p.group = heads;
    p.seq_lens = {70, 0, 1, 530};
    p.query_lens = {2, 0, 1, 1};
    expect_right(p);
  }
}

TEST(CudaAttentionOfPairs, AnyQueriesOverAnyCache) {
  for (const DType query : {DType::float32, DType::float16, DType::bfloat16}) {
    for (const DType cache : kCacheDTypes) {
      SCOPED_TRACE(std::string(dtype_name(query)) + " over " + std::string(dtype_name(cache)));
      Problem p;
      p.dtype = cache;
      p.query_dtype = query;
      p.kv_heads = 1;
      expect_right(p);
      p.query_lens = {30, 0, 1, 1};
      expect_right(p);
    }
  }
}

TEST(CudaAttentionOfPairs, ANanThatIsSeenIsNotHidden) {
  Problem p;
  Arrays arrays(p);
  auto* key = reinterpret_cast<float*>(arrays.call.k_cache.row(arrays.call.block_tables[0], 0, 3));
  key[0] = std::numeric_limits<float>::quiet_NaN();
  run(arrays);
  EXPECT_TRUE(std::isnan(arrays.out()[0]));
}

/// Rows that begin anywhere: views of larger arrays.
TEST(CudaAttentionOfPairs, UnalignedRows) {
  for (const DType dtype : {DType::float32, DType::bfloat16, DType::int8}) {
    Problem p;
    p.dtype = dtype;
    p.query_dtype = dtype_bits(dtype) == 8 ? DType::float16 : dtype;
    p.seq_lens = {37, 20};
    p.query_lens = {1, 9};
    Arrays arrays(p);
    const auto expected = plain_attention(arrays.call);
    const std::int64_t size = dtype_bits(dtype) / 8, q_size = dtype_bits(p.query_dtype) / 8;
    CacheView& k = arrays.call.k_cache;
    std::vector<std::byte> keys, queries;
    keys.resize(static_cast<std::size_t>(k.num_blocks * k.block_stride * 2 + size));
    CacheView moved = k;
    moved.data = keys.data() + size;
    moved.token_stride += size;
    moved.head_stride = moved.token_stride * k.block_size;
    moved.block_stride = moved.head_stride * k.num_heads;
    for (std::int64_t block = 0; block < k.num_blocks; ++block) {
      for (std::int64_t head = 0; head < k.num_heads; ++head) {
        for (std::int64_t slot = 0; slot < k.block_size; ++slot) {
          std::memcpy(moved.row(block, head, slot), k.row(block, head, slot), k.row_bytes());
        }
      }
    }
    k = moved;
    RowsView& q = arrays.call.q;
    queries.resize(static_cast<std::size_t>(q.num_tokens * q.token_stride * 2 + q_size));
    RowsView moved_q = q;
    moved_q.data = queries.data() + q_size;
    moved_q.head_stride += q_size;
    moved_q.token_stride = moved_q.head_stride * q.num_heads;
    for (std::int64_t token = 0; token < q.num_tokens; ++token) {
      for (std::int64_t head = 0; head < q.num_heads; ++head) {
        std::memcpy(moved_q.row(token, head), q.row(token, head), q.row_bytes());
      }
    }
    q = moved_q;
    run(arrays);
    EXPECT_LT(relative_error(arrays.out(), expected.out), limit(p));
  }
}

TEST(CudaAttentionErrors, ABlockIdOutOfRangeIsNotFollowed) {
  for (const std::int32_t wrong : {-1, 1000000}) {
    Problem p;
    p.seq_lens = {37, 20};
    p.query_lens = {1, 1};
    Arrays arrays(p);
    std::vector<std::int32_t> tables(
        arrays.call.block_tables,
        arrays.call.block_tables + arrays.call.num_seqs * arrays.call.block_table_stride);
    tables[1] = wrong;
    arrays.call.block_tables = tables.data();
    cuda::attend(arrays.call, false, {});
    EXPECT_THROW(cuda::check({}), InvalidSlotError);
    for (const double x : arrays.out()) EXPECT_TRUE(std::isfinite(x));
  }
}

TEST(CudaAttentionErrors, LengthsAndStartsOutOfRangeAreNotFollowed) {
  Problem p;
  p.seq_lens = {37, 20};
  p.query_lens = {1, 1};
  const auto with = [&](std::vector<std::int32_t> lens, std::vector<std::int32_t> starts) {
    Arrays arrays(p);
    arrays.call.seq_lens = lens.data();
    arrays.call.query_start_loc = starts.data();
    cuda::attend(arrays.call, false, {});
    EXPECT_THROW(cuda::check({}), ShapeError);
  };
  with({-5, 20}, {0, 1, 2});
  with({49, 20}, {0, 1, 2});
  with({2147483647, 20}, {0, 1, 2});
  with({37, 20}, {0, 1, 3});
  with({37, 20}, {-1, 1, 2});
  with({37, 20}, {0, 1, 1});
  with({37, 20}, {0, 2147483647, 2});
  with({37, 1}, {0, 0, 2});
}

TEST(CudaAttentionErrors, WhatNoCudaDeviceTakesIsRefused) {
  Problem p;
  for (const DType dtype : {DType::float64, DType::int4}) {
    p.dtype = dtype;
    p.query_dtype = dtype == DType::float64 ? dtype : DType::float32;
    Arrays arrays(p);
    EXPECT_THROW(cuda::attend(arrays.call, false, {}), UnsupportedError);
  }
}

TEST(CudaAttentionOfPairs, RandomProblems) {
  for (unsigned seed = 1; seed <= 40; ++seed) {
    std::mt19937 random(seed);
    const auto one_of = [&](auto values) { return values[random() % values.size()]; };
    Problem p;
    p.seed = seed;
    p.dtype = kCacheDTypes[random() % std::size(kCacheDTypes)];
    p.query_dtype = one_of(std::vector{DType::float32, DType::float16, DType::bfloat16});
    p.head_dim = one_of(std::vector<std::int64_t>{64, 80, 96, 112, 128, 192, 256, 24});
    p.kv_heads = static_cast<std::int64_t>(random() % 3 + 1);
    p.group = static_cast<std::int64_t>(random() % 9 + 1);
    p.block_size = one_of(std::vector<std::int64_t>{1, 8, 16, 32, 64, 128, 256});
    p.layout = random() % 2 == 0 ? Layout::hnd : Layout::nhd;
    p.scales = static_cast<int>(random() % 3);
    p.seq_lens.clear();
    p.query_lens.clear();
    for (auto s = random() % 5 + 1; s > 0; --s) {
      p.seq_lens.push_back(static_cast<std::int64_t>(random() % 400));
      p.query_lens.push_back(std::min<std::int64_t>(
          p.seq_lens.back(), one_of(std::vector<std::int64_t>{0, 1, 1, 4, 40})));
    }
    p.causal = random() % 4 != 0;
    p.window = random() % 3 == 0 ? static_cast<std::int64_t>(random() % 100 + 1) : 0;
    p.sink_tokens = random() % 2 == 0 ? static_cast<std::int64_t>(random() % 10) : 0;
    p.sink_logits = random() % 3 == 0;
    p.softcap = random() % 3 == 0 ? 10.0F : 0;
    p.alibi = random() % 3 == 0;
    p.tree = random() % 3 == 0;
    SCOPED_TRACE("seed " + std::to_string(seed));
    expect_right(p, seed % 2 == 0);
  }
}

}  // namespace
