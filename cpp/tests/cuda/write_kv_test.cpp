// cuda::write_kv: rows get to their slots, in every dtype, and nothing else changes.

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "cpp/tests/cuda/device.hpp"
#include "cpp/tests/operations/ops_caches.hpp"

namespace {

using namespace pagedkv;
using namespace pagedkv_test;

constexpr DType kFloats[] = {DType::float32, DType::float16, DType::bfloat16};
constexpr DType kCaches[] = {DType::float32,     DType::float16,     DType::bfloat16,
                             DType::float8_e4m3, DType::float8_e5m2, DType::int8};

/// Each slot holds its token's row, or what it held before.
void expect_written(const RowsView& rows, const TestCache& cache,
                    const std::vector<std::int64_t>& slots, const ScaleView& scale = {}) {
  const CacheView& view = cache.view;
  std::vector<std::int64_t> token_of(static_cast<std::size_t>(view.num_blocks * view.block_size),
                                     -1);
  for (std::size_t token = 0; token < slots.size(); ++token) {
    if (slots[token] < 0) continue;
    token_of[static_cast<std::size_t>(slots[token])] = static_cast<std::int64_t>(token);
  }
  for (std::int64_t slot = 0; slot < view.num_blocks * view.block_size; ++slot) {
    const std::int64_t token = token_of[static_cast<std::size_t>(slot)];
    for (std::int64_t head = 0; head < view.num_heads; ++head) {
      const std::byte* to = cache.row(slot, head);
      const std::byte* from = token < 0 ? cache.row_before(slot, head) : rows.row(token, head);
      if (token < 0 || rows.dtype == view.dtype) {
        ASSERT_EQ(std::memcmp(from, to, view.row_bytes()), 0) << "slot " << slot;
        continue;
      }
      const float by = scale.at(slot / view.block_size, head, slot % view.block_size);
      for (std::int64_t i = 0; i < view.head_dim; ++i) {
        const double x = element(rows.dtype, from, i);
        const double expected = quantized(rows.dtype, view.dtype, x, by);
        ASSERT_TRUE(same_value(view.dtype, element(view.dtype, to, i), expected))
            << dtype_name(rows.dtype) << " " << x << " / " << by << " as " << dtype_name(view.dtype)
            << " is " << element(view.dtype, to, i) << ", expected " << expected;
      }
    }
  }
}

struct Shape {
  Layout layout;
  std::int64_t block_size, head_dim, v_head_dim;
  bool dense;
};

class CudaWriteKv : public OnCuda, public testing::WithParamInterface<Shape> {};

TEST_P(CudaWriteKv, PutsEveryDTypeIntoEveryOtherOne) {
  const Shape shape = GetParam();
  std::mt19937_64 random(1);
  constexpr std::int64_t n = 11, heads = 3;
  const std::int64_t num_blocks = 24 / shape.block_size + 1;
  for (const DType to : kCaches) {
    for (const DType from : kCaches) {
      if (from != to && std::ranges::count(kFloats, from) == 0) continue;
      in_each_order([&] {
        TestRows k(from, n, heads, shape.head_dim, Values::any_bits, random, shape.dense);
        TestRows v(from, n, heads, shape.v_head_dim, Values::ordinary, random, shape.dense);
        TestCache k_cache(to, num_blocks, heads, shape.block_size, shape.head_dim, shape.layout,
                          Values::any_bits, random);
        TestCache v_cache(to, num_blocks, heads, shape.block_size, shape.v_head_dim, shape.layout,
                          Values::any_bits, random);
        auto slots = random_slots(num_blocks * shape.block_size, n, random);
        slots[3] = slots[7] = kNoSlot;
        cuda::write_kv({k.view, v.view, k_cache.view, v_cache.view, {}, {}, slots.data()}, stream_);
        expect_written(k.view, k_cache, slots);
        expect_written(v.view, v_cache, slots);
      });
      if (HasFatalFailure()) return;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, CudaWriteKv,
                         testing::Values(Shape{Layout::hnd, 16, 64, 64, true},
                                         Shape{Layout::nhd, 8, 128, 80, false},
                                         Shape{Layout::hnd, 1, 40, 24, true},
                                         Shape{Layout::nhd, 256, 20, 7, false},
                                         Shape{Layout::hnd, 24, 512, 320, true}));

using CudaWrite = OnCuda;

TEST_F(CudaWrite, QuantisesByScalesOfATensorAHeadAndASlot) {
  std::mt19937_64 random(3);
  constexpr std::int64_t n = 9, heads = 2, block_size = 8, num_blocks = 3, dim = 72;
  for (const DType to : {DType::int8, DType::float8_e4m3, DType::float8_e5m2}) {
    for (const DType from : kFloats) {
      TestRows k(from, n, heads, dim, Values::ordinary, random);
      TestRows v(from, n, heads, 5, Values::ordinary, random);
      for (std::int64_t i = 0; i < dim; ++i) set_element(from, k.view.row(2, 1), i, 0);
      TestCache k_cache(to, num_blocks, heads, block_size, dim, Layout::hnd, Values::any_bits,
                        random);
      TestCache v_cache(to, num_blocks, heads, block_size, 5, Layout::nhd, Values::any_bits,
                        random);
      const auto slots = random_slots(num_blocks * block_size, n, random);
      std::vector<float> by_slot(num_blocks * heads * block_size, -1), by_head(num_blocks * heads);
      for (float& x : by_head) x = 0.25F + static_cast<float>(random() % 100) / 50;
      const ScaleView computed{by_slot.data(), 1, heads * block_size, block_size, 1};
      const ScaleView given{by_head.data(), 1, heads, 1, 0};
      const auto given_before = by_head;
      cuda::write_kv({k.view, v.view, k_cache.view, v_cache.view, computed, given, slots.data()},
                     stream_);
      expect_written(k.view, k_cache, slots, computed);
      expect_written(v.view, v_cache, slots, given);
      EXPECT_EQ(by_head, given_before);
      for (std::int64_t token = 0; token < n; ++token) {
        const std::int64_t slot = slots[static_cast<std::size_t>(token)];
        for (std::int64_t head = 0; head < heads; ++head) {
          double largest = 0;
          for (std::int64_t i = 0; i < dim; ++i) {
            largest = std::max(largest, std::abs(element(from, k.view.row(token, head), i)));
          }
          const double exact =
              std::max<double>(largest / largest_value(to), std::numeric_limits<float>::min());
          EXPECT_FLOAT_EQ(computed.at(slot / block_size, head, slot % block_size),
                          static_cast<float>(exact));
        }
      }
      const ScaleView tensor{nullptr, 0.5F, 0, 0, 0};
      cuda::write_kv({k.view, v.view, k_cache.view, v_cache.view, tensor, tensor, slots.data()},
                     stream_);
      expect_written(k.view, k_cache, slots, tensor);
      if (HasFatalFailure()) return;
    }
  }
}

TEST_F(CudaWrite, RowsOfTheCachesOwnDTypeAreCopiedWhateverTheScale) {
  std::mt19937_64 random(4);
  TestRows k(DType::float8_e5m2, 4, 2, 16, Values::any_bits, random);
  TestRows v(DType::float32, 4, 2, 16, Values::ordinary, random);
  TestCache k_cache(DType::float8_e5m2, 1, 2, 8, 16, Layout::hnd, Values::any_bits, random);
  TestCache v_cache(DType::int8, 1, 2, 8, 16, Layout::hnd, Values::any_bits, random);
  const std::vector<std::int64_t> slots{5, 2, 0, 7};
  const ScaleView by{nullptr, 3, 0, 0, 0};
  cuda::write_kv({k.view, v.view, k_cache.view, v_cache.view, by, by, slots.data()}, stream_);
  expect_written(k.view, k_cache, slots);
  expect_written(v.view, v_cache, slots, by);
}

TEST_F(CudaWrite, LatentAndRotaryRowsMayInterleaveInOneArray) {
  std::mt19937_64 random(5);
  constexpr std::int64_t n = 6, rank = 64, rope = 8, block_size = 4, num_blocks = 3;
  auto all = random_elements(DType::bfloat16, num_blocks * block_size * (rank + rope),
                             Values::ordinary, random);
  TestRows ckv(DType::bfloat16, n, 1, rank, Values::any_bits, random);
  TestRows kpe(DType::bfloat16, n, 1, rope, Values::any_bits, random);
  MlaWriteCall call;
  call.ckv = ckv.view;
  call.kpe = kpe.view;
  call.ckv_cache = cache_view(all.data(), DType::bfloat16, num_blocks, 1, block_size, rank);
  call.ckv_cache.token_stride = (rank + rope) * 2;
  call.ckv_cache.block_stride = call.ckv_cache.head_stride =
      call.ckv_cache.token_stride * block_size;
  call.kpe_cache = call.ckv_cache;
  call.kpe_cache.data += rank * 2;
  call.kpe_cache.head_dim = rope;
  const std::vector<std::int64_t> slots{11, 0, kNoSlot, 5, 6, 7};
  call.slot_mapping = slots.data();
  cuda::write_kv(as_write_kv(call), stream_, "cuda.mla_write");
  for (std::int64_t token = 0; token < n; ++token) {
    const std::int64_t slot = slots[static_cast<std::size_t>(token)];
    if (slot < 0) continue;
    const auto* row = call.ckv_cache.row(slot / block_size, 0, slot % block_size);
    EXPECT_EQ(std::memcmp(row, ckv.view.row(token, 0), rank * 2), 0);
    EXPECT_EQ(std::memcmp(row + rank * 2, kpe.view.row(token, 0), rope * 2), 0);
  }
}

TEST_F(CudaWrite, ASlotOutsideTheCacheIsReportedAndNotWritten) {
  std::mt19937_64 random(6);
  for (const DType from : {DType::float16, DType::float32}) {
    for (const std::int64_t slot : {std::int64_t{24}, std::int64_t{-2}, std::int64_t{1} << 40}) {
      TestRows rows(from, 3, 2, 16, Values::ordinary, random);
      TestCache k_cache(DType::float16, 3, 2, 8, 16, Layout::hnd, Values::any_bits, random);
      TestCache v_cache(DType::float16, 3, 2, 8, 16, Layout::hnd, Values::any_bits, random);
      const std::vector<std::int64_t> slots{4, slot, 9}, written{4, -1, 9};
      cuda::write_kv({rows.view, rows.view, k_cache.view, v_cache.view, {}, {}, slots.data()},
                     stream_);
      expect_written(rows.view, k_cache, written);
      expect_written(rows.view, v_cache, written);
      expect_mistake<InvalidSlotError>(
          ("[here] slot " + std::to_string(slot) + " at 1; expected -1 to 23"));
      EXPECT_NO_THROW(cuda::check(stream_)) << "told once";
    }
  }
}

TEST_F(CudaWrite, WhatTheDeviceDoesNotTakeIsNamed) {
  std::mt19937_64 random(7);
  const std::vector<std::int64_t> slots{0, 1};
  for (const DType dtype : {DType::float64, DType::int4}) {
    TestRows rows(dtype, 2, 2, 16, Values::ordinary, random);
    TestCache cache(dtype, 3, 2, 8, 16, Layout::hnd, Values::any_bits, random);
    TestCache other(dtype, 3, 2, 8, 16, Layout::hnd, Values::any_bits, random);
    EXPECT_THROW(cuda::write_kv(
                     {rows.view, rows.view, cache.view, other.view, {}, {}, slots.data()}, stream_),
                 UnsupportedError);
    EXPECT_TRUE(cache.unchanged());
  }
  TestRows rows(DType::float32, 2, 2, 16, Values::ordinary, random);
  TestCache cache(DType::float32, 3, 2, 8, 16, Layout::hnd, Values::any_bits, random);
  EXPECT_THROW(
      cuda::write_kv({rows.view, rows.view, cache.view, cache.view, {}, {}, slots.data()}, stream_),
      ShapeError);
  EXPECT_TRUE(cache.unchanged());
}

TEST_F(CudaWrite, NoTokensAreNoWork) {
  std::mt19937_64 random(8);
  TestRows rows(DType::float32, 0, 2, 16, Values::ordinary, random);
  TestCache k_cache(DType::float32, 3, 2, 8, 16, Layout::hnd, Values::any_bits, random);
  TestCache v_cache(DType::float32, 3, 2, 8, 16, Layout::hnd, Values::any_bits, random);
  cuda::write_kv({rows.view, rows.view, k_cache.view, v_cache.view, {}, {}, nullptr}, stream_);
  EXPECT_TRUE(k_cache.unchanged());
}

}  // namespace
