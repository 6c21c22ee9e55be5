// Attention beside dense attention in double.

#include "pagedkv/cpu/attention.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "attention_oracle.hpp"
#include "ops_kernels.hpp"

namespace {

using namespace pagedkv;
using pagedkv_test::Arrays;
using pagedkv_test::plain_attention;
using pagedkv_test::Problem;
using pagedkv_test::relative_error;

constexpr DType kCacheDTypes[] = {DType::float64,  DType::float32,     DType::float16,
                                  DType::bfloat16, DType::float8_e4m3, DType::float8_e5m2,
                                  DType::int8,     DType::int4};

/// Largest error of a result, from that of the dtype it is rounded to and of the products.
double limit(const Problem& problem) {
  const bool rounds_queries =
      (problem.dtype == DType::int8 || problem.dtype == DType::int4) && !problem.exact;
  double error = problem.dtype == DType::float64 ? 1e-13 : 1e-5;
  if (rounds_queries) error = 1e-3;
  if (problem.query_dtype == DType::float16) error = 2e-3;
  if (problem.query_dtype == DType::bfloat16) error = 1e-2;
  return error;
}

void run(Arrays& arrays, unsigned threads = 1) {
  cpu::ThreadPool pool(threads);
  cpu::paged_attention(arrays.call, pool, pagedkv_test::test_kernels());
}

void expect_right(const Problem& problem, unsigned threads = 1) {
  Arrays arrays(problem);
  run(arrays, threads);
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

class AttentionOfDType : public testing::TestWithParam<DType> {
 protected:
  [[nodiscard]] static Problem problem() {
    Problem p;
    p.dtype = GetParam();
    p.query_dtype = p.dtype == DType::float64 ? DType::float64 : DType::float32;
    return p;
  }
};

INSTANTIATE_TEST_SUITE_P(Cache, AttentionOfDType, testing::ValuesIn(kCacheDTypes),
                         [](const auto& param) { return std::string(dtype_name(param.param)); });

TEST_P(AttentionOfDType, DecodeIsRightForEveryHeadDim) {
  for (const std::int64_t head_dim : {8, 40, 64, 72, 80, 96, 112, 128, 192, 256, 512}) {
    SCOPED_TRACE(head_dim);
    Problem p = problem();
    p.head_dim = head_dim;
    expect_right(p);
  }
}

TEST_P(AttentionOfDType, DecodeIsRightForEveryRatioOfHeads) {
  for (const std::int64_t group : {1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 33, 64}) {
    SCOPED_TRACE(group);
    Problem p = problem();
    p.group = group;
    expect_right(p);
  }
}

TEST_P(AttentionOfDType, DecodeIsRightForEveryBlockSizeAndBothLayouts) {
  for (const std::int64_t block_size : {1, 8, 16, 32, 64, 128, 256}) {
    for (const auto layout : {Layout::hnd, Layout::nhd}) {
      SCOPED_TRACE(block_size);
      Problem p = problem();
      p.block_size = block_size;
      p.layout = layout;
      expect_right(p);
    }
  }
}

TEST_P(AttentionOfDType, KeysAndValuesMayHaveDifferentDimensions) {
  Problem p = problem();
  p.head_dim = 96;
  p.v_head_dim = 40;
  expect_right(p);
  p.query_lens = {37, 0, 64, 1};
  expect_right(p);
}

TEST_P(AttentionOfDType, ScalesOfEachGranularityAreApplied) {
  for (const int scales : {0, 1, 2}) {
    for (const bool exact : {false, true}) {
      SCOPED_TRACE(scales);
      Problem p = problem();
      p.scales = scales;
      p.exact = exact;
      expect_right(p);
      p.query_lens = {20, 0, 5, 1};
      expect_right(p);
    }
  }
}

TEST_P(AttentionOfDType, AMixedBatchOfPrefillChunksDecodesAndNothing) {
  Problem p = problem();
  p.seq_lens = {300, 64, 1, 0, 129, 700};
  p.query_lens = {100, 64, 1, 0, 2, 1};
  expect_right(p, 3);
}

TEST_P(AttentionOfDType, ALongSequenceIsCutIntoPieces) {
  Problem p = problem();
  p.head_dim = 64;
  p.kv_heads = 1;
  p.seq_lens = {512, 513, 2100};
  p.query_lens = {1, 1, 2};
  expect_right(p, 3);
}

TEST_P(AttentionOfDType, EveryOptionAloneAndWithPrefill) {
  const auto with = [](auto change) {
    Problem p = problem();
    p.seq_lens = {137, 600, 70};
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

TEST_P(AttentionOfDType, TheResultDependsNeitherOnThreadsNorOnTheRestOfTheBatch) {
  Problem p = problem();
  p.seq_lens = {1500, 90, 40};
  p.query_lens = {1, 30, 3};
  Arrays together(p);
  run(together, 1);
  const std::vector<std::byte> once = together.out_bytes();
  for (const unsigned threads : {2U, 3U, 7U}) {
    run(together, threads);
    EXPECT_EQ(together.out_bytes(), once) << threads << " threads";
  }
  // The first sequence alone: its queries come first, and so does its result.
  together.call.num_seqs = 1;
  together.call.q.num_tokens = together.call.out.num_tokens = 1;
  run(together, 2);
  EXPECT_EQ(together.out_bytes(), once);
}

TEST(Attention, QueriesOfSixteenBitsGiveResultsOfSixteenBits) {
  for (const DType query : {DType::float16, DType::bfloat16}) {
    for (const DType cache : {DType::float32, DType::float16, DType::bfloat16, DType::int8}) {
      Problem p;
      p.dtype = cache;
      p.query_dtype = query;
      expect_right(p);
      p.query_lens = {30, 0, 1, 1};
      expect_right(p);
    }
  }
}

TEST(Attention, MultiHeadLatentAttentionOfEveryDType) {
  for (const DType cache : kCacheDTypes) {
    if (cache == DType::float64) continue;
    for (const std::int64_t heads : {1, 16, 20, 128}) {
      SCOPED_TRACE(std::string(dtype_name(cache)));
      Problem p;
      p.dtype = cache;
      p.head_dim = heads == 20 ? 64 : 512;
      p.rope_dim = heads == 20 ? 32 : 64;
      p.kv_heads = 1;
      p.group = heads;
      p.seq_lens = {70, 0, 1, 530};
      p.query_lens = {2, 0, 1, 1};
      expect_right(p, 2);
    }
  }
}

TEST(Attention, AnInfinityInAKeyIsNotHidden) {
  Problem p;
  Arrays arrays(p);
  auto* key = reinterpret_cast<float*>(arrays.call.k_cache.row(arrays.call.block_tables[0], 0, 3));
  key[0] = std::numeric_limits<float>::quiet_NaN();
  run(arrays);
  EXPECT_TRUE(std::isnan(arrays.out()[0]));
}

TEST(Attention, RandomProblems) {
  for (unsigned seed = 1; seed <= 60; ++seed) {
    std::mt19937 random(seed);
    const auto one_of = [&](auto values) { return values[random() % values.size()]; };
    Problem p;
    p.seed = seed;
    p.dtype = kCacheDTypes[random() % std::size(kCacheDTypes)];
    p.query_dtype = p.dtype == DType::float64 ? DType::float64 : DType::float32;
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
    p.exact = random() % 2 == 0;
    SCOPED_TRACE("seed " + std::to_string(seed));
    expect_right(p, seed % 3 + 1);
  }
}

}  // namespace
