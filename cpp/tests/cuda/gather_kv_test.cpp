// cuda::gather_kv: paged rows become dense ones, in any dtype, however many sequences there are.

#include <gtest/gtest.h>

#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "cpp/tests/cuda/device.hpp"
#include "cpp/tests/operations/ops_caches.hpp"

namespace {

using namespace pagedkv;
using namespace pagedkv_test;
using Ints = std::vector<std::int32_t>;

/// Sequences with random blocks; table entries that are not needed are -1.
struct Sequences {
  Sequences(Ints lengths, std::int64_t block_size, std::int64_t num_blocks, std::mt19937_64& random)
      : seq_lens(std::move(lengths)) {
    std::int64_t longest = 0;
    for (const std::int32_t length : seq_lens) longest = std::max<std::int64_t>(longest, length);
    max_blocks = longest / block_size + 1;
    for (const std::int32_t length : seq_lens) {
      for (std::int64_t i = 0; i < max_blocks; ++i) {
        const bool used = i * block_size < length;
        tables.push_back(
            used ? static_cast<std::int32_t>(random() % static_cast<std::uint64_t>(num_blocks))
                 : -1);
      }
    }
  }
  [[nodiscard]] std::int64_t total() const {
    return std::accumulate(seq_lens.begin(), seq_lens.end(), std::int64_t{0});
  }
  void put_into(GatherKvCall& call) const {
    call.block_tables = tables.data();
    call.block_table_stride = call.max_blocks = max_blocks;
    call.seq_lens = seq_lens.data();
    call.num_seqs = static_cast<std::int64_t>(seq_lens.size());
  }

