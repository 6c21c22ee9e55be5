// merge_attention_states: two parts become what one attention over both gives.

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "../expect_error.hpp"
#include "ops_caches.hpp"
#include "ops_kernels.hpp"
#include "pagedkv/cpu/merge_attention_states.hpp"

namespace {

using namespace pagedkv;
using namespace pagedkv::cpu;
using namespace pagedkv_test;

constexpr float kNothing = -std::numeric_limits<float>::infinity();

/// The arguments of a call, with memory of their own.
struct States {
  States(DType dtype, std::int64_t n, std::int64_t num_heads, std::int64_t dim,
         std::mt19937_64& random)
      : heads(num_heads),
        a(dtype, n, heads, dim, Values::ordinary, random),
        b(dtype, n, heads, dim, Values::ordinary, random, true),
        o(dtype, n, heads, dim, Values::any_bits, random),
        lse_a(static_cast<std::size_t>(n * heads)),
        lse_b(lse_a),
        lse(lse_a) {
    for (float& x : lse_a) x = static_cast<float>(random() % 2000) / 100 - 10;
    for (float& x : lse_b) x = static_cast<float>(random() % 2000) / 100 - 10;
  }
  [[nodiscard]] MergeStatesCall call() {
    const std::int64_t n = a.view.num_tokens;
    // The second one is [num_heads, num_tokens].
    return {a.view, {lse_a.data(), heads, 1}, b.view, {lse_b.data(), 1, n},
            o.view, {lse.data(), heads, 1}};
  }
  [[nodiscard]] float& second(std::int64_t token, std::int64_t head) {
    return lse_b[static_cast<std::size_t>(head * a.view.num_tokens + token)];
  }
  [[nodiscard]] float& first(std::int64_t token, std::int64_t head) {
    return lse_a[static_cast<std::size_t>(token * heads + head)];
  }
  [[nodiscard]] double at(const TestRows& rows, std::int64_t token, std::int64_t head,
                          std::int64_t i) const {
    return element(rows.view.dtype, rows.view.row(token, head), i);
  }

