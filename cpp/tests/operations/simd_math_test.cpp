// exp and tanh of vectors against the standard library's, of more precision. Compiled as
// simd_test.cpp is.

#include <gtest/gtest.h>

#include <limits>
#include <random>
#include <type_traits>
#include <vector>

#include "pagedkv/cpu/kernels/math.hpp"
#include "simd_lanes.hpp"

namespace pagedkv::cpu::PAGEDKV_ISA_NAMESPACE::test {
namespace {

template <class V>
class SimdMath : public testing::Test {
 public:
  using Scalar = typename V::Scalar;
  /// More precise where there is such a type.
  using Wide = std::conditional_t<std::is_same_v<Scalar, float>, double, long double>;
  static constexpr Scalar highest = std::is_same_v<Scalar, float> ? Scalar(88) : Scalar(709);
  static constexpr Scalar lowest = std::is_same_v<Scalar, float> ? Scalar(-87.3) : Scalar(-708.3);
  static constexpr Scalar infinity = std::numeric_limits<Scalar>::infinity();
  static constexpr Scalar nan = std::numeric_limits<Scalar>::quiet_NaN();

  static Scalar exp_of(Scalar x) { return lanes(exp(V::all(x)))[0]; }
  static Scalar tanh_of(Scalar x) { return lanes(tanh(V::all(x)))[0]; }

  /// The largest error of `vector` over `xs`, in units in the last place of the result.
  template <class Vector, class Plain>
  static double worst(std::vector<Scalar> xs, Vector vector, Plain plain) {
    while (xs.size() % static_cast<std::size_t>(V::width) != 0) xs.push_back(Scalar(1));
    double worst = 0;
    for (std::size_t i = 0; i < xs.size(); i += static_cast<std::size_t>(V::width)) {
      const auto got = lanes<V>(vector(V::load(&xs[i])));
      for (std::size_t j = 0; j < got.size(); ++j) {
        const Wide want = plain(static_cast<Wide>(xs[i + j]));
        const Scalar near = std::fabs(static_cast<Scalar>(want));
        const Scalar unit = std::nextafter(near, infinity) - near;
        const auto error = static_cast<double>(std::fabs((got[j] - want) / unit));
        if (!(error <= worst)) worst = error;
      }
    }
    return worst;
  }

  static std::vector<Scalar> uniform(double from, double to, int count) {
    std::mt19937_64 random(11);
    std::uniform_real_distribution<Scalar> distribution(static_cast<Scalar>(from),
                                                        static_cast<Scalar>(to));
    std::vector<Scalar> xs;
    for (int i = 0; i < count; ++i) xs.push_back(distribution(random));
    return xs;
  }
};

using MathTypes = testing::Types<F32, F64>;
TYPED_TEST_SUITE(SimdMath, MathTypes);

TYPED_TEST(SimdMath, ExpIsWithinTwoUnits) {
  using V = TypeParam;
  const auto of = [](auto xs) {
    return TestFixture::worst(xs, [](V x) { return exp(x); }, [](auto x) { return std::exp(x); });
  };
  EXPECT_LE(of(TestFixture::uniform(TestFixture::lowest, TestFixture::highest, 40000)), 2);
  EXPECT_LE(of(TestFixture::uniform(-20, 8, 40000)), 2);
  EXPECT_LE(of(TestFixture::uniform(-0.01, 0.01, 10000)), 2);
}

TYPED_TEST(SimdMath, ExpOfWhatLeavesNoNormalNumberIsZero) {
  using T = typename TypeParam::Scalar;
  for (const T x : {-TestFixture::infinity, T(-1000), std::numeric_limits<T>::lowest(),
                    std::nextafter(TestFixture::lowest, T(-1000))}) {
    EXPECT_TRUE(same(TestFixture::exp_of(x), T(0))) << x;
  }
  EXPECT_GE(TestFixture::exp_of(TestFixture::lowest), std::numeric_limits<T>::min());
}

TYPED_TEST(SimdMath, ExpOfZeroIsOneAndOfNaNIsNaN) {
  using T = typename TypeParam::Scalar;
  EXPECT_EQ(TestFixture::exp_of(T(0)), T(1));
  EXPECT_EQ(TestFixture::exp_of(T(-0.0)), T(1));
  EXPECT_EQ(TestFixture::exp_of(std::numeric_limits<T>::denorm_min()), T(1));
  EXPECT_TRUE(std::isnan(TestFixture::exp_of(TestFixture::nan)));
}

TYPED_TEST(SimdMath, LanesOfExpAreIndependent) {
  using V = TypeParam;
  Scalars<V> x;
  x.fill(TestFixture::nan);
  x[0] = -TestFixture::infinity;
  x[1] = 1;
  const auto got = lanes(exp(V::load(x.data())));
  EXPECT_EQ(got[0], 0);
  EXPECT_EQ(got[1], TestFixture::exp_of(1));
  for (std::size_t i = 2; i < got.size(); ++i) EXPECT_TRUE(std::isnan(got[i]));
}

TYPED_TEST(SimdMath, TanhIsWithinFiveUnits) {
  using V = TypeParam;
  const auto of = [](auto xs) {
    return TestFixture::worst(xs, [](V x) { return tanh(x); }, [](auto x) { return std::tanh(x); });
  };
  EXPECT_LE(of(TestFixture::uniform(-12, 12, 40000)), 5);
  EXPECT_LE(of(TestFixture::uniform(-1, 1, 40000)), 5);
  // Where the series ends, the difference 1 - e^(-2|x|) has lost most.
  EXPECT_LE(of(TestFixture::uniform(0.09, 0.4, 40000)), 5);
  EXPECT_LE(of(TestFixture::uniform(-0.01, 0.01, 10000)), 5);
}

TYPED_TEST(SimdMath, TanhOfLargeIsOneAndOfNaNIsNaN) {
  using T = typename TypeParam::Scalar;
  for (const T x : {T(30), T(1000), std::numeric_limits<T>::max(), TestFixture::infinity}) {
    EXPECT_EQ(TestFixture::tanh_of(x), T(1));
    EXPECT_EQ(TestFixture::tanh_of(-x), T(-1));
  }
  EXPECT_EQ(TestFixture::tanh_of(T(0)), T(0));
  EXPECT_TRUE(std::isnan(TestFixture::tanh_of(TestFixture::nan)));
}

}  // namespace
}  // namespace pagedkv::cpu::PAGEDKV_ISA_NAMESPACE::test
