#pragma once

// x86-64-v2, that is SSE4.2: 4 floats, 2 doubles, 8 words a vector. There is no fused multiply-add,
// and no conversion of float16.

#include "pagedkv/cpu/simd/isa_namespace.hpp"

#if defined(PAGEDKV_SIMD_SSE)

#include <immintrin.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace pagedkv::inline v0_1::cpu::PAGEDKV_ISA_NAMESPACE {

/// 4 bytes, in the lowest lane.
inline __m128i load_4_bytes(const void* p) noexcept {
  int x;
  std::memcpy(&x, p, sizeof x);
  return _mm_cvtsi32_si128(x);
}

/// The values of float16 bits in lanes of 32 bits.
inline __m128 float16_values(__m128i bits) noexcept {
  const __m128i magnitude = _mm_slli_epi32(_mm_and_si128(bits, _mm_set1_epi32(0x7fff)), 13);
  const __m128i sign = _mm_slli_epi32(_mm_and_si128(bits, _mm_set1_epi32(0x8000)), 16);
  const __m128i step = _mm_set1_epi32(1 << 23), bias = _mm_set1_epi32(112 << 23);
  const __m128i normal = _mm_add_epi32(magnitude, bias);
  // 2^-14 * (1 + m) - 2^-14, with neither operand subnormal.
  const __m128 small =
      _mm_sub_ps(_mm_castsi128_ps(_mm_add_epi32(normal, step)), _mm_set1_ps(0x1p-14F));
  const __m128 value = _mm_blendv_ps(_mm_castsi128_ps(normal), small,
                                     _mm_castsi128_ps(_mm_cmplt_epi32(magnitude, step)));
  // The exponent of infinity and NaN is the largest in both formats.
  const __m128i special = _mm_cmpgt_epi32(magnitude, _mm_set1_epi32((0x1f << 23) - 1));
  const __m128i result = _mm_add_epi32(_mm_castps_si128(value), _mm_and_si128(special, bias));
  return _mm_castsi128_ps(_mm_or_si128(result, sign));
}

struct F32 {
  using Scalar = float;
  static constexpr int width = 4;
  static constexpr int num_registers = 16;
  __m128 v;

  static F32 zero() noexcept { return {_mm_setzero_ps()}; }
  static F32 all(float x) noexcept { return {_mm_set1_ps(x)}; }
  static F32 load(const float* p) noexcept { return {_mm_loadu_ps(p)}; }
  void store(float* p) const noexcept { _mm_storeu_ps(p, v); }

