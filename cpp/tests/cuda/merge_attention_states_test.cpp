// cuda::merge_attention_states by its definition in float64.

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "cpp/tests/cuda/device.hpp"
#include "cpp/tests/operations/ops_caches.hpp"

namespace {

using namespace pagedkv;
using namespace pagedkv_test;

constexpr float kNothing = -std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

class CudaMerge : public OnCuda, public testing::WithParamInterface<std::tuple<DType, int>> {};

TEST_P(CudaMerge, WeighsBothPartsAlsoInPlace) {
  const auto [dtype, dim] = GetParam();
  std::mt19937_64 random(1);
  constexpr std::int64_t n = 5, heads = 2;
  const std::vector<float> a{0, 3, kNothing, 2, kNothing, -70, 1000, kNaN, 1, 5};
  const std::vector<float> b{0, -2, 1, kNothing, kNothing, 70, 1001, 0, kNaN, 5};
  for (const bool in_place : {false, true}) {
    in_each_order([&] {
      TestRows o_a(dtype, n, heads, dim, Values::ordinary, random);
      TestRows o_b(dtype, n, heads, dim, Values::ordinary, random, true);
      TestRows o(dtype, n, heads, dim, Values::ordinary, random);
      // A part that saw nothing may hold anything.
      for (std::int64_t i = 0; i < dim; ++i) {
        set_element(dtype, o_a.view.row(1, 0), i, std::numeric_limits<double>::infinity());
        set_element(dtype, o_b.view.row(1, 1), i, std::numeric_limits<double>::infinity());
      }
      const TestRows a_before = o_a;
      RowsView first = o_a.view;
      first.data = const_cast<std::byte*>(a_before.bytes.data());
      std::vector<float> lse_a = a, lse_b = b, lse(a.size());
      const LseView a_view{lse_a.data(), heads, 1}, b_view{lse_b.data(), heads, 1};
      const LseView lse_view = in_place ? b_view : LseView{lse.data(), heads, 1};
      const RowsView result = in_place ? o_a.view : o.view;
      cuda::merge_attention_states({o_a.view, a_view, o_b.view, b_view, result, lse_view}, stream_);
      for (std::int64_t token = 0; token < n; ++token) {
        for (std::int64_t head = 0; head < heads; ++head) {
          const auto at = static_cast<std::size_t>(token * heads + head);
          const double all =
              std::log(std::exp(double{a[at]} - 1000) + std::exp(double{b[at]} - 1000));
          const bool large = a[at] > 500;
          const double sum =
              large ? all + 1000 : std::log(std::exp(double{a[at]}) + std::exp(double{b[at]}));
          const float got = lse_view.at(token, head);
          if (std::isnan(sum)) {
            EXPECT_TRUE(std::isnan(got));
            continue;
          }
          if (std::isinf(sum)) {
            EXPECT_EQ(got, kNothing);
          } else {
            EXPECT_NEAR(got, sum, std::abs(sum) * 1e-6 + 1e-6);
          }
          for (std::int64_t i = 0; i < dim; ++i) {
            double expected = 0;
            if (a[at] != kNothing)
              expected += std::exp(a[at] - sum) * element(dtype, first.row(token, head), i);
            if (b[at] != kNothing)
              expected += std::exp(b[at] - sum) * element(dtype, o_b.view.row(token, head), i);
            const double step = dtype == DType::float32   ? 1e-5
                                : dtype == DType::float16 ? 1e-3
                                                          : 8e-3;
            EXPECT_NEAR(element(dtype, result.row(token, head), i), expected, 10 * step);
          }
        }
      }
    });
  }
}

INSTANTIATE_TEST_SUITE_P(DTypes, CudaMerge,
                         testing::Combine(testing::Values(DType::float32, DType::float16,
                                                          DType::bfloat16),
                                          testing::Values(64, 8, 13)));

using CudaMergeChecks = OnCuda;

TEST_F(CudaMergeChecks, RefusesFloat64) {
  std::mt19937_64 random(2);
  TestRows a(DType::float64, 1, 1, 8, Values::ordinary, random), b = a;
  b.view.data = b.bytes.data();
  std::vector<float> lse(2);
  EXPECT_THROW(
      cuda::merge_attention_states(
          {a.view, {lse.data(), 1, 1}, b.view, {lse.data() + 1, 1, 1}, a.view, {}}, stream_),
      UnsupportedError);
}

}  // namespace
