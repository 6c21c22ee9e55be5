// rope_write_kv: norm and rotation by their definitions in float64, then a write.

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "../expect_error.hpp"
#include "ops_caches.hpp"
#include "ops_kernels.hpp"
#include "pagedkv/cpu/rope_write_kv.hpp"

namespace {

using namespace pagedkv;
using namespace pagedkv::cpu;
using namespace pagedkv_test;

constexpr std::int64_t kMaxPosition = 50;

struct Rope {
  std::int64_t rotary_dim;
  bool interleaved;
  std::vector<float> angles;  // [kMaxPosition, rotary_dim], with room for one more behind each row
  std::int64_t stride;

  Rope(std::int64_t dim, bool in_pairs)
      : rotary_dim(dim),
        interleaved(in_pairs),
        angles(static_cast<std::size_t>(kMaxPosition * (dim + 1))),
        stride(dim + 1) {
    for (std::int64_t position = 0; position < kMaxPosition; ++position) {
      for (std::int64_t i = 0; i < dim / 2; ++i) {
        const double angle =
            static_cast<double>(position) *
            std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(dim));
        const auto at = static_cast<std::size_t>(position * stride + i);
        angles[at] = static_cast<float>(std::cos(angle));
        angles[at + static_cast<std::size_t>(dim / 2)] = static_cast<float>(std::sin(angle));
      }
    }
  }
  void put_into(RopeWriteKvCall& call) const {
    call.cos_sin_cache = angles.data();
    call.cos_sin_stride = stride;
    call.max_position = kMaxPosition;
    call.rotary_dim = rotary_dim;
    call.interleaved = interleaved;
  }

  /// A row normed and rotated.
  [[nodiscard]] std::vector<double> applied(const RowsView& rows, std::int64_t token,
                                            std::int64_t head, std::int64_t position,
                                            const RowsView& weight, double eps) const {
    std::vector<double> x;
    for (std::int64_t i = 0; i < rows.head_dim; ++i) {
      x.push_back(element(rows.dtype, rows.row(token, head), i));
    }
    if (weight.data != nullptr) {
      double squares = 0;
      for (const double y : x) squares += y * y;
      const double root = std::sqrt(squares / static_cast<double>(x.size()) + eps);
      for (std::size_t i = 0; i < x.size(); ++i) {
        x[i] = x[i] / root * element(weight.dtype, weight.data, static_cast<std::int64_t>(i));
      }
    }
    const float* row = angles.data() + position * stride;
    const auto half = static_cast<std::size_t>(rotary_dim / 2);
    for (std::size_t i = 0; i < half; ++i) {
      const double cosine = row[i], sine = row[half + i];
      double& a = interleaved ? x[2 * i] : x[i];
      double& b = interleaved ? x[2 * i + 1] : x[half + i];
      const double turned = a * cosine - b * sine;
      b = b * cosine + a * sine;
      a = turned;
    }
    return x;
  }
};

double largest_of(const std::vector<double>& row) {
  double largest = 0;
  for (const double x : row) largest = std::max(largest, std::abs(x));
  return largest;
}

/// The elements times `scale` are `row`, but for arithmetic in `between` and one rounding to
/// `dtype`.
void expect_near(DType dtype, const std::byte* elements, float scale,
                 const std::vector<double>& row, DType between) {
  const double slack = largest_of(row) * (between == DType::float64 ? 1e-14 : 1e-6);
  for (std::size_t i = 0; i < row.size(); ++i) {
    const double got = element(dtype, elements, static_cast<std::int64_t>(i)) * scale;
    double step = 1;
    if (!is_integer(dtype)) {
      const FloatFormat f = format_of(dtype);
      const double magnitude = std::max(std::abs(row[i]) / scale, std::ldexp(1, f.least()));
      step = std::ldexp(1, std::ilogb(magnitude) - f.mantissa_bits);
    }
    ASSERT_LE(std::abs(got - row[i]), slack + step * scale * 0.5001)
        << dtype_name(dtype) << " element " << i << " of scale " << scale;
  }
}

struct Case {
  std::int64_t head_dim;
  std::int64_t rotary_dim;
  bool interleaved;
  bool norm;
};

class RopeWriteKv : public testing::TestWithParam<Case> {};