  friend F32 operator+(F32 a, F32 b) noexcept { return {_mm_add_ps(a.v, b.v)}; }
  friend F32 operator-(F32 a, F32 b) noexcept { return {_mm_sub_ps(a.v, b.v)}; }
  friend F32 operator*(F32 a, F32 b) noexcept { return {_mm_mul_ps(a.v, b.v)}; }
  friend F32 operator/(F32 a, F32 b) noexcept { return {_mm_div_ps(a.v, b.v)}; }
  /// a * b + c, rounded twice.
  friend F32 fma(F32 a, F32 b, F32 c) noexcept { return {_mm_add_ps(_mm_mul_ps(a.v, b.v), c.v)}; }
  friend F32 max(F32 a, F32 b) noexcept { return {_mm_max_ps(a.v, b.v)}; }
  friend F32 min(F32 a, F32 b) noexcept { return {_mm_min_ps(a.v, b.v)}; }
  friend F32 abs(F32 a) noexcept { return {_mm_andnot_ps(_mm_set1_ps(-0.0F), a.v)}; }
  friend F32 round(F32 a) noexcept {
    return {_mm_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
  }
  /// `yes` where a < b, else `no`; what is not selected may be anything.
  friend F32 select_less(F32 a, F32 b, F32 yes, F32 no) noexcept {
    return {_mm_blendv_ps(no.v, yes.v, _mm_cmplt_ps(a.v, b.v))};
  }
  /// a * 2^n for integral n, -126 <= n <= 127.
  friend F32 scale_by_power_of_two(F32 a, F32 n) noexcept {
    const __m128i bits =
        _mm_slli_epi32(_mm_add_epi32(_mm_cvtps_epi32(n.v), _mm_set1_epi32(127)), 23);
    return {_mm_mul_ps(a.v, _mm_castsi128_ps(bits))};
  }

  /// Lane i of the result is the sum of the lanes of x[i].
  static F32 sums(const F32 (&x)[4]) noexcept {
    return {_mm_hadd_ps(_mm_hadd_ps(x[0].v, x[1].v), _mm_hadd_ps(x[2].v, x[3].v))};
  }

  static F32 from_f16(const void* p) noexcept {
    return {float16_values(_mm_cvtepu16_epi32(_mm_loadl_epi64(static_cast<const __m128i*>(p))))};
  }
  static F32 from_bf16(const void* p) noexcept {
    const __m128i x = _mm_cvtepu16_epi32(_mm_loadl_epi64(static_cast<const __m128i*>(p)));
    return {_mm_castsi128_ps(_mm_slli_epi32(x, 16))};
  }
  /// 8 elements: the even ones in `even`, the odd ones in `odd`.
  static void from_bf16_pairs(const void* p, F32& even, F32& odd) noexcept {
    const __m128i x = _mm_loadu_si128(static_cast<const __m128i*>(p));
    even.v = _mm_castsi128_ps(_mm_slli_epi32(x, 16));
    odd.v = _mm_castsi128_ps(_mm_and_si128(x, _mm_set1_epi32(static_cast<int>(0xffff0000U))));
  }
  static F32 from_e5m2(const void* p) noexcept {
    return {float16_values(_mm_slli_epi32(_mm_cvtepu8_epi32(load_4_bytes(p)), 8))};
  }
  static F32 from_e4m3(const void* p) noexcept {
    // As float16 the same bits, moved, are 2^-8 of the value; but all ones are NaN.
    const __m128i x = _mm_cvtepu8_epi32(load_4_bytes(p));
    const __m128i magnitude = _mm_slli_epi32(_mm_and_si128(x, _mm_set1_epi32(0x7f)), 7);
    const __m128i nan = _mm_cmpeq_epi32(magnitude, _mm_set1_epi32(0x3f80));
    const __m128i sign = _mm_slli_epi32(_mm_and_si128(x, _mm_set1_epi32(0x80)), 8);
    const __m128i bits =
        _mm_or_si128(_mm_or_si128(magnitude, sign), _mm_and_si128(nan, _mm_set1_epi32(0x7e00)));
    return {_mm_mul_ps(float16_values(bits), _mm_set1_ps(256.0F))};
  }
  static F32 from_i8(const void* p) noexcept {
    return {_mm_cvtepi32_ps(_mm_cvtepi8_epi32(load_4_bytes(p)))};
  }
  /// 8 elements, two a byte: the even ones in `even`, the odd ones in `odd`.
  static void from_i4_pairs(const void* p, F32& even, F32& odd) noexcept {
    const __m128i x = _mm_cvtepi8_epi32(load_4_bytes(p));
    even.v = _mm_cvtepi32_ps(_mm_srai_epi32(_mm_slli_epi32(x, 28), 28));
    odd.v = _mm_cvtepi32_ps(_mm_srai_epi32(x, 4));
  }
  /// To nearest, ties to even.
  void to_f16(void* p) const noexcept {
    const __m128i bits = _mm_castps_si128(v);
    const __m128i magnitude = _mm_and_si128(bits, _mm_set1_epi32(0x7fffffff));
    const __m128i sign = _mm_and_si128(_mm_srli_epi32(bits, 16), _mm_set1_epi32(0x8000));
    const __m128i moved = _mm_srli_epi32(magnitude, 13);
    const __m128i last = _mm_and_si128(moved, _mm_set1_epi32(1));
    const __m128i normal = _mm_srli_epi32(
        _mm_add_epi32(_mm_add_epi32(magnitude, last), _mm_set1_epi32(0xfff - (112 << 23))), 13);
    // The unit in the last place of 1/2 is the smallest float16: the sum rounds as wanted.
    const __m128i small =
        _mm_sub_epi32(_mm_castps_si128(_mm_add_ps(_mm_castsi128_ps(magnitude), _mm_set1_ps(0.5F))),
                      _mm_set1_epi32(0x3f000000));
    const __m128i quiet =
        _mm_or_si128(_mm_set1_epi32(0x7e00), _mm_and_si128(moved, _mm_set1_epi32(0x3ff)));
    const auto choose = [](__m128i no, __m128i yes, __m128i mask) {
      return _mm_blendv_epi8(no, yes, mask);
    };
    __m128i half = choose(normal, small, _mm_cmplt_epi32(magnitude, _mm_set1_epi32(113 << 23)));
    half = choose(half, _mm_set1_epi32(0x7c00),
                  _mm_cmpgt_epi32(magnitude, _mm_set1_epi32(0x47800000 - 1)));
    half = choose(half, quiet, _mm_cmpgt_epi32(magnitude, _mm_set1_epi32(0x7f800000)));
    half = _mm_or_si128(half, sign);
    _mm_storel_epi64(static_cast<__m128i*>(p), _mm_packus_epi32(half, half));
  }
};

/// 4 integers of 32 bits.
struct I32 {
  static constexpr int width = 4;
  __m128i v;

