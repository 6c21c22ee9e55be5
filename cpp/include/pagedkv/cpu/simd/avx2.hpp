#pragma once

// AVX2 with FMA and F16C: 8 floats, 4 doubles, 16 words a vector.

#include "pagedkv/cpu/simd/isa_namespace.hpp"

#if defined(PAGEDKV_SIMD_AVX2)

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace pagedkv::inline v0_1::cpu::PAGEDKV_ISA_NAMESPACE {

struct F32 {
  using Scalar = float;
  static constexpr int width = 8;
  static constexpr int num_registers = 16;
  __m256 v;

  static F32 zero() noexcept { return {_mm256_setzero_ps()}; }
  static F32 all(float x) noexcept { return {_mm256_set1_ps(x)}; }
  static F32 load(const float* p) noexcept { return {_mm256_loadu_ps(p)}; }
  void store(float* p) const noexcept { _mm256_storeu_ps(p, v); }

  friend F32 operator+(F32 a, F32 b) noexcept { return {_mm256_add_ps(a.v, b.v)}; }
  friend F32 operator-(F32 a, F32 b) noexcept { return {_mm256_sub_ps(a.v, b.v)}; }
  friend F32 operator*(F32 a, F32 b) noexcept { return {_mm256_mul_ps(a.v, b.v)}; }
  friend F32 operator/(F32 a, F32 b) noexcept { return {_mm256_div_ps(a.v, b.v)}; }
  /// a * b + c
  friend F32 fma(F32 a, F32 b, F32 c) noexcept { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
  friend F32 max(F32 a, F32 b) noexcept { return {_mm256_max_ps(a.v, b.v)}; }
  friend F32 min(F32 a, F32 b) noexcept { return {_mm256_min_ps(a.v, b.v)}; }
  friend F32 abs(F32 a) noexcept { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0F), a.v)}; }
  friend F32 round(F32 a) noexcept {
    return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
  }
  /// `yes` where a < b, else `no`; what is not selected may be anything.
  friend F32 select_less(F32 a, F32 b, F32 yes, F32 no) noexcept {
    return {_mm256_blendv_ps(no.v, yes.v, _mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ))};
  }
  /// a * 2^n for integral n, -126 <= n <= 127.
  friend F32 scale_by_power_of_two(F32 a, F32 n) noexcept {
    const __m256i bits =
        _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n.v), _mm256_set1_epi32(127)), 23);
    return {_mm256_mul_ps(a.v, _mm256_castsi256_ps(bits))};
  }

  /// Lane i of the result is the sum of the lanes of x[i].
  static F32 sums(const F32 (&x)[8]) noexcept {
    const __m256 a = _mm256_hadd_ps(x[0].v, x[1].v), b = _mm256_hadd_ps(x[2].v, x[3].v);
    const __m256 c = _mm256_hadd_ps(x[4].v, x[5].v), d = _mm256_hadd_ps(x[6].v, x[7].v);
    const __m256 ab = _mm256_hadd_ps(a, b), cd = _mm256_hadd_ps(c, d);
    return {
        _mm256_add_ps(_mm256_permute2f128_ps(ab, cd, 0x20), _mm256_permute2f128_ps(ab, cd, 0x31))};
  }

  static F32 from_f16(const void* p) noexcept {
    return {_mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i*>(p)))};
  }
  static F32 from_bf16(const void* p) noexcept {
    const __m256i x = _mm256_cvtepu16_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p)));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(x, 16))};
  }
  /// 16 elements: the even ones in `even`, the odd ones in `odd`.
  static void from_bf16_pairs(const void* p, F32& even, F32& odd) noexcept {
    const __m256i x = _mm256_loadu_si256(static_cast<const __m256i*>(p));
    even.v = _mm256_castsi256_ps(_mm256_slli_epi32(x, 16));
    odd.v =
        _mm256_castsi256_ps(_mm256_and_si256(x, _mm256_set1_epi32(static_cast<int>(0xffff0000U))));
  }
  static F32 from_e5m2(const void* p) noexcept {
    const __m128i x = _mm_cvtepu8_epi16(_mm_loadl_epi64(static_cast<const __m128i*>(p)));
    return {_mm256_cvtph_ps(_mm_slli_epi16(x, 8))};
  }
  static F32 from_e4m3(const void* p) noexcept {
    // As float16 the same bits, moved, are 2^-8 of the value; but all ones are NaN.
    const __m128i x = _mm_cvtepi8_epi16(_mm_loadl_epi64(static_cast<const __m128i*>(p)));
    const __m128i magnitude = _mm_and_si128(_mm_slli_epi16(x, 7), _mm_set1_epi16(0x3f80));
    const __m128i nan = _mm_cmpeq_epi16(magnitude, _mm_set1_epi16(0x3f80));
    const __m128i sign = _mm_and_si128(x, _mm_set1_epi16(static_cast<short>(0x8000)));
    const __m128i bits =
        _mm_or_si128(_mm_or_si128(magnitude, sign), _mm_and_si128(nan, _mm_set1_epi16(0x7e00)));
    return {_mm256_mul_ps(_mm256_cvtph_ps(bits), _mm256_set1_ps(256.0F))};
  }
  static F32 from_i8(const void* p) noexcept {
    const __m256i x = _mm256_cvtepi8_epi32(_mm_loadl_epi64(static_cast<const __m128i*>(p)));
    return {_mm256_cvtepi32_ps(x)};
  }
  /// 16 elements, two a byte: the even ones in `even`, the odd ones in `odd`.
  static void from_i4_pairs(const void* p, F32& even, F32& odd) noexcept {
    const __m256i x = _mm256_cvtepi8_epi32(_mm_loadl_epi64(static_cast<const __m128i*>(p)));
    even.v = _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(x, 28), 28));
    odd.v = _mm256_cvtepi32_ps(_mm256_srai_epi32(x, 4));
  }
  void to_f16(void* p) const noexcept {
    _mm_storeu_si128(static_cast<__m128i*>(p),
                     _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
};

/// 8 integers of 32 bits.
struct I32 {
  static constexpr int width = 8;
  __m256i v;

  static I32 zero() noexcept { return {_mm256_setzero_si256()}; }
  static I32 all(std::int32_t x) noexcept { return {_mm256_set1_epi32(x)}; }
  static I32 load(const std::int32_t* p) noexcept {
    return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))};
  }
  void store(std::int32_t* p) const noexcept {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), v);
  }
  friend I32 operator+(I32 a, I32 b) noexcept { return {_mm256_add_epi32(a.v, b.v)}; }
  friend I32 operator-(I32 a, I32 b) noexcept { return {_mm256_sub_epi32(a.v, b.v)}; }
  friend I32 operator&(I32 a, I32 b) noexcept { return {_mm256_and_si256(a.v, b.v)}; }
  friend I32 operator|(I32 a, I32 b) noexcept { return {_mm256_or_si256(a.v, b.v)}; }
  friend I32 min(I32 a, I32 b) noexcept { return {_mm256_min_epi32(a.v, b.v)}; }
  /// Zeros come in.
  template <int n>
  [[nodiscard]] I32 shifted_right() const noexcept {
    return {_mm256_srli_epi32(v, n)};
  }
  friend F32 to_float(I32 a) noexcept { return {_mm256_cvtepi32_ps(a.v)}; }
  /// The bits of a float, and back.
  static I32 bits_of(F32 a) noexcept { return {_mm256_castps_si256(a.v)}; }
  [[nodiscard]] F32 as_float() const noexcept { return {_mm256_castsi256_ps(v)}; }
  /// `yes` where a > b, else `no`.
  friend F32 select_greater(I32 a, I32 b, F32 yes, F32 no) noexcept {
    return {_mm256_blendv_ps(no.v, yes.v, _mm256_castsi256_ps(_mm256_cmpgt_epi32(a.v, b.v)))};
  }
  friend I32 select_greater(I32 a, I32 b, I32 yes, I32 no) noexcept {
    return {_mm256_blendv_epi8(no.v, yes.v, _mm256_cmpgt_epi32(a.v, b.v))};
  }
  /// Writes 8 integers of 16 bits; the values are 0 to 65,535.
  void store_u16(void* p) const noexcept { _mm_storeu_si128(static_cast<__m128i*>(p), packed()); }
  /// Writes 8 bytes; the values are 0 to 255.
  void store_u8(void* p) const noexcept {
    _mm_storel_epi64(static_cast<__m128i*>(p), _mm_packus_epi16(packed(), _mm_setzero_si128()));
  }
  /// Lane i of the result is the sum of the lanes of x[i].
  static I32 sums(const I32 (&x)[8]) noexcept {
    const __m256i a = _mm256_hadd_epi32(x[0].v, x[1].v), b = _mm256_hadd_epi32(x[2].v, x[3].v);
    const __m256i c = _mm256_hadd_epi32(x[4].v, x[5].v), d = _mm256_hadd_epi32(x[6].v, x[7].v);
    const __m256i ab = _mm256_hadd_epi32(a, b), cd = _mm256_hadd_epi32(c, d);
    return {_mm256_add_epi32(_mm256_permute2x128_si256(ab, cd, 0x20),
                             _mm256_permute2x128_si256(ab, cd, 0x31))};
  }

 private:
  [[nodiscard]] __m128i packed() const noexcept {
    return _mm_packus_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  }
};

