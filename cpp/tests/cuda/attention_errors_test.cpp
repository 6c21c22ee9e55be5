// What CUDA's attention refuses, and what it does not follow.

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include "cpp/tests/operations/attention_oracle.hpp"
#include "cuda/operations.hpp"

namespace {

using namespace pagedkv;
using pagedkv_test::Arrays;
using pagedkv_test::Problem;

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

}  // namespace
