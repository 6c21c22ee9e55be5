#pragma once

// Vectors as arrays, and values to try them with. Included by tests that are compiled for each
// instruction set.

#include <array>
#include <bit>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "pagedkv/cpu/simd/vectors.hpp"

namespace pagedkv::cpu::PAGEDKV_ISA_NAMESPACE::test {

template <class V>
using Scalars = std::array<typename V::Scalar, static_cast<std::size_t>(V::width)>;

template <class V>
Scalars<V> lanes(V x) {
  Scalars<V> y;
  x.store(y.data());
  return y;
}

inline auto lanes(I32 x) {
  std::array<std::int32_t, I32::width> y;
  x.store(y.data());
  return y;
}

inline auto lanes(I16 x) { return std::bit_cast<std::array<std::int16_t, I16::width>>(x); }

/// Equal bit for bit, or both NaN.
template <std::floating_point T>
bool same(T a, T b) {
  return (std::isnan(a) && std::isnan(b)) || (a == b && std::signbit(a) == std::signbit(b));
}

/// Zeros, ties, integers that are the last with a fraction, subnormals, infinities, NaN.
template <class T>
std::vector<T> edge_values() {
  using Limits = std::numeric_limits<T>;
  const T last = std::ldexp(T(1), Limits::digits - 1);
  std::vector<T> values{T(0),
                        T(0.5),
                        T(1),
                        T(1.5),
                        T(2.5),
                        T(3.25),
                        T(0.49999997),
                        Limits::min(),
                        Limits::denorm_min(),
                        Limits::min() / 2,
                        Limits::epsilon(),
                        Limits::max(),
                        Limits::max() / 2,
                        last,
                        last - T(0.5),
                        last - T(1.5),
                        last / 2 + T(0.5),
                        last * 2 + 2,
                        Limits::infinity(),
                        Limits::quiet_NaN()};
  for (std::size_t i = 0, n = values.size(); i < n; ++i) values.push_back(-values[i]);
  return values;
}

/// The edge values and random ones of all magnitudes.
template <class T>
std::vector<T> many_values(std::mt19937_64& random, int count) {
  std::vector<T> values = edge_values<T>();
  std::uniform_real_distribution<double> mantissa(-1, 1), exponent(-40, 40);
  for (int i = 0; i < count; ++i) {
    values.push_back(
        static_cast<T>(std::ldexp(mantissa(random), static_cast<int>(exponent(random)))));
  }
  return values;
}

/// `count` bytes at the end of what was allocated, so that a read behind them is found.
template <class T>
std::vector<T> random_integers(std::mt19937_64& random, std::size_t count) {
  std::vector<T> values(count);
  for (T& x : values) x = static_cast<T>(random());
  values.shrink_to_fit();
  return values;
}

}  // namespace pagedkv::cpu::PAGEDKV_ISA_NAMESPACE::test
