// The vector types against plain scalar code. Compiled with the other tests for the flags that all
// have, and once for each instruction set.

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <random>
#include <set>
#include <type_traits>
#include <vector>

#include "simd_lanes.hpp"

namespace pagedkv::cpu::PAGEDKV_ISA_NAMESPACE::test {
namespace {

template <class V>
class SimdFloats : public testing::Test {
 public:
  using Scalar = typename V::Scalar;

  /// Calls `check` with vectors of operands, among them every pair of edge values.
  template <class Check>
  void for_operands(Check check) {
    std::vector<Scalar> a, b;
    for (const Scalar x : edge_values<Scalar>()) {
      for (const Scalar y : edge_values<Scalar>()) {
        a.push_back(x);
        b.push_back(y);
      }
    }
    for (const Scalar x : many_values<Scalar>(random_, 2000)) a.push_back(x);
    for (const Scalar x : many_values<Scalar>(random_, 2000)) b.push_back(x);
    std::vector<Scalar> c = many_values<Scalar>(random_, static_cast<int>(a.size()));
    std::shuffle(c.begin(), c.end(), random_);
    const std::size_t step = static_cast<std::size_t>(V::width);
    for (std::size_t i = 0; i + step <= a.size(); i += step) {
      check(&a[i], &b[i], &c[i]);
    }
  }

  template <class Vector, class Plain>
  void expect_lanes(Vector vector, Plain plain) {
    for_operands([&](const Scalar* a, const Scalar* b, const Scalar* c) {
      const auto got = lanes<V>(vector(V::load(a), V::load(b), V::load(c)));
      for (std::size_t i = 0; i < got.size(); ++i) {
        const Scalar want = plain(a[i], b[i], c[i]);
        ASSERT_TRUE(same(got[i], want)) << "of " << a[i] << ", " << b[i] << ", " << c[i] << ": "
                                        << got[i] << " instead of " << want;
      }
    });
  }

