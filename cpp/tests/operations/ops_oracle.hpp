#pragma once

// Elements of every dtype by their definitions, one at a time, in float64: what the operations are
// tested against. Nothing here is shared with them.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "pagedkv/core/dtype.hpp"
#include "pagedkv/ops/views.hpp"

namespace pagedkv_test {

using pagedkv::DType;

inline constexpr DType kPlainFloats[] = {DType::float64, DType::float32, DType::float16,
                                         DType::bfloat16};
inline constexpr DType kQuantized[] = {DType::float8_e4m3, DType::float8_e5m2, DType::int8,
                                       DType::int4};
inline constexpr DType kCacheDTypes[] = {DType::float64,  DType::float32,     DType::float16,
                                         DType::bfloat16, DType::float8_e4m3, DType::float8_e5m2,
                                         DType::int8,     DType::int4};

/// A binary floating point format.
struct FloatFormat {
  int exponent_bits;
  int mantissa_bits;
  bool has_infinity;
  [[nodiscard]] int bias() const { return (1 << (exponent_bits - 1)) - 1; }
  /// Exponent of the smallest normal value.
  [[nodiscard]] int least() const { return 1 - bias(); }
};

inline FloatFormat format_of(DType dtype) {
  switch (dtype) {
    case DType::float32: return {8, 23, true};
    case DType::float16: return {5, 10, true};
    case DType::bfloat16: return {8, 7, true};
    case DType::float8_e4m3: return {4, 3, false};
    case DType::float8_e5m2: return {5, 2, true};
    default: return {11, 52, true};
  }
}

inline bool is_integer(DType dtype) { return dtype == DType::int8 || dtype == DType::int4; }

/// The value of the bits of an element.
inline double value_of_bits(DType dtype, std::uint64_t bits) {
  if (dtype == DType::int8) return static_cast<std::int8_t>(bits);
  if (dtype == DType::int4) return static_cast<double>(bits) - ((bits & 8) != 0 ? 16 : 0);
  if (dtype == DType::float64) {
    double x;
    std::memcpy(&x, &bits, 8);
    return x;
  }
  if (dtype == DType::float32) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
  }
  const FloatFormat f = format_of(dtype);
  const std::uint64_t mantissa = bits & ((std::uint64_t{1} << f.mantissa_bits) - 1);
  const auto exponent =
      static_cast<int>(bits >> f.mantissa_bits & ((std::uint64_t{1} << f.exponent_bits) - 1));
  const bool negative = (bits >> (f.mantissa_bits + f.exponent_bits) & 1) != 0;
  const int top = (1 << f.exponent_bits) - 1;
  double magnitude = 0;
  if (f.has_infinity && exponent == top) {
    magnitude = mantissa == 0 ? std::numeric_limits<double>::infinity()
                              : std::numeric_limits<double>::quiet_NaN();
  } else if (!f.has_infinity && exponent == top &&
             mantissa == (std::uint64_t{1} << f.mantissa_bits) - 1) {
    magnitude = std::numeric_limits<double>::quiet_NaN();
  } else if (exponent == 0) {
    magnitude = std::ldexp(static_cast<double>(mantissa), f.least() - f.mantissa_bits);
  } else {
    magnitude = std::ldexp(1 + std::ldexp(static_cast<double>(mantissa), -f.mantissa_bits),
                           exponent - f.bias());
  }
  return negative ? -magnitude : magnitude;
}

/// The values of a dtype of at most 16 bits, by their bits.
inline const std::vector<double>& values_of(DType dtype) {
  static std::vector<double> tables[16];
  std::vector<double>& table = tables[static_cast<std::size_t>(dtype)];
  for (std::uint64_t bits = table.size(); bits < std::uint64_t{1} << pagedkv::dtype_bits(dtype);
       ++bits) {
    table.push_back(value_of_bits(dtype, bits));
  }
  return table;
}

/// Element `i` of a row.
inline double element(DType dtype, const std::byte* row, std::int64_t i) {
  if (dtype == DType::int4) {
    return value_of_bits(dtype, std::to_integer<std::uint64_t>(row[i / 2]) >> (i % 2 * 4) & 15);
  }
  const std::size_t size = pagedkv::dtype_bits(dtype) / 8;
  std::uint64_t bits = 0;
  std::memcpy(&bits, row + i * static_cast<std::int64_t>(size), size);
  return size > 2 ? value_of_bits(dtype, bits) : values_of(dtype)[bits];
}