TEST_P(RopeWriteKv, RotatesQueriesAndKeysAndWritesKeysAndValues) {
  const auto [head_dim, rotary_dim, interleaved, norm] = GetParam();
  std::mt19937_64 random(1);
  const Rope rope(rotary_dim, interleaved);
  constexpr std::int64_t n = 13, q_heads = 4, heads = 2, block_size = 8, blocks = 3;
  for (const DType dtype : kPlainFloats) {
    for (const DType to : kCacheDTypes) {
      TestRows q(dtype, n, q_heads, head_dim, Values::ordinary, random);
      TestRows q_out(dtype, n, q_heads, head_dim, Values::any_bits, random);
      TestRows k(dtype, n, heads, head_dim, Values::ordinary, random);
      TestRows v(dtype, n, heads, head_dim, Values::ordinary, random);
      TestRows weights(DType::bfloat16, 2, 1, head_dim, Values::ordinary, random);
      TestCache k_cache(to, blocks, heads, block_size, head_dim, Layout::nhd, Values::any_bits,
                        random);
      TestCache v_cache(to, blocks, heads, block_size, head_dim, Layout::hnd, Values::any_bits,
                        random);
      auto slots = random_slots(blocks * block_size, n, random);
      slots[4] = kNoSlot;
      std::vector<std::int64_t> positions;
      std::vector<std::int32_t> positions_int32;
      for (std::int64_t i = 0; i < n; ++i) {
        positions.push_back(i == 0 ? kMaxPosition - 1 : i * 3);
        positions_int32.push_back(static_cast<std::int32_t>(positions.back()));
      }
      std::vector<float> scales(static_cast<std::size_t>(blocks * heads * block_size));
      RopeWriteKvCall call;
      call.q = q.view;
      call.q_out = q_out.view;
      call.k = k.view;
      call.v = v.view;
      call.k_cache = k_cache.view;
      call.v_cache = v_cache.view;
      if (std::ranges::count(kQuantized, to) != 0) {
        call.k_scale = {scales.data(), 1, heads * block_size, block_size, 1};
        call.v_scale = {nullptr, 0.1F, 0, 0, 0};
      }
      call.slot_mapping = slots.data();
      if (to == DType::int8) {
        call.positions = positions.data();
      } else {
        call.positions_int32 = positions_int32.data();
      }
      rope.put_into(call);
      if (norm) {
        call.q_norm_weight = call.k_norm_weight = weights.view;
        call.q_norm_weight.num_tokens = call.k_norm_weight.num_tokens = 1;
        call.k_norm_weight.data = weights.view.row(1, 0);
      }
      ThreadPool executor(3);
      rope_write_kv(call, executor, test_kernels());
      for (std::int64_t token = 0; token < n; ++token) {
        const std::int64_t position = positions[static_cast<std::size_t>(token)];
        for (std::int64_t head = 0; head < q_heads; ++head) {
          expect_near(
              dtype, q_out.view.row(token, head), 1,
              rope.applied(q.view, token, head, position, call.q_norm_weight, call.norm_eps),
              dtype);
        }
        const std::int64_t slot = slots[static_cast<std::size_t>(token)];
        if (slot == kNoSlot) continue;
        for (std::int64_t head = 0; head < heads; ++head) {
          const auto expected =
              rope.applied(k.view, token, head, position, call.k_norm_weight, call.norm_eps);
          const float by = call.k_scale.at(slot / block_size, head, slot % block_size);
          if (call.k_scale.per_token()) {
            ASSERT_NEAR(by * largest_quantized(to), largest_of(expected),
                        1e-5 * largest_of(expected));
          }
          expect_near(to, k_cache.row(slot, head), by, expected, dtype);
          for (std::int64_t i = 0; i < head_dim; ++i) {
            const double x = element(dtype, v.view.row(token, head), i);
            ASSERT_TRUE(same_value(to, element(to, v_cache.row(slot, head), i),
                                   quantized(dtype, to, x, call.v_scale.value)));
          }
        }
      }
      if (HasFatalFailure()) return;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, RopeWriteKv,
                         testing::Values(Case{128, 128, false, false}, Case{128, 128, true, true},
                                         Case{64, 32, false, true}, Case{80, 20, true, false},
                                         Case{40, 0, false, true}, Case{40, 38, false, false},
                                         Case{512, 512, false, true}),
                         [](const auto& i) {
                           return "dim_" + std::to_string(i.param.head_dim) + "_rotary_" +
                                  std::to_string(i.param.rotary_dim) +
                                  (i.param.interleaved ? "_interleaved" : "_halves") +
                                  (i.param.norm ? "_norm" : "");
                         });

class RopeWriteKvCalls : public testing::Test {
 protected:
  RopeWriteKvCalls() { reset(); }
  void reset() {
    call = {};
    call.q = call.q_out = q.view;
    call.k = k.view;
    call.v = v.view;
    call.k_cache = k_cache.view;
    call.v_cache = v_cache.view;
    call.slot_mapping = slots.data();
    call.positions = positions.data();
    rope.put_into(call);
  }
  void run() { rope_write_kv(call, executor, test_kernels()); }
  void expect_shape(std::string_view given, std::string_view expected) {
    expect_error<ShapeError>([&] { run(); }, "cpu.rope_write_kv", given, expected);
    EXPECT_TRUE(k_cache.unchanged() && v_cache.unchanged() && q.bytes == q_before);
    reset();
  }

  std::mt19937_64 random{2};
  Rope rope{16, false};
  TestRows q{DType::float32, 3, 4, 16, Values::ordinary, random};
  TestRows k{DType::float32, 3, 2, 16, Values::ordinary, random};
  TestRows v{DType::float32, 3, 2, 8, Values::ordinary, random};
  TestCache k_cache{DType::float32, 4, 2, 4, 16, Layout::hnd, Values::ordinary, random};
  TestCache v_cache{DType::float32, 4, 2, 4, 8, Layout::hnd, Values::ordinary, random};
  std::vector<std::int64_t> slots{0, 5, 15}, positions{7, 8, 9};
  std::vector<std::byte> q_before = q.bytes;
  RopeWriteKvCall call;
  SerialExecutor executor;
};

TEST_F(RopeWriteKvCalls, QueriesMayBeRotatedInPlace) {
  TestRows out(q);
  out.view.data = out.bytes.data();
  call.q_out = out.view;
  run();
  EXPECT_EQ(q.bytes, q_before);
  reset();
  run();
  EXPECT_EQ(q.bytes, out.bytes);
}

TEST_F(RopeWriteKvCalls, QueriesMayBeAbsent) {
  call.q = call.q_out = {};
  run();
  EXPECT_FALSE(k_cache.unchanged() || v_cache.unchanged());
}

TEST_F(RopeWriteKvCalls, ASlotOrAPositionOutsideIsRefusedBeforeAnythingIsWritten) {
  slots[2] = 16;
  expect_error<InvalidSlotError>([&] { run(); }, "cpu.rope_write_kv", "slot 16 at 2", "-1 to 15");
  slots[2] = 15;
  for (const std::int64_t position : {std::int64_t{-1}, kMaxPosition}) {
    positions[1] = position;
    expect_error<InvalidSlotError>([&] { run(); }, "cpu.rope_write_kv",
                                   "position " + std::to_string(position) + " at 1", "0 to 49");
  }
  EXPECT_TRUE(k_cache.unchanged() && v_cache.unchanged() && q.bytes == q_before);
}

TEST_F(RopeWriteKvCalls, WhatDoesNotGoTogetherIsRefused) {
  call.rotary_dim = 15;
  expect_shape("rotary_dim 15", "an even number up to head_dim 16");
  call.rotary_dim = 18;
  expect_shape("rotary_dim 18", "an even number up to head_dim 16");
  call.positions = nullptr;
  expect_shape("no positions", "int64 or int32");
  const std::vector<std::int32_t> more(3);
  call.positions_int32 = more.data();
  expect_shape("two kinds of positions", "int64 or int32");
  call.cos_sin_cache = nullptr;
  expect_shape("no cos_sin_cache", "[max_position, rotary_dim]");
  call.k_norm_weight = rows_view(k.bytes.data(), DType::float32, 1, 1, 8);
  expect_shape("k_norm_weight of 8 elements of float32", "16 floats");
  call.q_out.head_dim = 8;
  expect_shape("q_out [3, 4, 8] of float32", "one shape");
  call.q_out.data = nullptr;
  expect_shape("q or q_out without data", "data");
  call.k.dtype = call.k_cache.dtype = DType::int8;
  expect_shape("k of int8", "float64, float32, float16 or bfloat16");
  call.v.head_dim = 16;
  expect_shape("v [3, 2, 16]", "[3, 2, 8]");
}

TEST_F(RopeWriteKvCalls, MemoryThatIsSharedIsRefused) {
  call.q_out.data = q.bytes.data() + 4;
  expect_shape("q_out shares memory with q", "apart");
  call.q_out.data = k.bytes.data();
  expect_shape("q_out shares memory with", "apart");
  call.k.data = k_cache.bytes.data();
  expect_shape("k_cache shares memory with k", "apart");
}

}  // namespace
