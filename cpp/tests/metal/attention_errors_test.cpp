// Attention on Metal beyond what every device does: which rows a NaN reaches, what is not followed
// and what is refused.

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
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
using pagedkv_test::TestQueue;

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

void run(const AttentionCall& call) {
  TestQueue queue;
  metal::attend(call, false, queue);
  metal::check(queue, "test");
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

}  // namespace
