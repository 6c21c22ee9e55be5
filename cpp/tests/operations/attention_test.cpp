// Attention beside dense attention in double: one text, compiled for each device. The header says
// which elements it takes and how a call is run.

#include <gtest/gtest.h>

#include <algorithm>
#include <attention_device.hpp>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "cpp/tests/operations/attention_oracle.hpp"

namespace {

using namespace pagedkv;
using pagedkv_test::Arrays;
using pagedkv_test::plain_attention;
using pagedkv_test::Problem;
using pagedkv_test::relative_error;
namespace device = pagedkv_test::device;

bool rounds_queries(const Problem& problem) {
  return device::kRoundsQueries && !problem.exact &&
         (problem.dtype == DType::int8 || problem.dtype == DType::int4);
}

/// Largest error of a result, from that of the dtype it is rounded to and of the products.
double limit(const Problem& problem) {
  if (problem.query_dtype == DType::float16) return 2e-3;
  if (problem.query_dtype == DType::bfloat16) return 1e-2;
  if (rounds_queries(problem)) return 1e-3;
  return problem.dtype == DType::float64 ? 1e-13 : 1e-5;
}

void expect_right(const Problem& problem, bool batch_invariant = false) {
  Arrays arrays(problem);
  device::attend(arrays.call, batch_invariant);
  const auto expected = plain_attention(arrays.call);
  EXPECT_LT(relative_error(arrays.out(), expected.out), limit(problem));
  const bool rough = problem.query_dtype != DType::float32 || rounds_queries(problem);
  for (std::size_t i = 0; i < expected.lse.size(); ++i) {
    const double lse = static_cast<double>(arrays.lse()[i]);
    if (std::isinf(expected.lse[i])) {
      EXPECT_EQ(lse, expected.lse[i]) << "row " << i;
    } else {
      const double most = (rough ? 2e-3 : 1e-5) + 1e-5 * std::fabs(expected.lse[i]);
      EXPECT_NEAR(lse, expected.lse[i], most) << "row " << i;
    }
  }
}

class AttentionOfDType : public testing::TestWithParam<DType> {
 protected:
  [[nodiscard]] static Problem problem() {
    Problem p;
    p.dtype = GetParam();
    p.query_dtype = device::query_dtype(p.dtype);
    if (device::kEmulated) p.seq_lens = {37, 0, 70, 1};
    return p;
  }
};

INSTANTIATE_TEST_SUITE_P(Cache, AttentionOfDType, testing::ValuesIn(device::kCacheDTypes),
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
  for (const std::int64_t group : {1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 17, 33, 64}) {
    SCOPED_TRACE(group);
    Problem p = problem();
    p.group = group;
    if (group > 8) p.kv_heads = 1;
    expect_right(p);
  }
}

TEST_P(AttentionOfDType, DecodeIsRightForEveryBlockSizeAndBothLayouts) {
  for (const std::int64_t block_size : {1, 8, 16, 24, 32, 64, 128, 256}) {
    for (const auto layout : {Layout::hnd, Layout::nhd}) {
      SCOPED_TRACE(block_size);
      Problem p = problem();
      p.block_size = block_size;
      p.layout = layout;
      if (device::kEmulated) p.head_dim = 32;
      expect_right(p);
    }
  }
}

TEST_P(AttentionOfDType, KeysAndValuesMayHaveDifferentDimensions) {
  for (const auto& [k, v] : {std::pair{96, 40}, {32, 136}}) {
    Problem p = problem();
    p.head_dim = k;
    p.v_head_dim = v;
    expect_right(p);
    p.query_lens = {37, 0, 64, 1};
    expect_right(p);
  }
}

TEST_P(AttentionOfDType, ScalesOfEachGranularityAreApplied) {
  if (!device::kScaleArrays) {
    Arrays arrays(problem());
    arrays.call.k_scale.value = 0.5F;
    arrays.call.v_scale.value = 3;
    device::attend(arrays.call, false);
    EXPECT_LT(relative_error(arrays.out(), plain_attention(arrays.call).out), limit(problem()));
    return;
  }
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
  if (device::kEmulated) {
    p.seq_lens = {100, 64, 1, 0, 129, 300};
    p.query_lens = {50, 64, 1, 0, 2, 1};
  }
  expect_right(p);
  expect_right(p, true);
}

TEST_P(AttentionOfDType, PrefillOfEveryWidth) {
  for (const std::int64_t head_dim : {64, 128, 192, 512}) {
    SCOPED_TRACE(head_dim);
    Problem p = problem();
    p.head_dim = head_dim;
    p.kv_heads = 1;
    p.seq_lens = {90, 30};
    p.query_lens = {40, 30};
    expect_right(p);
  }
}

TEST_P(AttentionOfDType, ALongSequenceIsCutIntoPieces) {
  for (const bool invariant : {false, true}) {
    Problem p = problem();
    p.kv_heads = 1;
    if (device::kEmulated) p.head_dim = 16;
    p.seq_lens = {512, 513, 2100};
    p.query_lens = {1, 1, 2};
    expect_right(p, invariant);
    p.seq_lens = {256, 257, 900};
    p.query_lens = {0, 1, 9};
    p.sink_logits = true;
    p.window = 700;
    p.sink_tokens = 300;
    expect_right(p, invariant);
    p.window = 3;
    p.tree = true;
    expect_right(p, invariant);
  }
}

TEST_P(AttentionOfDType, EveryOptionAloneAndWithPrefill) {
  const auto with = [](auto change) {
    Problem p = problem();
    if (device::kEmulated) {
      p.kv_heads = 1;
      p.head_dim = 16;
    }
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

TEST_P(AttentionOfDType, BatchInvariantTheRestOfTheBatchChangesNoBit) {
  Problem p = problem();
  if (device::kEmulated) p.kv_heads = 1;
  p.seq_lens = {1500, 90, 40};
  p.query_lens = {1, 30, 3};
  Arrays arrays(p);
  device::attend(arrays.call, true);
  const std::vector<std::byte> together = arrays.out_bytes();
  device::attend(arrays.call, true);
  EXPECT_EQ(arrays.out_bytes(), together);
  // The first sequence alone: its queries come first, and so does its result.
  arrays.call.num_seqs = 1;
  arrays.call.q.num_tokens = arrays.call.out.num_tokens = 1;
  std::memset(arrays.call.out.data, 0, arrays.call.out.row_bytes());
  device::attend(arrays.call, true);
  EXPECT_EQ(arrays.out_bytes(), together);
}

TEST_P(AttentionOfDType, MultiHeadLatentAttention) {
  if (GetParam() == DType::float64) return;  // MLA is of float32 at most
  for (const std::int64_t heads : {1, 16, 20, 80}) {
    if (device::kEmulated && heads == 80 && GetParam() != DType::bfloat16) continue;
    SCOPED_TRACE(heads);
    Problem p = problem();
    p.head_dim = heads == 20 ? 40 : 512;
    p.rope_dim = heads == 20 ? 136 : 64;
    p.kv_heads = 1;
    p.group = heads;
    p.seq_lens = {70, 0, 1, device::kEmulated ? 140 : 530};
    p.query_lens = {2, 0, 1, 1};
    expect_right(p);
  }
}

TEST(Attention, QueriesOfEachDTypeOverCachesOfEach) {
  for (const DType query : {DType::float32, DType::float16, DType::bfloat16}) {
    for (const DType cache : device::kCacheDTypes) {
      if (cache == DType::float64) continue;
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

TEST(Attention, ANanThatIsSeenIsNotHidden) {
  Arrays arrays(Problem{});
  auto* key = reinterpret_cast<float*>(arrays.call.k_cache.row(arrays.call.block_tables[0], 0, 3));
  key[0] = std::numeric_limits<float>::quiet_NaN();
  device::attend(arrays.call, false);
  EXPECT_TRUE(std::isnan(arrays.out()[0]));
}

TEST(Attention, AQueryThatSeesNothingGivesZeros) {
  Problem p;
  p.tree = true;
  p.seq_lens = p.query_lens = {5};
  Arrays arrays(p);
  const std::vector<std::uint8_t> none(25, 0);
  arrays.call.tree_mask = none.data();
  device::attend(arrays.call, false);
  for (const double x : arrays.out()) EXPECT_EQ(x, 0);
  for (const float x : arrays.lse()) EXPECT_EQ(x, -std::numeric_limits<float>::infinity());
}

TEST(Attention, WithoutStartsEachSequenceHasOneQuery) {
  Problem p;
  p.group = 9;
  p.seq_lens = {37, 5, 600, 1};
  p.query_lens = {1, 1, 1, 1};
  Arrays arrays(p);
  const auto expected = plain_attention(arrays.call);
  arrays.call.query_start_loc = nullptr;
  device::attend(arrays.call, false);
  EXPECT_LT(relative_error(arrays.out(), expected.out), limit(p));
}

/// The same elements in rows that begin at any element: a view of a larger array.
std::vector<std::byte> move_rows(CacheView& view) {
  const auto element = static_cast<std::int64_t>(dtype_bits(view.dtype) / 8);
  std::vector<std::byte> memory(
      static_cast<std::size_t>(view.num_blocks * view.block_stride * 2 + element));
  CacheView moved = view;
  moved.data = memory.data() + element;
  moved.token_stride += element;
  moved.head_stride = moved.token_stride * view.block_size;
  moved.block_stride = moved.head_stride * view.num_heads;
  for (std::int64_t block = 0; block < view.num_blocks; ++block) {
    for (std::int64_t head = 0; head < view.num_heads; ++head) {
      for (std::int64_t slot = 0; slot < view.block_size; ++slot) {
        std::memcpy(moved.row(block, head, slot), view.row(block, head, slot), view.row_bytes());
      }
    }
  }
  view = moved;
  return memory;
}

std::vector<std::byte> move_rows(RowsView& view) {
  const auto element = static_cast<std::int64_t>(dtype_bits(view.dtype) / 8);
  std::vector<std::byte> memory(
      static_cast<std::size_t>(view.num_tokens * view.token_stride * 2 + element));
  RowsView moved = view;
  moved.data = memory.data() + element;
  moved.head_stride += element;
  moved.token_stride = moved.head_stride * view.num_heads;
  for (std::int64_t token = 0; token < view.num_tokens; ++token) {
    for (std::int64_t head = 0; head < view.num_heads; ++head) {
      std::memcpy(moved.row(token, head), view.row(token, head), view.row_bytes());
    }
  }
  view = moved;
  return memory;
}

TEST(Attention, RowsMayBeginAtAnyElement) {
  for (const DType dtype : device::kCacheDTypes) {
    if (dtype_bits(dtype) < 8) continue;
    SCOPED_TRACE(std::string(dtype_name(dtype)));
    Problem p;
    p.dtype = dtype;
    p.query_dtype = device::query_dtype(dtype);
    p.head_dim = 40;
    p.seq_lens = {37, 20};
    p.query_lens = {1, 9};
    Arrays arrays(p);
    const auto expected = plain_attention(arrays.call);
    const auto keys = move_rows(arrays.call.k_cache);
    device::attend(arrays.call, false);
    EXPECT_LT(relative_error(arrays.out(), expected.out), limit(p));
    const auto values = move_rows(arrays.call.v_cache);
    const auto queries = move_rows(arrays.call.q);
    device::attend(arrays.call, false);
    EXPECT_LT(relative_error(arrays.out(), expected.out), limit(p));
  }
}

TEST(Attention, RandomProblems) {
  for (unsigned seed = 1; seed <= (device::kEmulated ? 30 : 60); ++seed) {
    std::mt19937 random(seed);
    const auto one_of = [&](auto values) { return values[random() % values.size()]; };
    Problem p;
    p.seed = seed;
    p.dtype = device::kCacheDTypes[random() % std::size(device::kCacheDTypes)];
    p.query_dtype = one_of(std::vector{DType::float32, DType::float16, DType::bfloat16});
    if (p.dtype == DType::float64) p.query_dtype = DType::float64;
    p.head_dim = one_of(std::vector<std::int64_t>{64, 80, 96, 112, 128, 192, 256, 24});
    p.v_head_dim = one_of(std::vector<std::int64_t>{0, 0, 48});
    p.kv_heads = static_cast<std::int64_t>(random() % 3 + 1);
    p.group = static_cast<std::int64_t>(random() % 9 + 1);
    p.block_size = one_of(std::vector<std::int64_t>{1, 8, 16, 32, 64, 128, 256});
    p.layout = random() % 2 == 0 ? Layout::hnd : Layout::nhd;
    if (device::kScaleArrays) p.scales = static_cast<int>(random() % 3);
    p.seq_lens.clear();
    p.query_lens.clear();
    for (auto s = random() % 5 + 1; s > 0; --s) {
      p.seq_lens.push_back(static_cast<std::int64_t>(random() % (device::kEmulated ? 200 : 400)));
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
    expect_right(p, seed % 2 == 0);
  }
}

}  // namespace
