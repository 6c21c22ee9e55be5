#pragma once

// Plain C++ for any compiler: 4 floats, 2 doubles, 8 words a vector. The reference that the vector
// types of every instruction set are tested against.

#include "pagedkv/cpu/simd/isa_namespace.hpp"

#if defined(PAGEDKV_SIMD_GENERIC)

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace pagedkv::inline v0_1::cpu::PAGEDKV_ISA_NAMESPACE {

/// The value of float16 bits.
inline float float16_value(std::uint32_t bits) noexcept {
  const std::uint32_t magnitude = (bits & 0x7fffU) << 13, sign = (bits & 0x8000U) << 16;
  std::uint32_t value = magnitude + (112U << 23);
  if (magnitude >= 0x1fU << 23) {
    value += 112U << 23;
    if (magnitude > 0x1fU << 23) value |= 1U << 22;  // quiet
  } else if (magnitude < 1U << 23) {
    // 2^-14 * (1 + m) - 2^-14, with neither operand subnormal.
    value = std::bit_cast<std::uint32_t>(std::bit_cast<float>(value + (1U << 23)) - 0x1p-14F);
  }
  return std::bit_cast<float>(value | sign);
}

/// The bits of x as float16, to nearest, ties to even.
inline std::uint16_t float16_bits(float x) noexcept {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t magnitude = bits & 0x7fffffffU, sign = bits >> 16 & 0x8000U;
  std::uint32_t half = 0x7c00U;
  if (magnitude > 0x7f800000U) {
    half = 0x7e00U | (magnitude >> 13 & 0x3ffU);
  } else if (magnitude < 113U << 23) {
    // The unit in the last place of 1/2 is the smallest float16: the sum rounds as wanted.
    half = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) + 0.5F) - 0x3f000000U;
  } else if (magnitude < 143U << 23) {
    half = (magnitude - (112U << 23) + 0xfffU + (magnitude >> 13 & 1U)) >> 13;
  }
  return static_cast<std::uint16_t>(half | sign);
}

/// Element i of those at p, which need not be aligned.
template <class T>
inline T element_at(const void* p, int i) noexcept {
  T x;
  std::memcpy(&x, static_cast<const char*>(p) + static_cast<std::size_t>(i) * sizeof x, sizeof x);
  return x;
}

/// The halves of a byte, each with its sign.
inline int low_int4(std::uint8_t x) noexcept { return ((x & 0xf) ^ 8) - 8; }
inline int high_int4(std::uint8_t x) noexcept { return ((x >> 4) ^ 8) - 8; }

/// The vector whose lane i is f(i).
template <class V, class F>
inline V each_lane(F f) noexcept {
  V x;
  for (int i = 0; i < V::width; ++i) x.v[i] = f(i);
  return x;
}

/// Adding this, and taking it away again, rounds what is smaller to an integer.
template <class T>
inline constexpr T kRounds = static_cast<T>(sizeof(T) == 4 ? 0x1p23 : 0x1p52);

/// To nearest, ties to even; keeps the sign of what becomes 0.
template <class T>
inline T round_lane(T x) noexcept {
  const T magnitude = std::fabs(x);
  if (!(magnitude < kRounds<T>)) return x;
  return std::copysign(magnitude + kRounds<T> - kRounds<T>, x);
}

struct F32 {
  using Scalar = float;
  static constexpr int width = 4;
  static constexpr int num_registers = 16;
  float v[width];

  static F32 zero() noexcept { return all(0); }
  static F32 all(float x) noexcept {
    return each_lane<F32>([=](int) { return x; });
  }
  static F32 load(const float* p) noexcept {
    return each_lane<F32>([=](int i) { return p[i]; });
  }
  void store(float* p) const noexcept {
    for (int i = 0; i < width; ++i) p[i] = v[i];
  }

