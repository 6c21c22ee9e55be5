#pragma once

// Elements of any dtype as floats. A dtype is the same for all threads of a launch, so that a
// branch on it costs next to nothing, and one kernel serves them all.

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "pagedkv/core/dtype.hpp"

namespace pagedkv::cuda {

/// Elements that a thread loads and stores at a time where addresses allow it: 16 bytes of a 16-bit
/// dtype.
inline constexpr int kWide = 8;

/// An unsigned integer, or several, of so many bytes.
template <int bytes>
struct Word;
template <>
struct Word<1> {
  using Type = std::uint8_t;
};
template <>
struct Word<2> {
  using Type = std::uint16_t;
};
template <>
struct Word<4> {
  using Type = std::uint32_t;
};
template <>
struct Word<8> {
  using Type = uint2;
};
template <>
struct Word<16> {
  using Type = uint4;
};

/// `count` integers T from memory, in as few loads as there can be; the address is a multiple of
/// all their bytes, at most 16.
template <class T, int count>
__device__ __forceinline__ void load_bits(const std::byte* from, T (&to)[count]) {
  constexpr int bytes = sizeof(T) * count;
  constexpr int step = bytes < 16 ? bytes : 16;
  using Vector = typename Word<step>::Type;
#pragma unroll
  for (int i = 0; i < bytes / step; ++i) {
    const Vector word = reinterpret_cast<const Vector*>(from)[i];
    std::memcpy(reinterpret_cast<std::byte*>(to) + i * step, &word, step);
  }
}
template <class T, int count>
__device__ __forceinline__ void store_bits(std::byte* to, const T (&from)[count]) {
  constexpr int bytes = sizeof(T) * count;
  constexpr int step = bytes < 16 ? bytes : 16;
  using Vector = typename Word<step>::Type;
#pragma unroll
  for (int i = 0; i < bytes / step; ++i) {
    Vector word;
    std::memcpy(&word, reinterpret_cast<const std::byte*>(from) + i * step, step);
    reinterpret_cast<Vector*>(to)[i] = word;
  }
}

/// Elements [first, first + count) of a row as floats. Not of float64 and int4.
template <int count>
__device__ __forceinline__ void load_floats(DType dtype, const std::byte* row, std::int64_t first,
                                            float (&x)[count]) {
  switch (dtype) {
    case DType::float32: load_bits(row + first * 4, x); return;
    case DType::float16: {
      std::uint16_t bits[count];
      load_bits(row + first * 2, bits);
#pragma unroll
      for (int i = 0; i < count; ++i) x[i] = __half2float(__ushort_as_half(bits[i]));
      return;
    }
    case DType::bfloat16: {
      std::uint16_t bits[count];
      load_bits(row + first * 2, bits);
#pragma unroll
      for (int i = 0; i < count; ++i) x[i] = __uint_as_float(static_cast<unsigned>(bits[i]) << 16);
      return;
    }
    case DType::int8: {
      std::int8_t bits[count];
      load_bits(row + first, bits);
#pragma unroll
      for (int i = 0; i < count; ++i) x[i] = static_cast<float>(bits[i]);
      return;
    }
    default: {
      const auto kind = dtype == DType::float8_e4m3 ? __NV_E4M3 : __NV_E5M2;
      std::uint8_t bits[count];
      load_bits(row + first, bits);
#pragma unroll
      for (int i = 0; i < count; ++i)
        x[i] = __half2float(__half(__nv_cvt_fp8_to_halfraw(bits[i], kind)));
      return;
    }
  }
}

/// To nearest, ties to even; beyond the range, infinity too, the largest value; NaN is 0.
__device__ __forceinline__ std::int8_t to_int8(float x) {
  // The comparisons are false for NaN.
  const float inside = x > -128.0F ? (x < 127.0F ? x : 127.0F) : (x <= -128.0F ? -128.0F : 0.0F);
  return static_cast<std::int8_t>(__float2int_rn(inside));
}

/// Floats as elements of a row from `first` on: rounded to nearest, ties to even. Beyond the range
/// of float8 and int8 is the largest value; NaN stays NaN, and is 0 in int8.
template <int count>
__device__ __forceinline__ void store_floats(DType dtype, std::byte* row, std::int64_t first,
                                             const float (&x)[count]) {
  switch (dtype) {
    case DType::float32: store_bits(row + first * 4, x); return;
    case DType::float16: {
      std::uint16_t bits[count];
#pragma unroll
      for (int i = 0; i < count; ++i) bits[i] = __half_as_ushort(__float2half_rn(x[i]));
      store_bits(row + first * 2, bits);
      return;
    }
    case DType::bfloat16: {
      std::uint16_t bits[count];
#pragma unroll
      for (int i = 0; i < count; ++i) bits[i] = __bfloat16_as_ushort(__float2bfloat16_rn(x[i]));
      store_bits(row + first * 2, bits);
      return;
    }
    case DType::int8: {
      std::int8_t bits[count];
#pragma unroll
      for (int i = 0; i < count; ++i) bits[i] = to_int8(x[i]);
      store_bits(row + first, bits);
      return;
    }
    default: {
      const auto kind = dtype == DType::float8_e4m3 ? __NV_E4M3 : __NV_E5M2;
      std::uint8_t bits[count];
#pragma unroll
      for (int i = 0; i < count; ++i) bits[i] = __nv_cvt_float_to_fp8(x[i], __NV_SATFINITE, kind);
      store_bits(row + first, bits);
      return;
    }
  }
}

/// Elements [first, first + count) of one row become those of another, bit for bit.
template <int count>
__device__ __forceinline__ void copy_elements(DType dtype, const std::byte* from, std::byte* to,
                                              std::int64_t first) {
  const auto copy = [&]<class T>(T(&bits)[count]) {
    constexpr auto bytes = static_cast<std::int64_t>(sizeof(T));
    load_bits(from + first * bytes, bits);
    store_bits(to + first * bytes, bits);
  };
  if (dtype == DType::float32) {
    std::uint32_t bits[count];
    copy(bits);
  } else if (dtype == DType::float16 || dtype == DType::bfloat16) {
    std::uint16_t bits[count];
    copy(bits);
  } else {
    std::uint8_t bits[count];
    copy(bits);
  }
}

}  // namespace pagedkv::cuda