 protected:
  std::mt19937_64 random_{20250718};
};

using FloatTypes = testing::Types<F32, F64>;
TYPED_TEST_SUITE(SimdFloats, FloatTypes);

TEST(SimdTypes, WidthsFitTogether) {
  EXPECT_EQ(I32::width, F32::width);
  EXPECT_EQ(I16::width, 2 * F32::width);
  EXPECT_EQ(2 * F64::width, F32::width);
  EXPECT_GE(F32::num_registers, 16);
  EXPECT_EQ(F64::num_registers, F32::num_registers);
}

TYPED_TEST(SimdFloats, ZeroAndAllFillEachLane) {
  using T = typename TypeParam::Scalar;
  for (const T x : lanes(TypeParam::zero())) EXPECT_TRUE(same(x, T(0)));
  for (const T x : edge_values<T>()) {
    for (const T lane : lanes(TypeParam::all(x))) EXPECT_TRUE(same(lane, x));
  }
}

TYPED_TEST(SimdFloats, ArithmeticIsThatOfScalars) {
  using V = TypeParam;
  using T = typename V::Scalar;
  this->expect_lanes([](V a, V b, V) { return a + b; }, [](T a, T b, T) { return a + b; });
  this->expect_lanes([](V a, V b, V) { return a - b; }, [](T a, T b, T) { return a - b; });
  this->expect_lanes([](V a, V b, V) { return a * b; }, [](T a, T b, T) { return a * b; });
  this->expect_lanes([](V a, V b, V) { return a / b; }, [](T a, T b, T) { return a / b; });
}

TYPED_TEST(SimdFloats, FmaRoundsOnceOrTwice) {
  using V = TypeParam;
  using T = typename V::Scalar;
  this->for_operands([](const T* a, const T* b, const T* c) {
    const auto got = lanes(fma(V::load(a), V::load(b), V::load(c)));
    for (std::size_t i = 0; i < got.size(); ++i) {
      volatile T product = a[i] * b[i];
      ASSERT_TRUE(same(got[i], std::fma(a[i], b[i], c[i])) || same<T>(got[i], product + c[i]))
          << a[i] << " * " << b[i] << " + " << c[i] << " is not " << got[i];
    }
  });
}

TYPED_TEST(SimdFloats, MaxAndMinGiveTheSecondWhereNeitherIsGreater) {
  using V = TypeParam;
  using T = typename V::Scalar;
  this->expect_lanes([](V a, V b, V) { return max(a, b); },
                     [](T a, T b, T) { return a > b ? a : b; });
  this->expect_lanes([](V a, V b, V) { return min(a, b); },
                     [](T a, T b, T) { return a < b ? a : b; });
}

TYPED_TEST(SimdFloats, AbsClearsTheSign) {
  using V = TypeParam;
  using T = typename V::Scalar;
  this->expect_lanes([](V a, V, V) { return abs(a); }, [](T a, T, T) { return std::fabs(a); });
}

TYPED_TEST(SimdFloats, RoundGoesToTheNearestEven) {
  using V = TypeParam;
  using T = typename V::Scalar;
  this->expect_lanes([](V a, V, V) { return round(a); },
                     [](T a, T, T) { return std::nearbyint(a); });
}

TYPED_TEST(SimdFloats, SelectLessTakesTheOtherWhereOneIsNaN) {
  using V = TypeParam;
  using T = typename V::Scalar;
  this->expect_lanes([](V a, V b, V c) { return select_less(a, b, c, a); },
                     [](T a, T b, T c) { return a < b ? c : a; });
}

TYPED_TEST(SimdFloats, ScaleByPowerOfTwoIsExactForEachExponent) {
  using V = TypeParam;
  using T = typename V::Scalar;
  constexpr int lowest = std::is_same_v<T, float> ? -126 : -1022;
  constexpr int highest = std::is_same_v<T, float> ? 127 : 1023;
  for (int n = lowest; n <= highest; ++n) {
    for (const T x : {T(1), T(-1.25), T(0.75), T(0), std::numeric_limits<T>::infinity()}) {
      for (const T lane : lanes(scale_by_power_of_two(V::all(x), V::all(static_cast<T>(n))))) {
        ASSERT_TRUE(same(lane, std::ldexp(x, n))) << x << " * 2^" << n;
      }
    }
    const V nan = V::all(std::numeric_limits<T>::quiet_NaN());
    ASSERT_TRUE(std::isnan(lanes(scale_by_power_of_two(nan, V::all(static_cast<T>(n))))[0]));
  }
  Scalars<V> exponents;
  for (int i = 0; i < V::width; ++i) exponents[static_cast<std::size_t>(i)] = static_cast<T>(i - 1);
  const auto got = lanes(scale_by_power_of_two(V::all(3), V::load(exponents.data())));
  for (int i = 0; i < V::width; ++i) {
    EXPECT_EQ(got[static_cast<std::size_t>(i)], std::ldexp(T(3), i - 1));
  }
}

TYPED_TEST(SimdFloats, ScaleByNaNKeepsNaN) {
  using V = TypeParam;
  const V nan = V::all(std::numeric_limits<typename V::Scalar>::quiet_NaN());
  for (const auto lane : lanes(scale_by_power_of_two(nan, nan))) EXPECT_TRUE(std::isnan(lane));
}

TYPED_TEST(SimdFloats, SumsPutsTheSumOfEachVectorIntoItsLane) {
  using V = TypeParam;
  using T = typename V::Scalar;
  // Integers, whose sums are exact in any order; and powers of two, each its own bit.
  std::uniform_int_distribution<int> integer(-10000, 10000);
  for (int trial = 0; trial < 100; ++trial) {
    V x[V::width];
    Scalars<V> want{};
    for (std::size_t i = 0; i < want.size(); ++i) {
      Scalars<V> row;
      for (std::size_t j = 0; j < row.size(); ++j) {
        row[j] = trial == 0 ? static_cast<T>((i + 1) << j) : static_cast<T>(integer(this->random_));
        want[i] += row[j];
      }
      x[i] = V::load(row.data());
    }
    ASSERT_EQ(lanes(V::sums(x)), want);
  }
}

std::vector<std::int32_t> edge_integers(std::mt19937_64& random) {
  constexpr std::int32_t most = std::numeric_limits<std::int32_t>::max();
  std::vector<std::int32_t> values{0, 1, -1, 2, most, -most - 1, most - 1, 1 << 24, (1 << 24) + 1};
  for (int i = 0; i < 55; ++i) values.push_back(static_cast<std::int32_t>(random()));
  return values;  // 64
}

std::int32_t wrapped(std::int64_t x) { return static_cast<std::int32_t>(x); }

TEST(SimdIntegers, SumsWrapAround) {
  std::mt19937_64 random(1);
  const auto a = edge_integers(random);
  for (const std::int32_t b : a) {
    for (std::size_t i = 0; i < a.size(); i += I32::width) {
      const auto got = lanes(I32::load(&a[i]) + I32::all(b));
      for (std::size_t j = 0; j < got.size(); ++j) {
        ASSERT_EQ(got[j], wrapped(std::int64_t{a[i + j]} + b));
      }
    }
  }
  for (const std::int32_t x : lanes(I32::zero())) EXPECT_EQ(x, 0);
}

TEST(SimdIntegers, SumsPutsTheSumOfEachVectorIntoItsLane) {
  std::mt19937_64 random(2);
  for (int trial = 0; trial < 100; ++trial) {
    I32 x[I32::width];
    std::array<std::int32_t, I32::width> want{};
    for (std::size_t i = 0; i < want.size(); ++i) {
      const auto row = random_integers<std::int32_t>(random, I32::width);
      for (const std::int32_t lane : row) want[i] = wrapped(std::int64_t{want[i]} + lane);
      x[i] = I32::load(row.data());
    }
    ASSERT_EQ(lanes(I32::sums(x)), want);
  }
}

TEST(SimdIntegers, BecomeFloatsAndBack) {
  std::mt19937_64 random(3);
  const auto integers = edge_integers(random);
  for (std::size_t i = 0; i < integers.size(); i += I32::width) {
    const auto got = lanes<F32>(to_float(I32::load(&integers[i])));
    for (std::size_t j = 0; j < got.size(); ++j) {
      EXPECT_EQ(got[j], static_cast<float>(integers[i + j]));
    }
  }
  for (const float x : {0.0F, -0.0F, 0.5F, 1.5F, 2.5F, -0.5F, -1.5F, -2.5F, 0.49999997F, 16383.5F,
                        -16383.5F, 8388607.5F, 2147483520.0F, -2147483648.0F}) {
    for (const std::int32_t lane : lanes(to_int(F32::all(x)))) {
      EXPECT_EQ(lane, static_cast<std::int32_t>(std::nearbyint(x))) << x;
    }
  }
}

TEST(SimdIntegers, SelectGreaterComparesWithSigns) {
  std::mt19937_64 random(4);
  const auto a = edge_integers(random);
  for (const std::int32_t b : a) {
    for (std::size_t i = 0; i < a.size(); i += I32::width) {
      const F32 nan = F32::all(std::numeric_limits<float>::quiet_NaN());
      const auto yes = lanes<F32>(select_greater(I32::load(&a[i]), I32::all(b), F32::all(1), nan));
      const auto no = lanes<F32>(select_greater(I32::load(&a[i]), I32::all(b), nan, F32::all(2)));
      for (std::size_t j = 0; j < yes.size(); ++j) {
        const bool greater = a[i + j] > b;
        ASSERT_EQ(yes[j] == 1, greater);
        ASSERT_EQ(std::isnan(yes[j]), !greater);
        ASSERT_EQ(no[j] == 2, !greater);
      }
    }
  }
}

TEST(SimdIntegers, DifferencesBitsAndMinimaAreThoseOfScalars) {
  std::mt19937_64 random(9);
  const auto a = edge_integers(random);
  for (const std::int32_t b : a) {
    for (std::size_t i = 0; i < a.size(); i += I32::width) {
      const I32 x = I32::load(&a[i]), y = I32::all(b);
      const auto less = lanes(x - y), both = lanes(x & y), either = lanes(x | y);
      const auto lower = lanes(min(x, y)), greater = lanes(select_greater(x, y, I32::zero(), x));
      for (std::size_t j = 0; j < less.size(); ++j) {
        ASSERT_EQ(less[j], wrapped(std::int64_t{a[i + j]} - b));
        ASSERT_EQ(both[j], a[i + j] & b);
        ASSERT_EQ(either[j], a[i + j] | b);
        ASSERT_EQ(lower[j], std::min(a[i + j], b));
        ASSERT_EQ(greater[j], a[i + j] > b ? 0 : a[i + j]);
      }
    }
  }
}

TEST(SimdIntegers, AreShiftedWithoutTheirSign) {
  for (const std::int32_t x : {-1, 1, 0x40000000, std::numeric_limits<std::int32_t>::min(), -256}) {
    const auto bits = static_cast<std::uint32_t>(x);
    for (const std::int32_t lane : lanes(I32::all(x).shifted_right<1>())) {
      EXPECT_EQ(lane, wrapped(bits >> 1));
    }
    for (const std::int32_t lane : lanes(I32::all(x).shifted_right<31>())) {
      EXPECT_EQ(lane, wrapped(bits >> 31));
    }
  }
}

TEST(SimdIntegers, AreTheBitsOfFloats) {
  for (const float x : edge_values<float>()) {
    const I32 bits = I32::bits_of(F32::all(x));
    for (const std::int32_t lane : lanes(bits)) EXPECT_EQ(lane, std::bit_cast<std::int32_t>(x));
    for (const float lane : lanes<F32>(bits.as_float())) EXPECT_TRUE(same(lane, x));
  }
}

TEST(SimdIntegers, AreStoredNarrowInOrderAndNothingBehind) {
  constexpr std::size_t width = I32::width;
  for (std::int32_t first = 0; first < 65536 - I32::width; first += 257) {
    std::array<std::int32_t, width> words, bytes;
    for (std::size_t i = 0; i < width; ++i) {
      words[i] = first + static_cast<std::int32_t>(i);
      bytes[i] = words[i] % 256;
    }
    std::array<std::uint16_t, width + 1> narrow{};
    std::array<std::uint8_t, width + 1> narrower{};
    I32::load(words.data()).store_u16(narrow.data());
    I32::load(bytes.data()).store_u8(narrower.data());
    for (std::size_t i = 0; i < width; ++i) {
      ASSERT_EQ(narrow[i], words[i]);
      ASSERT_EQ(narrower[i], bytes[i]);
    }
    ASSERT_EQ(narrow[width], 0);
    ASSERT_EQ(narrower[width], 0);
  }
}

TEST(SimdWords, DotPairsAddsTwoProducts) {
  std::mt19937_64 random(5);
  for (int trial = 0; trial < 1000; ++trial) {
    auto a = random_integers<std::int16_t>(random, I16::width);
    auto b = random_integers<std::int16_t>(random, I16::width);
    const auto c = random_integers<std::int32_t>(random, I32::width);
    if (trial < 4) {
      for (std::size_t i = 0; i < a.size(); ++i) {
        a[i] = trial % 2 == 0 ? std::int16_t{-32768} : std::int16_t{32767};
        b[i] = trial < 2 ? std::int16_t{-32768} : std::int16_t{32767};
      }
    }
    const auto got =
        lanes(dot_pairs(I16::load(a.data()), I16::load(b.data()), I32::load(c.data())));
    for (std::size_t i = 0; i < got.size(); ++i) {
      const std::int64_t even = std::int64_t{a[2 * i]} * b[2 * i];
      const std::int64_t odd = std::int64_t{a[2 * i + 1]} * b[2 * i + 1];
      ASSERT_EQ(got[i], wrapped(c[i] + even + odd));
    }
  }
}

TEST(SimdWords, AllPairsRepeatsItsHalves) {
  std::mt19937_64 random(6);
  for (const std::int32_t pair : edge_integers(random)) {
    const auto got = lanes(I16::all_pairs(pair));
    for (std::size_t i = 0; i < got.size(); ++i) {
      ASSERT_EQ(got[i], static_cast<std::int16_t>(i % 2 == 0 ? pair : pair >> 16));
    }
  }
}

TEST(SimdWords, ZipPutsTheSameChannelOfTwoVectorsSideBySide) {
  std::mt19937_64 random(7);
  const auto a = random_integers<std::int16_t>(random, I16::width);
  const auto b = random_integers<std::int16_t>(random, I16::width);
  I16 halves[2];
  I16::zip(I16::load(a.data()), I16::load(b.data()), halves[0], halves[1]);
  std::set<int> channels;
  for (int half = 0; half < 2; ++half) {
    const auto got = lanes(halves[half]);
    for (int i = 0; i < I32::width; ++i) {
      const int channel = I16::zip_channel(half, i);
      channels.insert(channel);
      EXPECT_EQ(got[static_cast<std::size_t>(2 * i)], a[static_cast<std::size_t>(channel)]);
      EXPECT_EQ(got[static_cast<std::size_t>(2 * i + 1)], b[static_cast<std::size_t>(channel)]);
    }
  }
  EXPECT_EQ(channels.size(), static_cast<std::size_t>(I16::width));
  EXPECT_EQ(*channels.begin(), 0);
  EXPECT_EQ(*channels.rbegin(), I16::width - 1);
}

}  // namespace
}  // namespace pagedkv::cpu::PAGEDKV_ISA_NAMESPACE::test