  Ints seq_lens, tables;
  std::int64_t max_blocks = 0;
};

void expect_gathered(const Sequences& sequences, const CacheView& cache, const ScaleView& scale,
                     const RowsView& rows) {
  std::int64_t row = 0;
  for (std::size_t seq = 0; seq < sequences.seq_lens.size(); ++seq) {
    for (std::int64_t i = 0; i < sequences.seq_lens[seq]; ++i, ++row) {
      const std::int64_t entry =
          static_cast<std::int64_t>(seq) * sequences.max_blocks + i / cache.block_size;
      const std::int64_t block = sequences.tables[static_cast<std::size_t>(entry)];
      for (std::int64_t head = 0; head < cache.num_heads; ++head) {
        const std::byte* from = cache.row(block, head, i % cache.block_size);
        const std::byte* to = rows.row(row, head);
        if (rows.dtype == cache.dtype) {
          ASSERT_EQ(std::memcmp(from, to, cache.row_bytes()), 0) << "row " << row;
          continue;
        }
        const float by = scale.at(block, head, i % cache.block_size);
        for (std::int64_t j = 0; j < cache.head_dim; ++j) {
          const double expected =
              dequantized(cache.dtype, rows.dtype, element(cache.dtype, from, j), by);
          ASSERT_TRUE(same_value(rows.dtype, element(rows.dtype, to, j), expected))
              << "row " << row;
        }
      }
    }
  }
}

class CudaGatherKv : public OnCuda,
                     public testing::WithParamInterface<std::tuple<Layout, int, int>> {};

TEST_P(CudaGatherKv, ReadsEveryDTypeAsEveryFloat) {
  const auto [layout, block_size, dim] = GetParam();
  std::mt19937_64 random(1);
  constexpr std::int64_t heads = 2, num_blocks = 7;
  for (const DType from : {DType::float32, DType::float16, DType::bfloat16, DType::float8_e4m3,
                           DType::float8_e5m2, DType::int8}) {
    TestCache k(from, num_blocks, heads, block_size, dim, layout, Values::any_bits, random);
    TestCache v(from, num_blocks, heads, block_size, 24, layout, Values::ordinary, random);
    const Sequences sequences({0, 5, block_size, 0, 2 * block_size + 1, 1}, block_size, num_blocks,
                              random);
    std::vector<float> scales(num_blocks * heads);
    for (float& x : scales) x = 0.25F + static_cast<float>(random() % 100) / 50;
    for (const DType to : {from, DType::float32, DType::float16, DType::bfloat16}) {
      in_each_order([&] {
        TestRows k_rows(to, sequences.total(), heads, dim, Values::ordinary, random);
        TestRows v_rows(to, sequences.total(), heads, 24, Values::ordinary, random, true);
        GatherKvCall call;
        call.k_cache = k.view;
        call.v_cache = v.view;
        if (dtype_bits(from) == 8 && to != from) call.k_scale = {scales.data(), 1, heads, 1, 0};
        sequences.put_into(call);
        call.k = k_rows.view;
        call.v = v_rows.view;
        cuda::gather_kv(call, stream_);
        expect_gathered(sequences, k.view, call.k_scale, k_rows.view);
        expect_gathered(sequences, v.view, call.v_scale, v_rows.view);
      });
      if (HasFatalFailure()) return;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, CudaGatherKv,
                         testing::Combine(testing::Values(Layout::hnd, Layout::nhd),
                                          testing::Values(1, 8, 48), testing::Values(64, 7)));

class CudaGather : public OnCuda {
 protected:
  /// Float32 caches of `num_blocks` blocks, and a call without sequences and rows.
  explicit CudaGather(std::int64_t num_blocks = 9)
      : random_(2),
        k_(DType::float32, num_blocks, 1, 4, 8, Layout::hnd, Values::any_bits, random_),
        v_(DType::float32, num_blocks, 1, 4, 8, Layout::hnd, Values::any_bits, random_) {
    call_.k_cache = k_.view;
    call_.v_cache = v_.view;
  }
  void gather(const Sequences& sequences, TestRows& k, TestRows& v) {
    sequences.put_into(call_);
    call_.k = k.view;
    call_.v = v.view;
    cuda::gather_kv(call_, stream_);
  }

  std::mt19937_64 random_;
  TestCache k_, v_;
  GatherKvCall call_;
};

TEST_F(CudaGather, TakesMoreSequencesThanABlockHasThreads) {
  Ints lengths;
  for (int i = 0; i < 700; ++i) lengths.push_back(static_cast<std::int32_t>(random_() % 3));
  lengths[400] = 90;
  const Sequences sequences(lengths, 4, 9, random_);
  in_each_order([&] {
    TestRows k(DType::float32, sequences.total(), 1, 8, Values::ordinary, random_);
    TestRows v(DType::float32, sequences.total(), 1, 8, Values::ordinary, random_);
    gather(sequences, k, v);
    expect_gathered(sequences, k_.view, {}, k.view);
    expect_gathered(sequences, v_.view, {}, v.view);
  });
}

TEST_F(CudaGather, RowsBehindTheLastTokenAreLeftAlone) {
  const Sequences sequences({3, 0, 6}, 4, 9, random_);
  TestRows k(DType::float32, 50, 1, 8, Values::ordinary, random_), v = k;
  v.view.data = v.bytes.data();
  const TestRows before = k;
  gather(sequences, k, v);
  expect_gathered(sequences, k_.view, {}, k.view);
  const auto end = k.view.row(9, 0) - k.bytes.data();
  EXPECT_TRUE(std::equal(k.bytes.begin() + end, k.bytes.end(), before.bytes.begin() + end));
}

TEST_F(CudaGather, LengthsAndBlocksOutOfRangeAreReportedAndNotFollowed) {
  for (const std::int32_t length : {-1, 9, 2147483647}) {
    Sequences sequences({3, 4, 2}, 4, 9, random_);
    sequences.seq_lens[1] = length;
    TestRows k(DType::float32, 9, 1, 8, Values::ordinary, random_);
    TestRows v(DType::float32, 9, 1, 8, Values::ordinary, random_);
    gather(sequences, k, v);
    sequences.seq_lens[1] = 0;
    expect_gathered(sequences, k_.view, {}, k.view);
    expect_mistake<ShapeError>("sequence 1 of " + std::to_string(length));
  }
  for (const std::int32_t block : {-1, 9, -2147483647}) {
    Sequences sequences({3, 4}, 4, 9, random_);
    sequences.tables[static_cast<std::size_t>(sequences.max_blocks)] = block;
    TestRows k(DType::float32, 7, 1, 8, Values::ordinary, random_);
    TestRows v(DType::float32, 7, 1, 8, Values::ordinary, random_);
    gather(sequences, k, v);
    sequences.seq_lens.resize(1);
    expect_gathered(sequences, k_.view, {}, k.view);
    expect_mistake<InvalidSlotError>("block " + std::to_string(block));
  }
}

TEST_F(CudaGather, MoreTokensThanRowsAreReportedAndNotWritten) {
  Sequences sequences({3, 4, 2, 1}, 4, 9, random_);
  for (const std::int64_t rows : {std::int64_t{7}, std::int64_t{9}, std::int64_t{0}}) {
    TestRows k(DType::float32, rows, 1, 8, Values::ordinary, random_);
    TestRows v(DType::float32, rows, 1, 8, Values::ordinary, random_);
    k.view.data = v.view.data = nullptr;
    std::vector<std::byte> k_bytes(static_cast<std::size_t>(rows) * 32 + 1), v_bytes = k_bytes;
    k.view = rows_view(k_bytes.data(), DType::float32, rows, 1, 8);
    v.view = rows_view(v_bytes.data(), DType::float32, rows, 1, 8);
    gather(sequences, k, v);
    expect_mistake<ShapeError>(
        ("sequences of 10 tokens in all; expected 0 to " + std::to_string(rows)));
  }
}

}  // namespace