/// To nearest, ties to even; the values fit.
inline I32 to_int(F32 a) noexcept { return {_mm256_cvtps_epi32(a.v)}; }

/// 16 integers of 16 bits.
struct I16 {
  static constexpr int width = 16;
  __m256i v;

  static I16 load(const std::int16_t* p) noexcept {
    return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))};
  }
  /// `pair` in every pair of lanes.
  static I16 all_pairs(std::int32_t pair) noexcept { return {_mm256_set1_epi32(pair)}; }
  static I16 from_i8(const void* p) noexcept {
    return {_mm256_cvtepi8_epi16(_mm_loadu_si128(static_cast<const __m128i*>(p)))};
  }
  /// 32 elements, two a byte: the even ones in `even`, the odd ones in `odd`.
  static void from_i4_pairs(const void* p, I16& even, I16& odd) noexcept {
    const __m256i x = _mm256_cvtepi8_epi16(_mm_loadu_si128(static_cast<const __m128i*>(p)));
    even.v = _mm256_srai_epi16(_mm256_slli_epi16(x, 12), 12);
    odd.v = _mm256_srai_epi16(x, 4);
  }
  /// Sums of the products of lanes 2i and 2i + 1, added to c.
  friend I32 dot_pairs(I16 a, I16 b, I32 c) noexcept {
    return {_mm256_add_epi32(c.v, _mm256_madd_epi16(a.v, b.v))};
  }
  /// a and b lane by lane, in pairs: channels `zip_channel(0, i)` in `low`, `zip_channel(1, i)` in
  /// `high`.
  static void zip(I16 a, I16 b, I16& low, I16& high) noexcept {
    low.v = _mm256_unpacklo_epi16(a.v, b.v);
    high.v = _mm256_unpackhi_epi16(a.v, b.v);
  }
  static constexpr int zip_channel(int half, int i) noexcept {
    return i / 4 * 8 + half * 4 + i % 4;
  }
};