  static I32 zero() noexcept { return {_mm_setzero_si128()}; }
  static I32 all(std::int32_t x) noexcept { return {_mm_set1_epi32(x)}; }
  static I32 load(const std::int32_t* p) noexcept {
    return {_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))};
  }
  void store(std::int32_t* p) const noexcept { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), v); }
  friend I32 operator+(I32 a, I32 b) noexcept { return {_mm_add_epi32(a.v, b.v)}; }
  friend I32 operator-(I32 a, I32 b) noexcept { return {_mm_sub_epi32(a.v, b.v)}; }
  friend I32 operator&(I32 a, I32 b) noexcept { return {_mm_and_si128(a.v, b.v)}; }
  friend I32 operator|(I32 a, I32 b) noexcept { return {_mm_or_si128(a.v, b.v)}; }
  friend I32 min(I32 a, I32 b) noexcept { return {_mm_min_epi32(a.v, b.v)}; }
  /// Zeros come in.
  template <int n>
  [[nodiscard]] I32 shifted_right() const noexcept {
    return {_mm_srli_epi32(v, n)};
  }
  friend F32 to_float(I32 a) noexcept { return {_mm_cvtepi32_ps(a.v)}; }
  /// The bits of a float, and back.
  static I32 bits_of(F32 a) noexcept { return {_mm_castps_si128(a.v)}; }
  [[nodiscard]] F32 as_float() const noexcept { return {_mm_castsi128_ps(v)}; }
  /// `yes` where a > b, else `no`.
  friend F32 select_greater(I32 a, I32 b, F32 yes, F32 no) noexcept {
    return {_mm_blendv_ps(no.v, yes.v, _mm_castsi128_ps(_mm_cmpgt_epi32(a.v, b.v)))};
  }
  friend I32 select_greater(I32 a, I32 b, I32 yes, I32 no) noexcept {
    return {_mm_blendv_epi8(no.v, yes.v, _mm_cmpgt_epi32(a.v, b.v))};
  }
  /// Writes 4 integers of 16 bits; the values are 0 to 65,535.
  void store_u16(void* p) const noexcept {
    _mm_storel_epi64(static_cast<__m128i*>(p), _mm_packus_epi32(v, v));
  }
  /// Writes 4 bytes; the values are 0 to 255.
  void store_u8(void* p) const noexcept {
    const __m128i words = _mm_packus_epi32(v, v);
    const int bytes = _mm_cvtsi128_si32(_mm_packus_epi16(words, words));
    std::memcpy(p, &bytes, sizeof bytes);
  }
  /// Lane i of the result is the sum of the lanes of x[i].
  static I32 sums(const I32 (&x)[4]) noexcept {
    return {_mm_hadd_epi32(_mm_hadd_epi32(x[0].v, x[1].v), _mm_hadd_epi32(x[2].v, x[3].v))};
  }
};

/// To nearest, ties to even; the values fit.
inline I32 to_int(F32 a) noexcept { return {_mm_cvtps_epi32(a.v)}; }

/// 8 integers of 16 bits.
struct I16 {
  static constexpr int width = 8;
  __m128i v;

