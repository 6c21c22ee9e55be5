// cuda::rope_write_kv: norm and rotation by their definitions in float64, then a write.

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "cpp/tests/cuda/device.hpp"
#include "cpp/tests/operations/ops_caches.hpp"

namespace {

using namespace pagedkv;
using namespace pagedkv_test;

constexpr std::int64_t kMaxPosition = 50;

struct Case {
  std::int64_t head_dim, rotary_dim;
  bool interleaved, norm, dense;
};

/// `[kMaxPosition, rotary_dim]` with `room` more behind each row.
std::vector<float> angles_of(std::int64_t rotary_dim, std::int64_t room) {
  std::vector<float> angles(static_cast<std::size_t>(kMaxPosition * (rotary_dim + room)), -1);
  for (std::int64_t position = 0; position < kMaxPosition; ++position) {
    for (std::int64_t i = 0; i < rotary_dim / 2; ++i) {
      const double angle =
          static_cast<double>(position) *
          std::pow(100.0, -2.0 * static_cast<double>(i) / static_cast<double>(rotary_dim));
      float* row = angles.data() + position * (rotary_dim + room);
      row[i] = static_cast<float>(std::cos(angle));
      row[i + rotary_dim / 2] = static_cast<float>(std::sin(angle));
    }
  }
  return angles;
}

/// A row normed and rotated.
std::vector<double> applied(const Case& c, const RowsView& rows, std::int64_t token,
                            std::int64_t head, const float* cos_sin, const RowsView& weight,
                            double eps) {
  std::vector<double> x;
  for (std::int64_t i = 0; i < c.head_dim; ++i)
    x.push_back(element(rows.dtype, rows.row(token, head), i));
  if (weight.data != nullptr) {
    double squares = 0;
    for (const double y : x) squares += y * y;
    const double root = std::sqrt(squares / static_cast<double>(c.head_dim) + eps);
    for (std::size_t i = 0; i < x.size(); ++i) {
      x[i] = x[i] / root * element(weight.dtype, weight.data, static_cast<std::int64_t>(i));
    }
  }
  const auto half = static_cast<std::size_t>(c.rotary_dim / 2);
  for (std::size_t i = 0; i < half; ++i) {
    double& a = c.interleaved ? x[2 * i] : x[i];
    double& b = c.interleaved ? x[2 * i + 1] : x[half + i];
    const double cosine = cos_sin[i], sine = cos_sin[half + i], turned = a * cosine - b * sine;
    b = b * cosine + a * sine;
    a = turned;
  }
  return x;
}

/// The elements times `scale` are `row`, but for float32 arithmetic and one rounding.
void expect_near(DType dtype, const std::byte* elements, float scale,
                 const std::vector<double>& row) {
  double largest = 0;
  for (const double x : row) largest = std::max(largest, std::abs(x));
  for (std::size_t i = 0; i < row.size(); ++i) {
    const double got = element(dtype, elements, static_cast<std::int64_t>(i)) * scale;
    double step = 1;
    if (!is_integer(dtype)) {
      const FloatFormat f = format_of(dtype);
      const double magnitude = std::max(std::abs(row[i]) / scale, std::ldexp(1, f.least()));
      step = std::ldexp(1, std::ilogb(magnitude) - f.mantissa_bits);
    }
    ASSERT_LE(std::abs(got - row[i]), largest * 1e-6 + step * scale * 0.5001)
        << dtype_name(dtype) << " element " << i << " of scale " << scale;
  }
}

class CudaRopeWriteKv : public OnCuda, public testing::WithParamInterface<Case> {};

TEST_P(CudaRopeWriteKv, RotatesQueriesAndKeysAndWritesKeysAndValues) {
  const Case c = GetParam();
  std::mt19937_64 random(1);
  constexpr std::int64_t n = 7, q_heads = 6, heads = 2, block_size = 8, num_blocks = 2, v_dim = 24;
  const std::int64_t room = c.dense ? 0 : 3;
  const std::vector<float> angles = angles_of(c.rotary_dim, room);
  for (const DType from : {DType::float32, DType::float16, DType::bfloat16}) {
    for (const DType to : {DType::float32, DType::bfloat16, DType::float8_e4m3, DType::int8}) {
      in_each_order([&] {
        TestRows q(from, n, q_heads, c.head_dim, Values::ordinary, random, c.dense);
        const TestRows q_before = q;
        TestRows k(from, n, heads, c.head_dim, Values::ordinary, random, c.dense);
        TestRows v(from, n, heads, v_dim, Values::ordinary, random, c.dense);
        TestRows weights(DType::bfloat16, 1, 2, c.head_dim, Values::ordinary, random, true);
        TestCache k_cache(to, num_blocks, heads, block_size, c.head_dim, Layout::hnd,
                          Values::any_bits, random);
        TestCache v_cache(to, num_blocks, heads, block_size, v_dim, Layout::hnd, Values::any_bits,
                          random);
        auto slots = random_slots(num_blocks * block_size, n, random);
        slots[4] = kNoSlot;
        std::vector<std::int32_t> positions;
        for (std::int64_t i = 0; i < n; ++i)
          positions.push_back(static_cast<std::int32_t>(random() % kMaxPosition));
        std::vector<float> by_slot(num_blocks * heads * block_size, -1);
        RopeWriteKvCall call;
        call.q = call.q_out = q.view;
        call.k = k.view;
        call.v = v.view;
        call.k_cache = k_cache.view;
        call.v_cache = v_cache.view;
        if (to == DType::int8) {
          call.k_scale = {by_slot.data(), 1, heads * block_size, block_size, 1};
          call.v_scale = {nullptr, 0.5F, 0, 0, 0};
        }
        call.slot_mapping = slots.data();
        call.positions_int32 = positions.data();
        call.cos_sin_cache = angles.data();
        call.cos_sin_stride = c.rotary_dim + room;
        call.max_position = kMaxPosition;
        call.rotary_dim = c.rotary_dim;
        call.interleaved = c.interleaved;
        if (c.norm) {
          call.q_norm_weight = call.k_norm_weight = weights.view;
          call.q_norm_weight.num_heads = call.k_norm_weight.num_heads = 1;
          call.k_norm_weight.data = weights.view.row(0, 1);
        }
        call.norm_eps = 0.01;
        cuda::rope_write_kv(call, stream_);
        RowsView before = q.view;
        for (std::int64_t token = 0; token < n; ++token) {
          const float* cos_sin =
              angles.data() + positions[static_cast<std::size_t>(token)] * call.cos_sin_stride;
          before.data = const_cast<std::byte*>(q_before.bytes.data());
          for (std::int64_t head = 0; head < q_heads; ++head) {
            expect_near(
                from, q.view.row(token, head), 1,
                applied(c, before, token, head, cos_sin, call.q_norm_weight, call.norm_eps));
          }
          const std::int64_t slot = slots[static_cast<std::size_t>(token)];
          if (slot < 0) continue;
          for (std::int64_t head = 0; head < heads; ++head) {
            const auto at = [&](const ScaleView& s) {
              return s.at(slot / block_size, head, slot % block_size);
            };
            expect_near(
                to, k_cache.row(slot, head), at(call.k_scale),
                applied(c, k.view, token, head, cos_sin, call.k_norm_weight, call.norm_eps));
            for (std::int64_t i = 0; i < v_dim; ++i) {
              const double x = element(from, v.view.row(token, head), i);
              const double expected = from == to ? x : quantized(from, to, x, at(call.v_scale));
              ASSERT_TRUE(same_value(to, element(to, v_cache.row(slot, head), i), expected));
            }
          }
        }
      });
      if (HasFatalFailure()) return;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Cases, CudaRopeWriteKv,
    testing::Values(Case{64, 64, false, true, true}, Case{128, 64, true, false, true},
                    Case{80, 32, false, false, true}, Case{512, 256, false, true, true},
                    Case{24, 20, false, true, false}, Case{300, 6, true, true, false},
                    Case{64, 0, false, true, true}));

using CudaRope = OnCuda;

TEST_F(CudaRope, PositionsAndSlotsOutOfRangeAreReportedAndNotFollowed) {
  std::mt19937_64 random(2);
  const auto angles = angles_of(16, 0);
  TestRows q(DType::float32, 3, 2, 16, Values::ordinary, random);
  TestRows k(DType::float32, 3, 2, 16, Values::ordinary, random);
  TestRows out(DType::float32, 3, 2, 16, Values::ordinary, random);
  const auto out_before = out.bytes;
  TestCache k_cache(DType::float32, 1, 2, 8, 16, Layout::hnd, Values::any_bits, random);
  TestCache v_cache(DType::float32, 1, 2, 8, 16, Layout::hnd, Values::any_bits, random);
  const std::vector<std::int64_t> bad{-1, kMaxPosition, std::int64_t{1} << 50}, good{0, 1, 2};
  const std::vector<std::int64_t> slots{0, 1, 2}, outside{8, -5, 100};
  RopeWriteKvCall call;
  call.q = q.view;
  call.q_out = out.view;
  call.k = call.v = k.view;
  call.k_cache = k_cache.view;
  call.v_cache = v_cache.view;
  call.slot_mapping = slots.data();
  call.positions = bad.data();
  call.cos_sin_cache = angles.data();
  call.cos_sin_stride = call.rotary_dim = 16;
  call.max_position = kMaxPosition;
  cuda::rope_write_kv(call, stream_);
  EXPECT_EQ(out.bytes, out_before);
  EXPECT_TRUE(k_cache.unchanged());
  expect_mistake<InvalidSlotError>("position");
  v_cache.before = v_cache.bytes;
  call.positions = good.data();
  call.slot_mapping = outside.data();
  cuda::rope_write_kv(call, stream_);
  EXPECT_NE(out.bytes, out_before);
  EXPECT_TRUE(k_cache.unchanged() && v_cache.unchanged());
  expect_mistake<InvalidSlotError>("slot");
}

}  // namespace
