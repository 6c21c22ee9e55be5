#pragma once

// exp and tanh of vectors, to the precision of their elements.

#include <limits>
#include <type_traits>

#include "pagedkv/cpu/simd/vectors.hpp"

namespace pagedkv::inline v0_1::cpu::PAGEDKV_ISA_NAMESPACE {

/// e^x for x <= 88 (709 for doubles); exactly 0 where the result would be subnormal, so also for
/// -inf. By x = n ln 2 + r, |r| <= ln 2 / 2, and a polynomial in r: at most 2 units in the last
/// place.
template <class V>
[[nodiscard]] inline V exp(V x) noexcept {
  using T = typename V::Scalar;
  constexpr bool single = std::is_same_v<T, float>;
  constexpr T lowest = single ? T(-87.3) : T(-708.3);
  // In this order NaN stays NaN.
  const V bounded = max(V::all(lowest), x);
  const V n = round(bounded * V::all(T(1.4426950408889634074)));
  V result;
  if constexpr (single) {
    V r = fma(n, V::all(-0.693359375F), bounded);
    r = fma(n, V::all(2.12194440e-4F), r);
    V p = V::all(1.9875691500e-4F);
    p = fma(p, r, V::all(1.3981999507e-3F));
    p = fma(p, r, V::all(8.3334519073e-3F));
    p = fma(p, r, V::all(4.1665795894e-2F));
    p = fma(p, r, V::all(1.6666665459e-1F));
    p = fma(p, r, V::all(5.0000001201e-1F));
    result = fma(p, r * r, r + V::all(1.0F));
  } else {
    V r = fma(n, V::all(T(-0.693145751953125)), bounded);
    r = fma(n, V::all(T(-1.42860682030941723212e-6)), r);
    // Taylor's series: the first term left out is below 5e-18.
    V p = V::all(T(1) / T(6227020800.0));
    for (const double factorial : {479001600.0, 39916800.0, 3628800.0, 362880.0, 40320.0, 5040.0,
                                   720.0, 120.0, 24.0, 6.0, 2.0, 1.0, 1.0}) {
      p = fma(p, r, V::all(T(1) / T(factorial)));
    }
    result = p;
  }
  return select_less(x, V::all(lowest), V::zero(), scale_by_power_of_two(result, n));
}

/// tanh x.
template <class V>
[[nodiscard]] inline V tanh(V x) noexcept {
  using T = typename V::Scalar;
  // Near 0 the difference 1 - e^(-2|x|) loses digits: a series there.
  const V a = abs(x);
  const V e = exp(a * V::all(T(-2)));
  const V far = (V::all(T(1)) - e) / (V::all(T(1)) + e);
  const V square = a * a;
  V p = V::all(T(-929569.0 / 638512875.0));
  for (const double c : {21844.0 / 6081075.0, -1382.0 / 155925.0, 62.0 / 2835.0, -17.0 / 315.0,
                         2.0 / 15.0, -1.0 / 3.0, 1.0}) {
    p = fma(p, square, V::all(T(c)));
  }
  const T limit = std::is_same_v<T, float> ? T(0.3) : T(0.1);
  const V magnitude = select_less(a, V::all(limit), p * a, far);
  return select_less(x, V::zero(), V::zero() - magnitude, magnitude);
}

}  // namespace pagedkv::inline v0_1::cpu::PAGEDKV_ISA_NAMESPACE