  static I16 load(const std::int16_t* p) noexcept {
    return {_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))};
  }
  /// `pair` in every pair of lanes.
  static I16 all_pairs(std::int32_t pair) noexcept { return {_mm_set1_epi32(pair)}; }
  static I16 from_i8(const void* p) noexcept {
    return {_mm_cvtepi8_epi16(_mm_loadl_epi64(static_cast<const __m128i*>(p)))};
  }
  /// 16 elements, two a byte: the even ones in `even`, the odd ones in `odd`.
  static void from_i4_pairs(const void* p, I16& even, I16& odd) noexcept {
    const __m128i x = _mm_cvtepi8_epi16(_mm_loadl_epi64(static_cast<const __m128i*>(p)));
    even.v = _mm_srai_epi16(_mm_slli_epi16(x, 12), 12);
    odd.v = _mm_srai_epi16(x, 4);
  }
  /// Sums of the products of lanes 2i and 2i + 1, added to c.
  friend I32 dot_pairs(I16 a, I16 b, I32 c) noexcept {
    return {_mm_add_epi32(c.v, _mm_madd_epi16(a.v, b.v))};
  }
  /// a and b lane by lane, in pairs: channels `zip_channel(0, i)` in `low`, `zip_channel(1, i)` in
  /// `high`.
  static void zip(I16 a, I16 b, I16& low, I16& high) noexcept {
    low.v = _mm_unpacklo_epi16(a.v, b.v);
    high.v = _mm_unpackhi_epi16(a.v, b.v);
  }
  static constexpr int zip_channel(int half, int i) noexcept { return half * 4 + i; }
};

/// 2 doubles.
struct F64 {
  using Scalar = double;
  static constexpr int width = 2;
  static constexpr int num_registers = 16;
  __m128d v;

  static F64 zero() noexcept { return {_mm_setzero_pd()}; }
  static F64 all(double x) noexcept { return {_mm_set1_pd(x)}; }
  static F64 load(const double* p) noexcept { return {_mm_loadu_pd(p)}; }
  void store(double* p) const noexcept { _mm_storeu_pd(p, v); }

  friend F64 operator+(F64 a, F64 b) noexcept { return {_mm_add_pd(a.v, b.v)}; }
  friend F64 operator-(F64 a, F64 b) noexcept { return {_mm_sub_pd(a.v, b.v)}; }
  friend F64 operator*(F64 a, F64 b) noexcept { return {_mm_mul_pd(a.v, b.v)}; }
  friend F64 operator/(F64 a, F64 b) noexcept { return {_mm_div_pd(a.v, b.v)}; }
  friend F64 fma(F64 a, F64 b, F64 c) noexcept { return {_mm_add_pd(_mm_mul_pd(a.v, b.v), c.v)}; }
  friend F64 max(F64 a, F64 b) noexcept { return {_mm_max_pd(a.v, b.v)}; }
  friend F64 min(F64 a, F64 b) noexcept { return {_mm_min_pd(a.v, b.v)}; }
  friend F64 abs(F64 a) noexcept { return {_mm_andnot_pd(_mm_set1_pd(-0.0), a.v)}; }
  friend F64 round(F64 a) noexcept {
    return {_mm_round_pd(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
  }
  friend F64 select_less(F64 a, F64 b, F64 yes, F64 no) noexcept {
    return {_mm_blendv_pd(no.v, yes.v, _mm_cmplt_pd(a.v, b.v))};
  }
  /// a * 2^n for integral n, -1022 <= n <= 1023.
  friend F64 scale_by_power_of_two(F64 a, F64 n) noexcept {
    const __m128i wide = _mm_cvtepi32_epi64(_mm_cvtpd_epi32(n.v));
    const __m128i bits = _mm_slli_epi64(_mm_add_epi64(wide, _mm_set1_epi64x(1023)), 52);
    return {_mm_mul_pd(a.v, _mm_castsi128_pd(bits))};
  }
  static F64 sums(const F64 (&x)[2]) noexcept { return {_mm_hadd_pd(x[0].v, x[1].v)}; }
};

}  // namespace pagedkv::inline v0_1::cpu::PAGEDKV_ISA_NAMESPACE

#endif