  friend F32 operator+(F32 a, F32 b) noexcept {
    return each_lane<F32>([&](int i) { return a.v[i] + b.v[i]; });
  }
  friend F32 operator-(F32 a, F32 b) noexcept {
    return each_lane<F32>([&](int i) { return a.v[i] - b.v[i]; });
  }
  friend F32 operator*(F32 a, F32 b) noexcept {
    return each_lane<F32>([&](int i) { return a.v[i] * b.v[i]; });
  }
  friend F32 operator/(F32 a, F32 b) noexcept {
    return each_lane<F32>([&](int i) { return a.v[i] / b.v[i]; });
  }
  /// a * b + c; whether the product is rounded before depends on the instruction set.
  friend F32 fma(F32 a, F32 b, F32 c) noexcept {
    return each_lane<F32>([&](int i) { return a.v[i] * b.v[i] + c.v[i]; });
  }
  /// b where one of them is NaN, and where both are 0; so is min.
  friend F32 max(F32 a, F32 b) noexcept {
    return each_lane<F32>([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
  }
  friend F32 min(F32 a, F32 b) noexcept {
    return each_lane<F32>([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
  }
  friend F32 abs(F32 a) noexcept {
    return each_lane<F32>([&](int i) { return std::fabs(a.v[i]); });
  }
  /// To integers, to nearest, ties to even.
  friend F32 round(F32 a) noexcept {
    return each_lane<F32>([&](int i) { return round_lane(a.v[i]); });
  }
  /// `yes` where a < b, else `no`; what is not selected may be anything.
  friend F32 select_less(F32 a, F32 b, F32 yes, F32 no) noexcept {
    return each_lane<F32>([&](int i) { return a.v[i] < b.v[i] ? yes.v[i] : no.v[i]; });
  }
  /// a * 2^n for integral n, -126 <= n <= 127.
  friend F32 scale_by_power_of_two(F32 a, F32 n) noexcept {
    return each_lane<F32>([&](int i) {
      // n stands in the last bits of the sum; any n is harmless, also NaN.
      const auto bits = std::bit_cast<std::uint32_t>(n.v[i] + 0x1.8p23F) + 127;
      return a.v[i] * std::bit_cast<float>(bits << 23);
    });
  }
  /// Lane i of the result is the sum of the lanes of x[i].
  static F32 sums(const F32 (&x)[4]) noexcept {
    return each_lane<F32>([&](int i) { return (x[i].v[0] + x[i].v[1]) + (x[i].v[2] + x[i].v[3]); });
  }

  static F32 from_f16(const void* p) noexcept {
    return each_lane<F32>([=](int i) { return float16_value(element_at<std::uint16_t>(p, i)); });
  }
  static F32 from_bf16(const void* p) noexcept {
    return each_lane<F32>([=](int i) {
      return std::bit_cast<float>(std::uint32_t{element_at<std::uint16_t>(p, i)} << 16);
    });
  }
  /// 8 elements: the even ones in `even`, the odd ones in `odd`.
  static void from_bf16_pairs(const void* p, F32& even, F32& odd) noexcept {
    for (int i = 0; i < width; ++i) {
      even.v[i] = std::bit_cast<float>(std::uint32_t{element_at<std::uint16_t>(p, 2 * i)} << 16);
      odd.v[i] = std::bit_cast<float>(std::uint32_t{element_at<std::uint16_t>(p, 2 * i + 1)} << 16);
    }
  }
  static F32 from_e5m2(const void* p) noexcept {
    return each_lane<F32>(
        [=](int i) { return float16_value(std::uint32_t{element_at<std::uint8_t>(p, i)} << 8); });
  }
  static F32 from_e4m3(const void* p) noexcept {
    return each_lane<F32>([=](int i) {
      // As float16 the same bits, moved, are 2^-8 of the value; but all ones are NaN.
      const std::uint32_t x = element_at<std::uint8_t>(p, i);
      const std::uint32_t sign = (x & 0x80U) << 8, magnitude = x & 0x7fU;
      return float16_value(sign | (magnitude == 0x7f ? 0x7e00U : magnitude << 7)) * 256.0F;
    });
  }
  static F32 from_i8(const void* p) noexcept {
    return each_lane<F32>([=](int i) { return static_cast<float>(element_at<std::int8_t>(p, i)); });
  }
  /// 8 elements, two a byte: the even ones in `even`, the odd ones in `odd`.
  static void from_i4_pairs(const void* p, F32& even, F32& odd) noexcept {
    for (int i = 0; i < width; ++i) {
      even.v[i] = static_cast<float>(low_int4(element_at<std::uint8_t>(p, i)));
      odd.v[i] = static_cast<float>(high_int4(element_at<std::uint8_t>(p, i)));
    }
  }
  /// To nearest, ties to even.
  void to_f16(void* p) const noexcept {
    std::uint16_t bits[width];
    for (int i = 0; i < width; ++i) bits[i] = float16_bits(v[i]);
    std::memcpy(p, bits, sizeof bits);
  }
};

/// 4 integers of 32 bits; sums wrap around.
struct I32 {
  static constexpr int width = 4;
  std::int32_t v[width];

  static I32 zero() noexcept { return all(0); }
  static I32 all(std::int32_t x) noexcept {
    return each_lane<I32>([=](int) { return x; });
  }
  static I32 load(const std::int32_t* p) noexcept {
    return each_lane<I32>([=](int i) { return p[i]; });
  }
  void store(std::int32_t* p) const noexcept {
    for (int i = 0; i < width; ++i) p[i] = v[i];
  }
  friend I32 operator+(I32 a, I32 b) noexcept {
    return each_lane<I32>([&](int i) { return wrapped(std::int64_t{a.v[i]} + b.v[i]); });
  }
  friend I32 operator-(I32 a, I32 b) noexcept {
    return each_lane<I32>([&](int i) { return wrapped(std::int64_t{a.v[i]} - b.v[i]); });
  }
  friend I32 operator&(I32 a, I32 b) noexcept {
    return each_lane<I32>([&](int i) { return a.v[i] & b.v[i]; });
  }
  friend I32 operator|(I32 a, I32 b) noexcept {
    return each_lane<I32>([&](int i) { return a.v[i] | b.v[i]; });
  }
  friend I32 min(I32 a, I32 b) noexcept {
    return each_lane<I32>([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
  }
  /// Zeros come in.
  template <int n>
  [[nodiscard]] I32 shifted_right() const noexcept {
    return each_lane<I32>([&](int i) { return wrapped(static_cast<std::uint32_t>(v[i]) >> n); });
  }
  friend F32 to_float(I32 a) noexcept {
    return each_lane<F32>([&](int i) { return static_cast<float>(a.v[i]); });
  }
  /// The bits of a float, and back.
  static I32 bits_of(F32 a) noexcept {
    return each_lane<I32>([&](int i) { return std::bit_cast<std::int32_t>(a.v[i]); });
  }
  [[nodiscard]] F32 as_float() const noexcept {
    return each_lane<F32>([&](int i) { return std::bit_cast<float>(v[i]); });
  }
  /// `yes` where a > b, else `no`.
  friend F32 select_greater(I32 a, I32 b, F32 yes, F32 no) noexcept {
    return each_lane<F32>([&](int i) { return a.v[i] > b.v[i] ? yes.v[i] : no.v[i]; });
  }
  friend I32 select_greater(I32 a, I32 b, I32 yes, I32 no) noexcept {
    return each_lane<I32>([&](int i) { return a.v[i] > b.v[i] ? yes.v[i] : no.v[i]; });
  }
  /// Writes 4 integers of 16 bits; the values are 0 to 65,535.
  void store_u16(void* p) const noexcept {
    std::uint16_t words[width];
    for (int i = 0; i < width; ++i) words[i] = static_cast<std::uint16_t>(v[i]);
    std::memcpy(p, words, sizeof words);
  }
  /// Writes 4 bytes; the values are 0 to 255.
  void store_u8(void* p) const noexcept {
    std::uint8_t bytes[width];
    for (int i = 0; i < width; ++i) bytes[i] = static_cast<std::uint8_t>(v[i]);
    std::memcpy(p, bytes, sizeof bytes);
  }
  /// Lane i of the result is the sum of the lanes of x[i].
  static I32 sums(const I32 (&x)[4]) noexcept {
    return each_lane<I32>([&](int i) {
      return wrapped(std::int64_t{x[i].v[0]} + x[i].v[1] + x[i].v[2] + x[i].v[3]);
    });
  }
  /// The last 32 bits.
  static std::int32_t wrapped(std::int64_t x) noexcept { return static_cast<std::int32_t>(x); }
};

/// To nearest, ties to even; the values fit.
inline I32 to_int(F32 a) noexcept {
  return each_lane<I32>([&](int i) { return static_cast<std::int32_t>(round_lane(a.v[i])); });
}

/// 8 integers of 16 bits.
struct I16 {
  static constexpr int width = 8;
  std::int16_t v[width];

  static I16 load(const std::int16_t* p) noexcept {
    return each_lane<I16>([=](int i) { return p[i]; });
  }
  /// `pair` in every pair of lanes: its lower half in the even ones.
  static I16 all_pairs(std::int32_t pair) noexcept {
    return each_lane<I16>([=](int i) { return static_cast<std::int16_t>(pair >> i % 2 * 16); });
  }
  static I16 from_i8(const void* p) noexcept {
    return each_lane<I16>(
        [=](int i) { return static_cast<std::int16_t>(element_at<std::int8_t>(p, i)); });
  }
  /// 16 elements, two a byte: the even ones in `even`, the odd ones in `odd`.
  static void from_i4_pairs(const void* p, I16& even, I16& odd) noexcept {
    for (int i = 0; i < width; ++i) {
      even.v[i] = static_cast<std::int16_t>(low_int4(element_at<std::uint8_t>(p, i)));
      odd.v[i] = static_cast<std::int16_t>(high_int4(element_at<std::uint8_t>(p, i)));
    }
  }
  /// Sums of the products of lanes 2i and 2i + 1, added to c.
  friend I32 dot_pairs(I16 a, I16 b, I32 c) noexcept {
    return each_lane<I32>([&](int i) {
      const std::size_t even = static_cast<std::size_t>(i) * 2, odd = even + 1;
      return I32::wrapped(std::int64_t{c.v[i]} + std::int64_t{a.v[even]} * b.v[even] +
                          std::int64_t{a.v[odd]} * b.v[odd]);
    });
  }
  /// a and b lane by lane, in pairs: channels `zip_channel(0, i)` in `low`, `zip_channel(1, i)` in
  /// `high`.
  static void zip(I16 a, I16 b, I16& low, I16& high) noexcept {
    for (int i = 0; i < width; ++i) {
      const auto& from = i % 2 == 0 ? a : b;
      low.v[i] = from.v[i / 2];
      high.v[i] = from.v[i / 2 + width / 2];
    }
  }
  static constexpr int zip_channel(int half, int i) noexcept { return half * (width / 2) + i; }
};

/// 2 doubles; members as those of F32.
struct F64 {
  using Scalar = double;
  static constexpr int width = 2;
  static constexpr int num_registers = 16;
  double v[width];

  static F64 zero() noexcept { return all(0); }
  static F64 all(double x) noexcept {
    return each_lane<F64>([=](int) { return x; });
  }
  static F64 load(const double* p) noexcept {
    return each_lane<F64>([=](int i) { return p[i]; });
  }
  void store(double* p) const noexcept {
    for (int i = 0; i < width; ++i) p[i] = v[i];
  }

  friend F64 operator+(F64 a, F64 b) noexcept {
    return each_lane<F64>([&](int i) { return a.v[i] + b.v[i]; });
  }
  friend F64 operator-(F64 a, F64 b) noexcept {
    return each_lane<F64>([&](int i) { return a.v[i] - b.v[i]; });
  }
  friend F64 operator*(F64 a, F64 b) noexcept {
    return each_lane<F64>([&](int i) { return a.v[i] * b.v[i]; });
  }
  friend F64 operator/(F64 a, F64 b) noexcept {
    return each_lane<F64>([&](int i) { return a.v[i] / b.v[i]; });
  }
  friend F64 fma(F64 a, F64 b, F64 c) noexcept {
    return each_lane<F64>([&](int i) { return a.v[i] * b.v[i] + c.v[i]; });
  }
  friend F64 max(F64 a, F64 b) noexcept {
    return each_lane<F64>([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
  }
  friend F64 min(F64 a, F64 b) noexcept {
    return each_lane<F64>([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
  }
  friend F64 abs(F64 a) noexcept {
    return each_lane<F64>([&](int i) { return std::fabs(a.v[i]); });
  }
  friend F64 round(F64 a) noexcept {
    return each_lane<F64>([&](int i) { return round_lane(a.v[i]); });
  }
  friend F64 select_less(F64 a, F64 b, F64 yes, F64 no) noexcept {
    return each_lane<F64>([&](int i) { return a.v[i] < b.v[i] ? yes.v[i] : no.v[i]; });
  }
  /// a * 2^n for integral n, -1022 <= n <= 1023.
  friend F64 scale_by_power_of_two(F64 a, F64 n) noexcept {
    return each_lane<F64>([&](int i) {
      const auto bits = std::bit_cast<std::uint64_t>(n.v[i] + 0x1.8p52) + 1023;
      return a.v[i] * std::bit_cast<double>(bits << 52);
    });
  }
  static F64 sums(const F64 (&x)[2]) noexcept {
    return each_lane<F64>([&](int i) { return x[i].v[0] + x[i].v[1]; });
  }
};

}  // namespace pagedkv::inline v0_1::cpu::PAGEDKV_ISA_NAMESPACE

#endif
