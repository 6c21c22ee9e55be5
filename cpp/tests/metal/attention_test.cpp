// Attention on Metal beside dense attention in double.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "cpp/tests/expect_error.hpp"
#include "cpp/tests/metal/test_queue.hpp"
#include "cpp/tests/operations/attention_oracle.hpp"
#include "metal/operations.hpp"

namespace {

using namespace pagedkv;
using pagedkv_test::Arrays;
using pagedkv_test::expect_error;
using pagedkv_test::plain_attention;
using pagedkv_test::Problem;
using pagedkv_test::relative_error;
using pagedkv_test::TestQueue;

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

double limit(const Problem& problem) {
  if (problem.query_dtype == DType::float16) return 2e-3;
  return problem.query_dtype == DType::bfloat16 ? 1e-2 : 1e-5;
}

void run(const AttentionCall& call, bool batch_invariant = false) {
  TestQueue queue;
  metal::attend(call, batch_invariant, queue);
  metal::check(queue, "test");
}

void expect_right(const Problem& problem, bool batch_invariant = false) {
  Arrays arrays(problem);
  run(arrays.call, batch_invariant);
  const auto expected = plain_attention(arrays.call);
  EXPECT_LT(relative_error(arrays.out(), expected.out), limit(problem));
  for (std::size_t i = 0; i < expected.lse.size(); ++i) {
    const auto lse = static_cast<double>(arrays.lse()[i]);
    if (std::isinf(expected.lse[i])) {
      EXPECT_EQ(lse, expected.lse[i]) << "row " << i;
    } else {
      EXPECT_NEAR(lse, expected.lse[i], 1e-5 + 1e-5 * std::fabs(expected.lse[i])) << "row " << i;
    }
  }
}

class MetalAttentionOfDType : public testing::TestWithParam<DType> {
 protected:
  [[nodiscard]] static Problem problem() {
    Problem p;
    p.dtype = GetParam();
    p.seq_lens = {37, 0, 70, 1};
    return p;
  }
};

INSTANTIATE_TEST_SUITE_P(Cache, MetalAttentionOfDType,
                         testing::Values(DType::float32, DType::float16, DType::bfloat16),
                         [](const auto& param) { return std::string(dtype_name(param.param)); });

TEST_P(MetalAttentionOfDType, DecodeIsRightForEveryHeadDim) {
  for (const std::int64_t head_dim : {8, 40, 64, 72, 80, 96, 112, 128, 192, 256, 512}) {
    SCOPED_TRACE(head_dim);
    Problem p = problem();
    p.head_dim = head_dim;
    expect_right(p);
  }
}

TEST_P(MetalAttentionOfDType, DecodeIsRightForEveryRatioOfHeads) {
  for (const std::int64_t group : {1, 3, 4, 8, 9, 16, 33, 64}) {
    SCOPED_TRACE(group);
    Problem p = problem();
    p.kv_heads = 1;
    p.group = group;
    expect_right(p);
  }
}

TEST_P(MetalAttentionOfDType, EveryBlockSizeAndBothLayouts) {
  for (const std::int64_t block_size : {1, 8, 16, 32, 64, 128, 256}) {
    for (const auto layout : {Layout::hnd, Layout::nhd}) {
      SCOPED_TRACE(block_size);
      Problem p = problem();
      p.head_dim = 32;
      p.block_size = block_size;
      p.layout = layout;
      expect_right(p);
    }
  }
}

TEST_P(MetalAttentionOfDType, KeysAndValuesMayHaveDifferentDimensions) {
  Problem p = problem();
  p.head_dim = 96;
  p.v_head_dim = 40;
  expect_right(p);
  p.head_dim = 32;
  p.v_head_dim = 136;
  p.query_lens = {37, 0, 40, 1};
  expect_right(p);
}

TEST_P(MetalAttentionOfDType, AMixedBatchOfPrefillChunksDecodesAndNothing) {
  Problem p = problem();
  p.seq_lens = {100, 64, 1, 0, 129, 300};
  p.query_lens = {50, 64, 1, 0, 2, 1};
  expect_right(p);
}

TEST_P(MetalAttentionOfDType, EveryOptionAloneAndWithPrefill) {
  const auto with = [](auto change) {
    Problem p = problem();
    p.head_dim = 16;
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
    p.window = 300;
    p.sink_tokens = 400;
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

TEST(MetalAttention, ALongSequenceIsCutIntoPieces) {
  for (const bool invariant : {false, true}) {
    Problem p;
    p.head_dim = 16;
    p.kv_heads = 1;
    p.sink_logits = true;
    p.seq_lens = {512, 513, 2100, 256, 257, 900};
    p.query_lens = {1, 8, 2, 0, 1, 9};
    expect_right(p, invariant);
    p.window = 700;
    p.sink_tokens = 300;
    expect_right(p, invariant);
    p.window = 3;
    p.tree = true;
    expect_right(p, invariant);
  }
}

TEST(MetalAttention, QueriesOfSixteenBitsGiveResultsOfSixteenBits) {
  for (const DType query : {DType::float16, DType::bfloat16}) {
    for (const DType cache : {DType::float32, DType::float16, DType::bfloat16}) {
      Problem p;
      p.dtype = cache;
      p.query_dtype = query;
      expect_right(p);
      p.query_lens = {30, 0, 1, 1};
      expect_right(p);
    }
  }
}

TEST(MetalAttention, MultiHeadLatentAttention) {
  for (const std::int64_t heads : {1, 16, 20}) {
    SCOPED_TRACE(heads);
    Problem p;
    p.dtype = DType::bfloat16;
    p.head_dim = heads == 20 ? 64 : 512;
    p.rope_dim = heads == 20 ? 32 : 64;
    p.kv_heads = 1;
    p.group = heads;
    p.seq_lens = {70, 0, 1, 530};
    p.query_lens = {2, 0, 1, 1};
    expect_right(p);
  }
}

TEST(MetalAttention, WithoutStartsEachSequenceHasOneQuery) {
  Problem p;
  p.group = 9;
  p.seq_lens = {37, 5, 600, 1};
  p.query_lens = {1, 1, 1, 1};
  Arrays arrays(p);
  const auto expected = plain_attention(arrays.call);
  arrays.call.query_start_loc = nullptr;
  run(arrays.call);
  EXPECT_LT(relative_error(arrays.out(), expected.out), 1e-5);
}

TEST(MetalAttention, AScaleOfEachTensorIsApplied) {
  Problem p;
  p.seq_lens = {37, 0, 600, 1};
  Arrays arrays(p);
  arrays.call.k_scale.value = 0.5F;
  arrays.call.v_scale.value = 3;
  run(arrays.call);
  EXPECT_LT(relative_error(arrays.out(), plain_attention(arrays.call).out), 1e-5);
}

TEST(MetalAttention, BatchInvariantBitsAreThoseOfTheSequenceAlone) {
  Problem p;
  p.head_dim = 16;
  p.seq_lens = {1500, 90, 40, 700};
  p.query_lens = {1, 30, 3, 1};
  Arrays arrays(p);
  run(arrays.call, true);
  const std::vector<std::byte> together = arrays.out_bytes();
  // The first sequence alone: its queries come first, and so does its result.
  arrays.call.num_seqs = 1;
  arrays.call.q.num_tokens = arrays.call.out.num_tokens = 1;
  std::memset(arrays.call.out.data, 0, arrays.call.out.row_bytes());
  run(arrays.call, true);
  EXPECT_EQ(arrays.out_bytes(), together);
  arrays.call.query_start_loc = nullptr;
  run(arrays.call, true);
  EXPECT_EQ(arrays.out_bytes(), together);
}

TEST(MetalAttention, RowsThatAreNotAlignedAreReadElementByElement) {
  for (const DType dtype : {DType::float32, DType::float16}) {
    Problem p;
    p.dtype = dtype;
    p.head_dim = 16;
    Arrays arrays(p);
    const auto expected = plain_attention(arrays.call);
    // The same caches, one element further.
    CacheView& k = arrays.call.k_cache;
    const std::size_t element = dtype_bits(dtype) / 8;
    const auto bytes = static_cast<std::size_t>(k.num_blocks * k.block_stride);
    std::vector<std::byte> moved(bytes + element);
    std::memcpy(moved.data() + element, k.data, bytes);
    k.data = moved.data() + element;
    run(arrays.call);
    EXPECT_LT(relative_error(arrays.out(), expected.out), 1e-5);
  }
}

TEST(MetalAttention, ANaNReachesTheRowsThatSeeItAndNoOthers) {
  for (const bool in_values : {false, true}) {
    for (const float odd : {kNaN, std::numeric_limits<float>::infinity()}) {
      Problem p;
      p.head_dim = 16;
      p.kv_heads = 1;
      p.group = 2;
      p.seq_lens = {40};
      p.query_lens = {40};
      Arrays arrays(p);
      const auto expected = plain_attention(arrays.call);
      CacheView& cache = in_values ? arrays.call.v_cache : arrays.call.k_cache;
      // Token 20.
      auto* row = reinterpret_cast<float*>(cache.row(arrays.call.block_tables[1], 0, 4));
      row[3] = odd;
      run(arrays.call);
      const auto out = arrays.out();
      const std::size_t row_size = 2 * 16;
      for (std::size_t i = 0; i < out.size(); ++i) {
        const std::size_t token = i / row_size;
        if (token < 20) {
          EXPECT_NEAR(out[i], expected.out[i], 1e-5) << "token " << token;
        } else if (in_values && i % 16 == 3) {
          EXPECT_FALSE(std::isfinite(out[i])) << "token " << token;
        } else if (!in_values && std::isnan(odd)) {
          EXPECT_TRUE(std::isnan(out[i])) << "token " << token;
        }
      }
    }
  }
}

TEST(MetalAttention, AQueryThatSeesNothingGivesZeros) {
  Problem p;
  p.tree = true;
  p.seq_lens = {5};
  p.query_lens = {5};
  Arrays arrays(p);
  std::vector<std::uint8_t> none(25, 0);
  arrays.call.tree_mask = none.data();
  run(arrays.call);
  for (const double x : arrays.out()) EXPECT_EQ(x, 0);
  for (const float x : arrays.lse()) EXPECT_EQ(x, -std::numeric_limits<float>::infinity());
}

TEST(MetalAttention, WhatIsOutOfRangeIsLeftOutAndTold) {
  Problem p;
  p.seq_lens = {40, 30};
  p.query_lens = {1, 1};
  Arrays arrays(p);
  const auto expected = plain_attention(arrays.call);
  const std::size_t half = expected.out.size() / 2;
  const auto expect_second_right = [&] {
    const auto out = arrays.out();
    for (std::size_t i = half; i < out.size(); ++i) EXPECT_NEAR(out[i], expected.out[i], 1e-5);
  };
  TestQueue queue;
  {
    std::vector<std::int32_t> tables(
        arrays.call.block_tables,
        arrays.call.block_tables + arrays.call.num_seqs * arrays.call.block_table_stride);
    AttentionCall call = arrays.call;
    call.block_tables = tables.data();
    for (const std::int32_t id : {-1, 1000, std::numeric_limits<std::int32_t>::min()}) {
      tables[1] = id;
      metal::attend(call, false, queue);
      expect_error<InvalidSlotError>([&] { metal::check(queue, "test"); }, "test", "block id",
                                     "arrays");
      metal::check(queue, "test");
      expect_second_right();
    }
  }
  {
    std::vector<std::int32_t> lens{0, 30};
    AttentionCall call = arrays.call;
    call.seq_lens = lens.data();
    for (const std::int32_t length : {-1, 1000000, std::numeric_limits<std::int32_t>::min()}) {
      lens[0] = length;
      metal::attend(call, false, queue);
      expect_error<ShapeError>([&] { metal::check(queue, "test"); }, "test", "lengths", "seq_lens");
      EXPECT_EQ(arrays.out()[0], 0);
      expect_second_right();
    }
  }
  for (const auto& starts :
       {std::vector<std::int32_t>{-5, 1, 2}, std::vector<std::int32_t>{0, 3, 2},
        std::vector<std::int32_t>{0, 1, 1000}}) {
    AttentionCall call = arrays.call;
    call.query_start_loc = starts.data();
    metal::attend(call, false, queue);
    expect_error<ShapeError>([&] { metal::check(queue, "test"); }, "test", "lengths", "seq_lens");
  }
}

TEST(MetalAttention, WhatMetalDoesNotTakeIsRefused) {
  Problem p;
  p.dtype = p.query_dtype = DType::float64;
  expect_error<UnsupportedError>([&] { run(Arrays(p).call); }, "metal.attend",
                                 "q of float64 on Metal", "float32, float16 or bfloat16");
  for (const DType dtype : {DType::int8, DType::int4, DType::float8_e4m3}) {
    p.dtype = dtype;
    p.query_dtype = DType::float32;
    expect_error<UnsupportedError>([&] { run(Arrays(p).call); }, "metal.attend",
                                   "k_cache of " + std::string(dtype_name(dtype)), "float32");
  }
}

TEST(MetalAttention, RandomProblems) {
  for (unsigned seed = 1; seed <= 60; ++seed) {
    std::mt19937 random(seed);
    const auto one_of = [&](auto values) { return values[random() % values.size()]; };
    Problem p;
    p.seed = seed;
    p.dtype = one_of(std::vector<DType>{DType::float32, DType::float16, DType::bfloat16});
    p.head_dim = one_of(std::vector<std::int64_t>{64, 80, 24, 128, 8, 200});
    p.v_head_dim = one_of(std::vector<std::int64_t>{0, 0, 48});
    p.kv_heads = static_cast<std::int64_t>(random() % 2 + 1);
    p.group = static_cast<std::int64_t>(random() % 9 + 1);
    p.block_size = one_of(std::vector<std::int64_t>{1, 8, 16, 32, 64, 128, 256});
    p.layout = random() % 2 == 0 ? Layout::hnd : Layout::nhd;
    p.seq_lens.clear();
    p.query_lens.clear();
    for (auto s = random() % 4 + 1; s > 0; --s) {
      p.seq_lens.push_back(static_cast<std::int64_t>(random() % 300));
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
    expect_right(p, random() % 2 == 0);
  }
}

}  // namespace
