// rope_write_kv on Metal: norm and rotation by their definitions in float64.

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "cpp/tests/expect_error.hpp"
#include "cpp/tests/metal/test_queue.hpp"
#include "cpp/tests/operations/ops_caches.hpp"
#include "metal/operations.hpp"

namespace {

using namespace pagedkv;
using namespace pagedkv_test;

constexpr std::int64_t kMaxPosition = 50, kTokens = 9, kQueryHeads = 11, kHeads = 2;

struct Case {
  std::int64_t head_dim;
  std::int64_t rotary_dim;
  bool interleaved;
  bool norm;
};

/// The arrays of a call.
struct Problem {
  Problem(const Case& c, DType rows, DType cached)
      : q(rows, kTokens, kQueryHeads, c.head_dim, Values::ordinary, random),
        q_out(cached, kTokens, kQueryHeads, c.head_dim, Values::ordinary, random),
        k(rows, kTokens, kHeads, c.head_dim, Values::ordinary, random),
        v(rows, kTokens, kHeads, 24, Values::ordinary, random),
        q_weight(DType::float32, 1, 1, c.head_dim, Values::ordinary, random),
        k_weight(rows, 1, 1, c.head_dim, Values::ordinary, random),
        k_cache(cached, 8, kHeads, 4, c.head_dim, Layout::hnd, Values::ordinary, random),
        v_cache(cached, 8, kHeads, 4, 24, Layout::nhd, Values::ordinary, random),
        slots(random_slots(32, kTokens, random)),
        angles(static_cast<std::size_t>(kMaxPosition * (c.rotary_dim + 1))) {
    slots[2] = -1;
    for (std::int64_t token = 0; token < kTokens; ++token) {
      positions.push_back(static_cast<std::int64_t>(random() % kMaxPosition));
      positions_int32.push_back(static_cast<std::int32_t>(positions.back()));
    }
    for (std::size_t i = 0; i < angles.size(); ++i) {
      angles[i] = static_cast<float>(std::cos(static_cast<double>(i * i)));
    }
    call.q = q.view;
    call.q_out = q_out.view;
    call.k = k.view;
    call.v = v.view;
    call.k_cache = k_cache.view;
    call.v_cache = v_cache.view;
    call.slot_mapping = slots.data();
    call.positions = positions.data();
    call.cos_sin_cache = angles.data();
    call.cos_sin_stride = c.rotary_dim + 1;
    call.max_position = kMaxPosition;
    call.rotary_dim = c.rotary_dim;
    call.interleaved = c.interleaved;
    if (c.norm) {
      call.q_norm_weight = q_weight.view;
      call.k_norm_weight = k_weight.view;
    }
    call.norm_eps = 1e-5;
  }

  /// A row normed and rotated.
  [[nodiscard]] std::vector<double> applied(const std::byte* row, DType dtype, std::int64_t token,
                                            const RowsView& weight) const {
    std::vector<double> x;
    double squares = 0;
    for (std::int64_t i = 0; i < call.k.head_dim; ++i) x.push_back(element(dtype, row, i));
    for (const double y : x) squares += y * y;
    const double root = std::sqrt(squares / static_cast<double>(x.size()) + call.norm_eps);
    for (std::size_t i = 0; i < x.size() && weight.data != nullptr; ++i) {
      x[i] *= element(weight.dtype, weight.data, static_cast<std::int64_t>(i)) / root;
    }
    const float* angle =
        angles.data() + positions[static_cast<std::size_t>(token)] * call.cos_sin_stride;
    const auto half = static_cast<std::size_t>(call.rotary_dim / 2);
    for (std::size_t i = 0; i < half; ++i) {
      const auto cosine = static_cast<double>(angle[i]),
                 sine = static_cast<double>(angle[half + i]);
      double& a = call.interleaved ? x[2 * i] : x[i];
      double& b = call.interleaved ? x[2 * i + 1] : x[half + i];
      const double turned = a * cosine - b * sine;
      b = b * cosine + a * sine;
      a = turned;
    }
    return x;
  }