/// Largest finite value.
inline double largest_value(DType dtype) {
  if (dtype == DType::int8) return 127;
  if (dtype == DType::int4) return 7;
  if (dtype == DType::float8_e4m3) return 448;
  const FloatFormat f = format_of(dtype);
  return std::ldexp(2 - std::ldexp(1, -f.mantissa_bits), f.bias());
}

/// The value of `dtype` that is nearest to x, ties to even.
inline double rounded(DType dtype, double x) {
  if (is_integer(dtype)) {
    if (std::isnan(x)) return 0;
    return std::clamp(std::nearbyint(x), -largest_value(dtype) - 1, largest_value(dtype));
  }
  if (dtype == DType::float64 || std::isnan(x) || x == 0) return x;
  const bool saturates = dtype == DType::float8_e4m3 || dtype == DType::float8_e5m2;
  double magnitude = std::abs(x);
  if (!std::isinf(x)) {
    const FloatFormat f = format_of(dtype);
    const int exponent = std::max(std::ilogb(magnitude), f.least());
    const double step = std::ldexp(1, exponent - f.mantissa_bits);
    magnitude = std::nearbyint(magnitude / step) * step;
  }
  if (magnitude > largest_value(dtype)) {
    magnitude = saturates ? largest_value(dtype) : std::numeric_limits<double>::infinity();
  }
  return std::copysign(magnitude, x);
}

/// What a write makes of x: division in float32, in float64 where one side is that.
inline double quantized(DType from, DType to, double x, float scale) {
  if (from == DType::float64 || to == DType::float64) return rounded(to, x / scale);
  return rounded(to, static_cast<float>(x) / scale);
}

/// What a read makes of x.
inline double dequantized(DType from, DType to, double x, float scale) {
  if (from == DType::float64 || to == DType::float64) return rounded(to, x * scale);
  return rounded(to, static_cast<float>(x) * scale);
}

/// The same number, zeros told apart by their signs unless of integers; any two NaN.
inline bool same_value(DType dtype, double a, double b) {
  if (std::isnan(a) || std::isnan(b)) return std::isnan(a) && std::isnan(b);
  return a == b && (is_integer(dtype) || std::signbit(a) == std::signbit(b));
}

enum class Values {
  any_bits,  ///< NaN, infinities, subnormals too
  ordinary,  ///< magnitudes up to about 10
};

/// `count` elements.
inline std::vector<std::byte> random_elements(DType dtype, std::int64_t count, Values values,
                                              std::mt19937_64& random) {
  std::vector<std::byte> bytes(static_cast<std::size_t>(count) * pagedkv::dtype_bits(dtype) / 8);
  for (std::size_t i = 0; i < bytes.size(); i += 8) {
    const std::uint64_t bits = random();
    std::memcpy(bytes.data() + i, &bits, std::min<std::size_t>(8, bytes.size() - i));
  }
  if (values == Values::any_bits || is_integer(dtype)) return bytes;
  const std::size_t size = pagedkv::dtype_bits(dtype) / 8;
  const FloatFormat f = format_of(dtype);
  for (std::size_t i = 0; i < bytes.size(); i += size) {
    std::uint64_t bits = 0;
    std::memcpy(&bits, bytes.data() + i, size);
    const std::uint64_t exponents = (std::uint64_t{1} << f.exponent_bits) - 1;
    const auto exponent = static_cast<std::uint64_t>(f.bias() + 2 - static_cast<int>(random() % 6));
    bits = (bits & ~(exponents << f.mantissa_bits)) | exponent << f.mantissa_bits;
    std::memcpy(bytes.data() + i, &bits, size);
  }
  return bytes;
}

/// Writes x, which `dtype` has, into element `i` of a row of a plain float.
inline void set_element(DType dtype, std::byte* row, std::int64_t i, double x) {
  const FloatFormat f = format_of(dtype);
  std::uint64_t bits = 0;
  if (dtype == DType::float64) {
    std::memcpy(&bits, &x, 8);
  } else {
    const auto as_float = static_cast<float>(x);
    std::uint32_t low = 0;
    std::memcpy(&low, &as_float, 4);
    bits = dtype == DType::float32 ? low : dtype == DType::bfloat16 ? low >> 16 : 0;
    if (dtype == DType::float16) {
      const auto& values = values_of(dtype);
      const auto found =
          std::ranges::find_if(values, [&](double value) { return same_value(dtype, value, x); });
      bits = static_cast<std::uint64_t>(found - values.begin());
    }
  }
  const auto size = static_cast<std::size_t>(1 + f.exponent_bits + f.mantissa_bits) / 8;
  std::memcpy(row + i * static_cast<std::int64_t>(size), &bits, size);
}

}  // namespace pagedkv_test
