// Elements of caches become floats exactly, whatever their bits are. Compiled as simd_test.cpp is.

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "simd_lanes.hpp"

namespace pagedkv::cpu::PAGEDKV_ISA_NAMESPACE::test {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

/// What `bits` are worth, of a format with so many bits of exponent and mantissa. All ones in the
/// exponent are infinity or NaN where the format has an infinity.
float value(unsigned bits, int exponent_bits, int mantissa_bits, bool has_infinity = true) {
  const int exponent = static_cast<int>(bits >> mantissa_bits & ((1U << exponent_bits) - 1));
  const auto mantissa = static_cast<double>(bits & ((1U << mantissa_bits) - 1));
  const int last = (1 << exponent_bits) - 1, bias = last / 2;
  const double one = std::ldexp(1.0, mantissa_bits);
  double x = exponent == 0 ? std::ldexp(mantissa / one, 1 - bias)
                           : std::ldexp(1 + mantissa / one, exponent - bias);
  if (has_infinity && exponent == last) {
    x = mantissa == 0 ? std::numeric_limits<double>::infinity() : kNaN;
  }
  if (!has_infinity && exponent == last && mantissa == one - 1) x = kNaN;
  return static_cast<float>((bits >> (exponent_bits + mantissa_bits) & 1) != 0 ? -x : x);
}

float float16_value_of(unsigned bits) { return value(bits, 5, 10); }

/// The float16 nearest to x, ties to even.
unsigned nearest_float16(float x) {
  const unsigned sign = std::signbit(x) ? 0x8000 : 0;
  const double magnitude = std::fabs(x);
  if (std::isnan(x)) return 0x7e00;
  if (magnitude >= 65520) return sign | 0x7c00;
  if (magnitude == 0) return sign;
  const int exponent = std::max(std::ilogb(magnitude), -14);
  const auto steps = static_cast<unsigned>(std::nearbyint(std::ldexp(magnitude, 10 - exponent)));
  return sign |
         (steps < 1024 ? steps : (static_cast<unsigned>(exponent + 15) << 10) + steps - 1024);
}

/// Every value of an integer type, then as many again as fill a vector.
template <class T>
std::vector<T> every(std::size_t first = 0) {
  std::vector<T> values((std::size_t{1} << 8 * sizeof(T)) + 64);
  std::iota(values.begin(), values.end(), static_cast<T>(first));
  return values;
}

template <class Read, class Want>
void expect_values(std::size_t element_bytes, std::size_t count, const void* data, Read read,
                   Want want) {
  const auto* bytes = static_cast<const std::byte*>(data);
  for (std::size_t i = 0; i + F32::width <= count; i += F32::width) {
    const auto got = lanes<F32>(read(bytes + i * element_bytes));
    for (std::size_t j = 0; j < got.size(); ++j) {
      ASSERT_TRUE(same(got[j], want(i + j)))
          << "element " << i + j << ": " << got[j] << " instead of " << want(i + j);
    }
  }
}

TEST(SimdConversions, EveryFloat16IsExact) {
  const auto all = every<std::uint16_t>();
  expect_values(2, all.size(), all.data(), F32::from_f16,
                [&](std::size_t i) { return float16_value_of(all[i]); });
}

TEST(SimdConversions, EveryBfloat16IsExact) {
  const auto all = every<std::uint16_t>();
  const auto want = [&](std::size_t i) { return value(all[i], 8, 7); };
  expect_values(2, all.size(), all.data(), F32::from_bf16, want);
  constexpr std::size_t step = 2 * F32::width;
  for (std::size_t i = 0; i + step <= all.size(); i += step) {
    F32 even, odd;
    F32::from_bf16_pairs(&all[i], even, odd);
    const auto evens = lanes<F32>(even), odds = lanes<F32>(odd);
    for (std::size_t j = 0; j < evens.size(); ++j) {
      ASSERT_TRUE(same(evens[j], want(i + 2 * j))) << i + 2 * j;
      ASSERT_TRUE(same(odds[j], want(i + 2 * j + 1))) << i + 2 * j + 1;
    }
  }
}

TEST(SimdConversions, EveryFloat8IsExactInEachLane) {
  for (std::size_t first = 0; first < F32::width; ++first) {
    const auto all = every<std::uint8_t>(first);
    expect_values(1, all.size(), all.data(), F32::from_e5m2,
                  [&](std::size_t i) { return value(all[i], 5, 2); });
    expect_values(1, all.size(), all.data(), F32::from_e4m3,
                  [&](std::size_t i) { return value(all[i], 4, 3, false); });
  }
  // As the format is published.
  EXPECT_EQ(value(0x7e, 4, 3, false), 448);
  EXPECT_EQ(value(0x01, 4, 3, false), 0x1p-9F);
  EXPECT_EQ(value(0x7b, 5, 2), 57344);
}

TEST(SimdConversions, EveryInt8IsExactInEachLane) {
  for (std::size_t first = 0; first < I16::width; ++first) {
    const auto all = every<std::uint8_t>(first);
    const auto want = [&](std::size_t i) { return static_cast<std::int8_t>(all[i]); };
    expect_values(1, all.size(), all.data(), F32::from_i8,
                  [&](std::size_t i) { return static_cast<float>(want(i)); });
    for (std::size_t i = 0; i + I16::width <= all.size(); i += I16::width) {
      const auto got = lanes(I16::from_i8(&all[i]));
      for (std::size_t j = 0; j < got.size(); ++j) ASSERT_EQ(got[j], want(i + j));
    }
  }
}

TEST(SimdConversions, EveryByteIsTwoInt4WithTheEvenOneBelow) {
  for (std::size_t first = 0; first < I16::width; ++first) {
    const auto all = every<std::uint8_t>(first);
    const auto low = [&](std::size_t i) {
      return all[i] % 16 < 8 ? all[i] % 16 : all[i] % 16 - 16;
    };
    const auto high = [&](std::size_t i) { return all[i] < 128 ? all[i] / 16 : all[i] / 16 - 16; };
    for (std::size_t i = 0; i + F32::width <= all.size(); i += F32::width) {
      F32 even, odd;
      F32::from_i4_pairs(&all[i], even, odd);
      const auto evens = lanes<F32>(even), odds = lanes<F32>(odd);
      for (std::size_t j = 0; j < evens.size(); ++j) {
        ASSERT_EQ(evens[j], static_cast<float>(low(i + j)));
        ASSERT_EQ(odds[j], static_cast<float>(high(i + j)));
      }
    }
    for (std::size_t i = 0; i + I16::width <= all.size(); i += I16::width) {
      I16 even, odd;
      I16::from_i4_pairs(&all[i], even, odd);
      const auto evens = lanes(even), odds = lanes(odd);
      for (std::size_t j = 0; j < evens.size(); ++j) {
        ASSERT_EQ(evens[j], low(i + j));
        ASSERT_EQ(odds[j], high(i + j));
      }
    }
  }
}

/// Checks to_f16 over `values`.
void expect_float16(std::vector<float> values) {
  while (values.size() % F32::width != 0) values.push_back(0);
  for (std::size_t i = 0; i < values.size(); i += F32::width) {
    std::vector<std::uint16_t> got(F32::width);
    F32::load(&values[i]).to_f16(got.data());
    for (std::size_t j = 0; j < got.size(); ++j) {
      const float x = values[i + j];
      if (std::isnan(x)) {
        ASSERT_TRUE(std::isnan(float16_value_of(got[j])));
      } else {
        ASSERT_EQ(got[j], nearest_float16(x)) << "of " << x;
      }
    }
  }
}

TEST(SimdConversions, ToFloat16GivesBackEachFloat16) {
  std::vector<float> values;
  for (unsigned bits = 0; bits < 0x10000; ++bits) values.push_back(float16_value_of(bits));
  expect_float16(values);
}

TEST(SimdConversions, ToFloat16RoundsTiesToEvenAndTheirNeighboursToTheNearest) {
  constexpr float most = std::numeric_limits<float>::infinity();
  std::vector<float> values;
  for (unsigned bits = 0; bits < 0x7c00; ++bits) {
    // Behind the largest comes what would be the next.
    const float next = bits == 0x7bff ? 65536.0F : float16_value_of(bits + 1);
    const float tie = (float16_value_of(bits) + next) / 2;
    for (const float x : {tie, std::nextafter(tie, 0.0F), std::nextafter(tie, most)}) {
      values.push_back(x);
      values.push_back(-x);
    }
  }
  expect_float16(values);
}

TEST(SimdConversions, ToFloat16TakesAnyFloat) {
  std::mt19937_64 random(8);
  std::vector<float> values = edge_values<float>();
  for (int i = 0; i < 100000; ++i) {
    values.push_back(std::bit_cast<float>(static_cast<std::uint32_t>(random())));
    // Most of the random ones are too large or too small: these are not.
    const auto bits = 0x32000000U + static_cast<std::uint32_t>(random() % 0x16000000U);
    values.push_back(std::bit_cast<float>(bits));
  }
  expect_float16(values);
}

TEST(SimdConversions, ReadNoFurtherThanTheirElementsAndFromAnyAddress) {
  // The end of an allocation is where a sanitizer sees a read behind it.
  const auto at_end = [](std::size_t bytes, auto read) {
    std::vector<std::uint8_t> memory(bytes + 1, 1);
    memory.shrink_to_fit();
    read(memory.data() + 1);
  };
  F32 even, odd;
  I16 even_words, odd_words;
  at_end(F32::width, [](const void* p) { EXPECT_EQ(lanes<F32>(F32::from_i8(p))[0], 1); });
  at_end(F32::width, [](const void* p) { EXPECT_GT(lanes<F32>(F32::from_e4m3(p))[0], 0); });
  at_end(F32::width, [](const void* p) { EXPECT_GT(lanes<F32>(F32::from_e5m2(p))[0], 0); });
  at_end(F32::width, [&](const void* p) { F32::from_i4_pairs(p, even, odd); });
  at_end(I16::width, [](const void* p) { EXPECT_EQ(lanes(I16::from_i8(p))[0], 1); });
  at_end(I16::width, [&](const void* p) { I16::from_i4_pairs(p, even_words, odd_words); });
  EXPECT_EQ(lanes<F32>(even)[0], 1);
  EXPECT_EQ(lanes(even_words)[0], 1);
  const std::vector<std::uint16_t> halves(F32::width, 0x3c00);
  EXPECT_EQ(lanes<F32>(F32::from_f16(halves.data()))[F32::width - 1], 1);
  EXPECT_GT(lanes<F32>(F32::from_bf16(halves.data()))[F32::width - 1], 0);
  std::vector<std::uint16_t> written(F32::width);
  F32::all(1).to_f16(written.data());
  EXPECT_EQ(written, halves);
}

}  // namespace
}  // namespace pagedkv::cpu::PAGEDKV_ISA_NAMESPACE::test
