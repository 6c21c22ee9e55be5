#pragma once

// Rows of plain floats into the dtypes of a cache, and back. The loops hold no branches, and the
// compiler makes vectors of them.

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "pagedkv/cpu/kernels/rows.hpp"
#include "pagedkv/cpu/row_kernels.hpp"

namespace pagedkv::inline v0_1::cpu::PAGEDKV_ISA_NAMESPACE {

/// Elements that are converted at a time: their floats stay in the first cache.
inline constexpr std::int64_t kPartSize = 64;

/// Floats where both sides are narrower than doubles.
template <DType from, DType to>
using Between = std::conditional_t<from == DType::float64 || to == DType::float64, double, float>;

/// A double as a float whose last bit tells that something was cut off, so that rounding the float
/// once more, to fewer bits, gives what rounding the double would.
[[nodiscard]] inline float to_odd_float(double x) noexcept {
  const auto nearest = static_cast<float>(x);
  const auto bits = std::bit_cast<std::uint32_t>(nearest);
  const double back = nearest;
  const bool larger = x < 0 ? back < x : back > x;
  const std::uint32_t odd = larger ? bits - 1 : bits + 1;
  const bool exact = back == x || x != x || (bits & 1U) != 0;
  return std::bit_cast<float>(exact ? bits : odd);
}

/// Magnitude and sign as float8 with `mantissa` bits of mantissa; `least` is the exponent of its
/// smallest normal value.
template <int mantissa, int least>
[[nodiscard]] inline std::uint32_t to_float8(float x, float largest) noexcept {
  const auto all = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t sign = all >> 24 & 0x80U;
  const std::uint32_t magnitude = all & 0x7fffffffU;
  const std::uint32_t most = std::bit_cast<std::uint32_t>(largest);
  const std::uint32_t bits = magnitude < most ? magnitude : most;
  constexpr int shift = 23 - mantissa;
  constexpr std::uint32_t half = (1U << (shift - 1)) - 1;
  constexpr std::uint32_t bias = static_cast<std::uint32_t>(126 + least) << mantissa;
  const std::uint32_t normal = ((bits + half + (bits >> shift & 1U)) >> shift) - bias;
  // Added to this, a subnormal value is rounded by the processor at its last bit.
  constexpr std::uint32_t unit = static_cast<std::uint32_t>(127 + least - mantissa + 23) << 23;
  const std::uint32_t subnormal =
      std::bit_cast<std::uint32_t>(std::bit_cast<float>(bits) + std::bit_cast<float>(unit)) - unit;
  constexpr std::uint32_t first_normal = static_cast<std::uint32_t>(127 + least) << 23;
  const std::uint32_t value = bits < first_normal ? subnormal : normal;
  return sign | (magnitude > 0x7f800000U ? 0x7fU : value);
}

/// To nearest, ties to even, within [lowest, highest]; NaN is 0.
[[nodiscard]] inline std::int32_t to_integer(float x, float lowest, float highest) noexcept {
  const float number = x == x ? x : 0.0F;
  const float raised = number > lowest ? number : lowest;
  const float bounded = raised < highest ? raised : highest;
  constexpr float unit = 12582912.0F;  // 1.5 * 2^23: the last bit of the sum is worth 1
  return std::bit_cast<std::int32_t>(bounded + unit) - std::bit_cast<std::int32_t>(unit);
}

/// Writes `size` floats as elements of `dtype`.
template <DType dtype>
inline void write_floats(const float* from, std::byte* to, std::int64_t size) noexcept {
  if constexpr (dtype == DType::float32) {
    std::memcpy(to, from, static_cast<std::size_t>(size) * 4);
  } else if constexpr (dtype == DType::bfloat16) {
    for (std::int64_t i = 0; i < size; ++i) {
      const auto bits = std::bit_cast<std::uint32_t>(from[i]);
      const std::uint32_t rounded = (bits + 0x7fffU + (bits >> 16 & 1U)) >> 16;
      const bool nan = (bits & 0x7fffffffU) > 0x7f800000U;
      const auto x = static_cast<std::uint16_t>(nan ? bits >> 16 | 0x40U : rounded);
      std::memcpy(to + i * 2, &x, 2);
    }
  } else if constexpr (dtype == DType::float16) {
    std::int64_t i = 0;
    for (; i + F32::width <= size; i += F32::width) F32::load(from + i).to_f16(to + i * 2);
    if (i < size) write_result(dtype, to + i * 2, from + i, size - i);
  } else if constexpr (dtype == DType::int4) {
    for (std::int64_t i = 0; i < size / 2; ++i) {
      const std::int32_t low = to_integer(from[2 * i], -8, 7);
      const std::int32_t high = to_integer(from[2 * i + 1], -8, 7);
      to[i] = static_cast<std::byte>((low & 15) | (high & 15) << 4);
    }
  } else {
    for (std::int64_t i = 0; i < size; ++i) {
      if constexpr (dtype == DType::float8_e4m3) {
        to[i] = static_cast<std::byte>(to_float8<3, -6>(from[i], 448));
      } else if constexpr (dtype == DType::float8_e5m2) {
        to[i] = static_cast<std::byte>(to_float8<2, -14>(from[i], 57344));
      } else {
        static_assert(dtype == DType::int8);
        to[i] = static_cast<std::byte>(to_integer(from[i], -128, 127) & 255);
      }
    }
  }
}

/// At most `kPartSize` doubles.
template <DType dtype>
inline void write_floats(const double* from, std::byte* to, std::int64_t size) noexcept {
  if constexpr (dtype == DType::float64) {
    std::memcpy(to, from, static_cast<std::size_t>(size) * 8);
  } else {
    float narrow[kPartSize];
    for (std::int64_t i = 0; i < size; ++i) {
      narrow[i] = dtype == DType::float32 ? static_cast<float>(from[i]) : to_odd_float(from[i]);
    }
    write_floats<dtype>(narrow, to, size);
  }
}

/// Calls `work(part, done, count)` with parts of the row as floats.
template <DType dtype, class T, class Work>
inline void in_parts(const std::byte* from, std::int64_t size, Work&& work) noexcept {
  T part[kPartSize];
  for (std::int64_t done = 0; done < size; done += kPartSize) {
    const std::int64_t count = size - done < kPartSize ? size - done : kPartSize;
    read_row<dtype>(from + bytes_of_elements(dtype, done), part, count);
    work(part, done, count);
  }
}

template <DType source, DType target>
inline void quantize_row(const std::byte* from, std::byte* to, std::int64_t size,
                         float scale) noexcept {
  using T = Between<source, target>;
  in_parts<source, T>(from, size, [&](T* part, std::int64_t done, std::int64_t count) {
    if (scale != 1) {
      const T by = scale;
      for (std::int64_t i = 0; i < count; ++i) part[i] /= by;
    }
    write_floats<target>(part, to + bytes_of_elements(target, done), count);
  });
}

template <DType source, DType target>
inline void dequantize_row(const std::byte* from, std::byte* to, std::int64_t size,
                           float scale) noexcept {
  using T = Between<source, target>;
  in_parts<source, T>(from, size, [&](T* part, std::int64_t done, std::int64_t count) {
    if (scale != 1) {
      const T by = scale;
      for (std::int64_t i = 0; i < count; ++i) part[i] *= by;
    }
    write_floats<target>(part, to + bytes_of_elements(target, done), count);
  });
}

/// `f.template operator()<dtype>()` for a plain float.
template <class F>
inline auto with_plain_float(DType dtype, F&& f) noexcept {
  switch (dtype) {
    case DType::float64: return f.template operator()<DType::float64>();
    case DType::float16: return f.template operator()<DType::float16>();
    case DType::bfloat16: return f.template operator()<DType::bfloat16>();
    default: return f.template operator()<DType::float32>();
  }
}

/// `f.template operator()<dtype>()` for any dtype of a cache.
template <class F>
inline auto with_any_dtype(DType dtype, F&& f) noexcept {
  switch (dtype) {
    case DType::float8_e4m3: return f.template operator()<DType::float8_e4m3>();
    case DType::float8_e5m2: return f.template operator()<DType::float8_e5m2>();
    case DType::int8: return f.template operator()<DType::int8>();
    case DType::int4: return f.template operator()<DType::int4>();
    default: return with_plain_float(dtype, f);
  }
}

inline ConvertRow quantize(DType from, DType to) noexcept {
  return with_plain_float(from, [to]<DType source>() {
    return with_any_dtype(
        to, []<DType target>() -> ConvertRow { return &quantize_row<source, target>; });
  });
}

inline ConvertRow dequantize(DType from, DType to) noexcept {
  return with_any_dtype(from, [to]<DType source>() {
    return with_plain_float(
        to, []<DType target>() -> ConvertRow { return &dequantize_row<source, target>; });
  });
}

inline double largest(DType dtype, const std::byte* row, std::int64_t size) noexcept {
  return with_plain_float(dtype, [&]<DType source>() -> double {
    using T = Between<source, DType::float32>;
    T found[16] = {};  // side by side, as a sum over one would be in order
    in_parts<source, T>(row, size, [&](const T* part, std::int64_t, std::int64_t count) {
      std::int64_t i = 0;
      for (; i + 16 <= count; i += 16) {
        for (int j = 0; j < 16; ++j) {
          const T x = part[i + j] < 0 ? -part[i + j] : part[i + j];
          found[j] = x > found[j] ? x : found[j];
        }
      }
      for (; i < count; ++i) {
        const T x = part[i] < 0 ? -part[i] : part[i];
        found[0] = x > found[0] ? x : found[0];
      }
    });
    constexpr T most = std::numeric_limits<float>::max();
    T result = 0;
    for (const T x : found) result = x > result ? x : result;
    return result < most ? result : most;
  });
}

}  // namespace pagedkv::inline v0_1::cpu::PAGEDKV_ISA_NAMESPACE