  std::int64_t heads;
  TestRows a, b, o;
  std::vector<float> lse_a, lse_b, lse;
};

class MergeStates : public testing::TestWithParam<DType> {
 protected:
  static double tolerance() {
    switch (GetParam()) {
      case DType::float64: return 1e-14;
      case DType::float32: return 2e-7;
      case DType::float16: return 5e-4;
      default: return 4e-3;
    }
  }
};

TEST_P(MergeStates, WeighsBothPartsByTheirSums) {
  std::mt19937_64 random(1);
  for (const std::int64_t dim : {64, 80, 128, 40}) {
    States states(GetParam(), 700, 3, dim, random);
    ThreadPool executor(3);
    merge_attention_states(states.call(), executor, test_kernels());
    for (std::int64_t token = 0; token < 700; ++token) {
      for (std::int64_t head = 0; head < 3; ++head) {
        const double a = std::exp(static_cast<double>(states.first(token, head)));
        const double b = std::exp(static_cast<double>(states.second(token, head)));
        const float lse = states.lse[static_cast<std::size_t>(token * 3 + head)];
        ASSERT_NEAR(lse, std::log(a + b), 1e-6 + 1e-7 * std::abs(lse));
        for (std::int64_t i = 0; i < dim; ++i) {
          const double x = states.at(states.a, token, head, i);
          const double y = states.at(states.b, token, head, i);
          const double expected = (a * x + b * y) / (a + b);
          ASSERT_NEAR(states.at(states.o, token, head, i), expected,
                      tolerance() * (std::abs(x) + std::abs(y)));
        }
      }
    }
  }
}

TEST_P(MergeStates, APartThatSawNothingIsNotRead) {
  std::mt19937_64 random(2);
  States states(GetParam(), 3, 1, 40, random);
  for (std::int64_t i = 0; i < 40; ++i) {
    set_element(GetParam(), states.a.view.row(0, 0), i, NAN);
    set_element(GetParam(), states.b.view.row(1, 0), i, NAN);
    set_element(GetParam(), states.a.view.row(2, 0), i, INFINITY);
    set_element(GetParam(), states.b.view.row(2, 0), i, NAN);
  }
  states.first(0, 0) = states.second(1, 0) = states.first(2, 0) = states.second(2, 0) = kNothing;
  SerialExecutor executor;
  merge_attention_states(states.call(), executor, test_kernels());
  for (std::int64_t i = 0; i < 40; ++i) {
    EXPECT_EQ(states.at(states.o, 0, 0, i), states.at(states.b, 0, 0, i));
    EXPECT_EQ(states.at(states.o, 1, 0, i), states.at(states.a, 1, 0, i));
    EXPECT_EQ(states.at(states.o, 2, 0, i), 0);
  }
  EXPECT_EQ(states.lse[0], states.second(0, 0));
  EXPECT_EQ(states.lse[1], states.first(1, 0));
  EXPECT_EQ(states.lse[2], kNothing);
}

TEST_P(MergeStates, FarSumsNeitherOverflowNorVanish) {
  std::mt19937_64 random(3);
  States states(GetParam(), 2, 1, 8, random);
  states.first(0, 0) = 3e38F;
  states.second(0, 0) = -3e38F;
  states.first(1, 0) = states.second(1, 0) = -3e38F;
  SerialExecutor executor;
  merge_attention_states(states.call(), executor, test_kernels());
  EXPECT_EQ(states.lse[0], 3e38F);
  EXPECT_EQ(states.lse[1], -3e38F);
  for (std::int64_t i = 0; i < 8; ++i) {
    const double x = states.at(states.a, 1, 0, i), y = states.at(states.b, 1, 0, i);
    EXPECT_EQ(states.at(states.o, 0, 0, i), states.at(states.a, 0, 0, i));
    EXPECT_NEAR(states.at(states.o, 1, 0, i), (x + y) / 2,
                tolerance() * (std::abs(x) + std::abs(y)));
  }
}

TEST_P(MergeStates, TheResultMayTakeThePlaceOfAPart) {
  std::mt19937_64 random(4);
  for (const bool second : {false, true}) {
    States apart(GetParam(), 5, 2, 40, random);
    States same(apart);
    same.a.view.data = same.a.bytes.data();
    same.b.view.data = same.b.bytes.data();
    SerialExecutor executor;
    merge_attention_states(apart.call(), executor, test_kernels());
    MergeStatesCall call = same.call();
    call.o = second ? call.o_b : call.o_a;
    call.lse = second ? call.lse_b : call.lse_a;
    merge_attention_states(call, executor, test_kernels());
    for (std::int64_t token = 0; token < 5; ++token) {
      for (std::int64_t head = 0; head < 2; ++head) {
        EXPECT_EQ(second ? same.second(token, head) : same.first(token, head),
                  apart.lse[static_cast<std::size_t>(token * 2 + head)]);
        for (std::int64_t i = 0; i < 40; ++i) {
          EXPECT_EQ(same.at(second ? same.b : same.a, token, head, i),
                    apart.at(apart.o, token, head, i));
        }
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(DTypes, MergeStates, testing::ValuesIn(kPlainFloats),
                         [](const auto& i) { return std::string(dtype_name(i.param)); });

TEST(MergeStatesCalls, NaNIsNotHidden) {
  std::mt19937_64 random(5);
  for (const bool second : {false, true}) {
    States states(DType::float32, 1, 1, 8, random);
    (second ? states.second(0, 0) : states.first(0, 0)) = NAN;
    SerialExecutor executor;
    merge_attention_states(states.call(), executor, test_kernels());
    EXPECT_TRUE(std::isnan(states.lse[0]));
    EXPECT_TRUE(std::isnan(states.at(states.o, 0, 0, 0)));
  }
}

TEST(MergeStatesCalls, WhatDoesNotGoTogetherIsRefused) {
  std::mt19937_64 random(6);
  States states(DType::float32, 3, 2, 8, random);
  const auto before = states.o.bytes;
  SerialExecutor executor;
  const auto expect = [&](const MergeStatesCall& call, std::string_view given,
                          std::string_view expected) {
    expect_error<ShapeError>([&] { merge_attention_states(call, executor, test_kernels()); },
                             "cpu.merge_attention_states", given, expected);
    EXPECT_EQ(states.o.bytes, before);
  };
  MergeStatesCall call = states.call();
  call.o_b.head_dim = 7;
  expect(call, "a part [3, 2, 7] of float32 for a result [3, 2, 8] of float32", "the same");
  call = states.call();
  call.o_a.dtype = DType::float16;
  expect(call, "a part [3, 2, 8] of float16", "the same");
  call = states.call();
  call.o.dtype = call.o_a.dtype = call.o_b.dtype = DType::int8;
  expect(call, "results of int8", "float64, float32");
  call = states.call();
  call.lse_b.data = nullptr;
  expect(call, "a part without its LSE", "one a token and head");
  call = states.call();
  call.o_a.data = nullptr;
  expect(call, "results without data", "data");
  call = states.call();
  call.o.data = call.o_a.data + 4;
  expect(call, "o shares memory with o_a", "apart");
  call = states.call();
  call.lse.data = call.lse_a.data + 1;
  expect(call, "lse shares memory with lse_a", "apart");
}

TEST(MergeStatesCalls, TheLseMayBeUnwanted) {
  std::mt19937_64 random(7);
  States states(DType::float32, 3, 2, 8, random);
  MergeStatesCall call = states.call();
  call.lse = {};
  SerialExecutor executor;
  merge_attention_states(call, executor, test_kernels());
  const auto without = states.o.bytes;
  merge_attention_states(states.call(), executor, test_kernels());
  EXPECT_EQ(states.o.bytes, without);
}

}  // namespace