/// 4 doubles.
struct F64 {
  using Scalar = double;
  static constexpr int width = 4;
  static constexpr int num_registers = 16;
  __m256d v;

  static F64 zero() noexcept { return {_mm256_setzero_pd()}; }
  static F64 all(double x) noexcept { return {_mm256_set1_pd(x)}; }
  static F64 load(const double* p) noexcept { return {_mm256_loadu_pd(p)}; }
  void store(double* p) const noexcept { _mm256_storeu_pd(p, v); }

  friend F64 operator+(F64 a, F64 b) noexcept { return {_mm256_add_pd(a.v, b.v)}; }
  friend F64 operator-(F64 a, F64 b) noexcept { return {_mm256_sub_pd(a.v, b.v)}; }
  friend F64 operator*(F64 a, F64 b) noexcept { return {_mm256_mul_pd(a.v, b.v)}; }
  friend F64 operator/(F64 a, F64 b) noexcept { return {_mm256_div_pd(a.v, b.v)}; }
  friend F64 fma(F64 a, F64 b, F64 c) noexcept { return {_mm256_fmadd_pd(a.v, b.v, c.v)}; }
  friend F64 max(F64 a, F64 b) noexcept { return {_mm256_max_pd(a.v, b.v)}; }
  friend F64 min(F64 a, F64 b) noexcept { return {_mm256_min_pd(a.v, b.v)}; }
  friend F64 abs(F64 a) noexcept { return {_mm256_andnot_pd(_mm256_set1_pd(-0.0), a.v)}; }
  friend F64 round(F64 a) noexcept {
    return {_mm256_round_pd(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
  }
  friend F64 select_less(F64 a, F64 b, F64 yes, F64 no) noexcept {
    return {_mm256_blendv_pd(no.v, yes.v, _mm256_cmp_pd(a.v, b.v, _CMP_LT_OQ))};
  }
  /// a * 2^n for integral n, -1022 <= n <= 1023.
  friend F64 scale_by_power_of_two(F64 a, F64 n) noexcept {
    const __m256i wide = _mm256_cvtepi32_epi64(_mm256_cvtpd_epi32(n.v));
    const __m256i bits = _mm256_slli_epi64(_mm256_add_epi64(wide, _mm256_set1_epi64x(1023)), 52);
    return {_mm256_mul_pd(a.v, _mm256_castsi256_pd(bits))};
  }
  static F64 sums(const F64 (&x)[4]) noexcept {
    const __m256d a = _mm256_hadd_pd(x[0].v, x[1].v), b = _mm256_hadd_pd(x[2].v, x[3].v);
    return {_mm256_add_pd(_mm256_permute2f128_pd(a, b, 0x20), _mm256_permute2f128_pd(a, b, 0x31))};
  }
};

}  // namespace pagedkv::inline v0_1::cpu::PAGEDKV_ISA_NAMESPACE

#endif