  std::mt19937_64 random{1};
  TestRows q, q_out, k, v, q_weight, k_weight;
  TestCache k_cache, v_cache;
  std::vector<std::int64_t> slots, positions;
  std::vector<std::int32_t> positions_int32;
  std::vector<float> angles;
  RopeWriteKvCall call;
};

/// But for arithmetic in float32 and one rounding.
void expect_near(const std::vector<double>& expected, DType dtype, const std::byte* row) {
  double largest = 0;
  for (const double x : expected) largest = std::max(largest, std::abs(x));
  const double step = std::ldexp(1, -format_of(dtype).mantissa_bits - 1);
  for (std::size_t i = 0; i < expected.size(); ++i) {
    ASSERT_NEAR(element(dtype, row, static_cast<std::int64_t>(i)), expected[i],
                2e-6 * largest + 1.001 * step * std::abs(expected[i]) + 1e-7)
        << "element " << i;
  }
}

class MetalRope : public testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(Cases, MetalRope,
                         testing::Values(Case{64, 64, false, true}, Case{64, 64, true, false},
                                         Case{80, 32, false, true}, Case{10, 6, true, true},
                                         Case{128, 0, false, true}, Case{512, 512, false, false}),
                         [](const auto& c) {
                           return "dim_" + std::to_string(c.param.head_dim) + "_rotary_" +
                                  std::to_string(c.param.rotary_dim) +
                                  (c.param.interleaved ? "_interleaved" : "") +
                                  (c.param.norm ? "_norm" : "");
                         });

TEST_P(MetalRope, RotatesQueriesAndKeysAndWritesKeysAndValues) {
  for (const DType rows : {DType::float32, DType::float16, DType::bfloat16}) {
    for (const DType cached : {DType::float32, DType::float16, DType::bfloat16}) {
      Problem p(GetParam(), rows, cached);
      TestQueue queue;
      metal::rope_write_kv(p.call, queue);
      metal::check(queue, "test");
      for (std::int64_t token = 0; token < kTokens; ++token) {
        for (std::int64_t head = 0; head < kQueryHeads; ++head) {
          expect_near(p.applied(p.q.view.row(token, head), rows, token, p.call.q_norm_weight),
                      cached, p.q_out.view.row(token, head));
        }
        const std::int64_t slot = p.slots[static_cast<std::size_t>(token)];
        for (std::int64_t head = 0; slot >= 0 && head < kHeads; ++head) {
          expect_near(p.applied(p.k.view.row(token, head), rows, token, p.call.k_norm_weight),
                      cached, p.k_cache.row(slot, head));
          for (std::int64_t i = 0; i < 24; ++i) {
            EXPECT_EQ(element(cached, p.v_cache.row(slot, head), i),
                      rounded(cached, element(rows, p.v.view.row(token, head), i)));
          }
        }
      }
    }
  }
}

TEST_P(MetalRope, QueriesMayBecomeThemselvesAndPositionsMayBeInt32) {
  Problem apart(GetParam(), DType::float16, DType::float16);
  Problem in_place(GetParam(), DType::float16, DType::float16);
  in_place.call.q_out = in_place.call.q;
  in_place.call.positions = nullptr;
  in_place.call.positions_int32 = in_place.positions_int32.data();
  TestQueue queue;
  metal::rope_write_kv(apart.call, queue);
  metal::rope_write_kv(in_place.call, queue);
  for (std::int64_t token = 0; token < kTokens; ++token) {
    for (std::int64_t head = 0; head < kQueryHeads; ++head) {
      EXPECT_EQ(std::memcmp(apart.q_out.view.row(token, head), in_place.q.view.row(token, head),
                            apart.q.view.row_bytes()),
                0);
    }
  }
  EXPECT_EQ(apart.k_cache.bytes, in_place.k_cache.bytes);
}

TEST(MetalRope, AnOutOfRangePositionOrSlotIsLeftOutAndTold) {
  for (const bool position : {false, true}) {
    Problem p({16, 16, false, false}, DType::float32, DType::float32);
    if (position) {
      std::ranges::fill(p.positions, kMaxPosition);
      p.positions[1] = -1;
      std::ranges::fill(p.slots, -1);
    } else {
      std::ranges::fill(p.slots, 32);
      p.slots[1] = -2;
    }
    TestQueue queue;
    metal::rope_write_kv(p.call, queue);
    expect_error<InvalidSlotError>([&] { metal::check(queue, "test"); }, "test", "position",
                                   "arrays");
    EXPECT_TRUE(p.k_cache.unchanged());
    EXPECT_TRUE(p.v_cache.unchanged());
  }
}

}  // namespace
