#pragma once

// Rows of elements as vectors of floats, and back.

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "pagedkv/core/dtype.hpp"
#include "pagedkv/cpu/simd/vectors.hpp"

namespace pagedkv::inline v0_1::cpu::PAGEDKV_ISA_NAMESPACE {

/// Reads elements of one dtype, `chunk` at a time, into `vectors` vectors. Two elements that share
/// 32 bits are parted without moving them between lanes, so that the channels of a chunk may come
/// in another order: vector v, lane i holds channel `channel(v, i)`.
template <DType dtype>
struct Elements {
  static constexpr bool in_pairs = dtype == DType::bfloat16 || dtype == DType::int4;
  using Vector = F32;
  static constexpr int vectors = in_pairs ? 2 : 1;
  static constexpr int chunk = vectors * F32::width;

  static void load(const std::byte* p, F32 (&x)[vectors]) noexcept {
    if constexpr (dtype == DType::float32) {
      x[0] = F32::load(reinterpret_cast<const float*>(p));
    } else if constexpr (dtype == DType::float16) {
      x[0] = F32::from_f16(p);
    } else if constexpr (dtype == DType::bfloat16) {
      F32::from_bf16_pairs(p, x[0], x[1]);
    } else if constexpr (dtype == DType::float8_e4m3) {
      x[0] = F32::from_e4m3(p);
    } else if constexpr (dtype == DType::float8_e5m2) {
      x[0] = F32::from_e5m2(p);
    } else if constexpr (dtype == DType::int8) {
      x[0] = F32::from_i8(p);
    } else {
      static_assert(dtype == DType::int4);
      F32::from_i4_pairs(p, x[0], x[1]);
    }
  }
  static constexpr int channel(int vector, int lane) noexcept {
    return in_pairs ? 2 * lane + vector : lane;
  }
};

template <>
struct Elements<DType::float64> {
  using Vector = F64;
  static constexpr int vectors = 1;
  static constexpr int chunk = F64::width;
  static void load(const std::byte* p, F64 (&x)[1]) noexcept {
    x[0] = F64::load(reinterpret_cast<const double*>(p));
  }
  static constexpr int channel(int, int lane) noexcept { return lane; }
};

/// Bytes of `count` elements.
[[nodiscard]] constexpr std::int64_t bytes_of_elements(DType dtype, std::int64_t count) noexcept {
  return count * static_cast<std::int64_t>(dtype_bits(dtype)) / 8;
}

/// One row as floats, in order.
template <DType dtype, class T>
inline void read_row(const std::byte* from, T* to, std::int64_t size) noexcept {
  if constexpr (dtype == DType::int4) {
    // Two a byte come out of order from `Elements`; in order, the compiler's own vectors do better.
    for (std::int64_t i = 0; i < size / 2; ++i) {
      const auto x = static_cast<std::int32_t>(from[i]);
      to[2 * i] = static_cast<T>(((x & 15) ^ 8) - 8);
      to[2 * i + 1] = static_cast<T>((x >> 4 ^ 8) - 8);
    }
  } else {
    using V = typename Elements<dtype>::Vector;
    constexpr std::int64_t bytes = bytes_of_elements(dtype, V::width);
    const auto load = [](const std::byte* p) {
      if constexpr (dtype == DType::bfloat16) {
        return V::from_bf16(p);
      } else {
        V x[1];
        Elements<dtype>::load(p, x);
        return x[0];
      }
    };
    const auto put = [&](const std::byte* p, T* out, std::int64_t count) {
      typename V::Scalar part[V::width];
      load(p).store(part);
      for (std::int64_t j = 0; j < count; ++j) out[j] = static_cast<T>(part[j]);
    };
    std::int64_t i = 0;
    for (; i + V::width <= size; i += V::width, from += bytes) {
      if constexpr (std::is_same_v<T, typename V::Scalar>) {
        load(from).store(to + i);
      } else {
        put(from, to + i, V::width);
      }
    }
    if (i < size) {
      std::byte padded[bytes] = {};
      std::memcpy(padded, from, static_cast<std::size_t>(bytes_of_elements(dtype, size - i)));
      put(padded, to + i, size - i);
    }
  }
}

/// The same for a dtype known at run time: those of queries.
template <class T>
inline void read_query(DType dtype, const std::byte* from, T* to, std::int64_t size) noexcept {
  switch (dtype) {
    case DType::float64: return read_row<DType::float64>(from, to, size);
    case DType::float16: return read_row<DType::float16>(from, to, size);
    case DType::bfloat16: return read_row<DType::bfloat16>(from, to, size);
    default: return read_row<DType::float32>(from, to, size);
  }
}

/// Rounded to nearest, ties to even; NaN stays NaN.
[[nodiscard]] inline std::uint16_t to_bfloat16(float x) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  if ((bits & 0x7fffffffU) > 0x7f800000U) return static_cast<std::uint16_t>(bits >> 16 | 0x40U);
  return static_cast<std::uint16_t>((bits + 0x7fffU + (bits >> 16 & 1U)) >> 16);
}

/// Writes a row of results.
template <class T>
inline void write_result(DType dtype, std::byte* to, const T* from, std::int64_t size) noexcept {
  if (dtype == DType::float64) {
    for (std::int64_t i = 0; i < size; ++i) {
      const auto x = static_cast<double>(from[i]);
      std::memcpy(to + i * 8, &x, 8);
    }
  } else if (dtype == DType::bfloat16) {
    for (std::int64_t i = 0; i < size; ++i) {
      const std::uint16_t x = to_bfloat16(static_cast<float>(from[i]));
      std::memcpy(to + i * 2, &x, 2);
    }
  } else if (dtype == DType::float16) {
    float part[F32::width];
    std::uint16_t half[F32::width];
    for (std::int64_t i = 0; i < size; i += F32::width) {
      const int n = static_cast<int>(size - i < F32::width ? size - i : F32::width);
      for (int j = 0; j < n; ++j) part[j] = static_cast<float>(from[i + j]);
      for (int j = n; j < F32::width; ++j) part[j] = 0;
      F32::load(part).to_f16(half);
      std::memcpy(to + i * 2, half, static_cast<std::size_t>(n) * 2);
    }
  } else {
    for (std::int64_t i = 0; i < size; ++i) {
      const auto x = static_cast<float>(from[i]);
      std::memcpy(to + i * 4, &x, 4);
    }
  }
}

}  // namespace pagedkv::inline v0_1::cpu::PAGEDKV_ISA_NAMESPACE
