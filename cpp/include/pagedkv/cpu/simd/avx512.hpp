#pragma once

// AVX-512 F, BW, DQ and VL, with VNNI and BF16 where the flags have them: 16 floats, 8 doubles, 32
// words a vector.

#include "pagedkv/cpu/simd/isa_namespace.hpp"

#if defined(PAGEDKV_SIMD_AVX512)

#include <immintrin.h>

#include <bit>
#include <cstddef>
#include <cstdint>

namespace pagedkv::inline v0_1::cpu::PAGEDKV_ISA_NAMESPACE {

struct F32 {
  using Scalar = float;
  static constexpr int width = 16;
  static constexpr int num_registers = 32;
  __m512 v;

  static F32 zero() noexcept { return {_mm512_setzero_ps()}; }
  static F32 all(float x) noexcept { return {_mm512_set1_ps(x)}; }
  static F32 load(const float* p) noexcept { return {_mm512_loadu_ps(p)}; }
  void store(float* p) const noexcept { _mm512_storeu_ps(p, v); }

  friend F32 operator+(F32 a, F32 b) noexcept { return {_mm512_add_ps(a.v, b.v)}; }
  friend F32 operator-(F32 a, F32 b) noexcept { return {_mm512_sub_ps(a.v, b.v)}; }
  friend F32 operator*(F32 a, F32 b) noexcept { return {_mm512_mul_ps(a.v, b.v)}; }
  friend F32 operator/(F32 a, F32 b) noexcept { return {_mm512_div_ps(a.v, b.v)}; }
  /// a * b + c
  friend F32 fma(F32 a, F32 b, F32 c) noexcept { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
  friend F32 max(F32 a, F32 b) noexcept { return {_mm512_max_ps(a.v, b.v)}; }
  friend F32 min(F32 a, F32 b) noexcept { return {_mm512_min_ps(a.v, b.v)}; }
  friend F32 abs(F32 a) noexcept { return {_mm512_andnot_ps(_mm512_set1_ps(-0.0F), a.v)}; }
  friend F32 round(F32 a) noexcept {
    return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
  }
  /// `yes` where a < b, else `no`; what is not selected may be anything.
  friend F32 select_less(F32 a, F32 b, F32 yes, F32 no) noexcept {
    return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ), no.v, yes.v)};
  }
  /// a * 2^n for integral n, -126 <= n <= 127.
  friend F32 scale_by_power_of_two(F32 a, F32 n) noexcept { return {_mm512_scalef_ps(a.v, n.v)}; }

  /// Lane i of the result is the sum of the lanes of x[i].
  static F32 sums(const F32 (&x)[16]) noexcept {
    const __m512 a = four_sums(x), b = four_sums(x + 4), c = four_sums(x + 8),
                 d = four_sums(x + 12);
    const __m512 ab = quarter_sums(a, b), cd = quarter_sums(c, d);
    return {quarter_sums(ab, cd)};
  }

  static F32 from_f16(const void* p) noexcept {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p)))};
  }
  static F32 from_bf16(const void* p) noexcept {
    const __m512i x = _mm512_cvtepu16_epi32(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(x, 16))};
  }
  /// 32 elements: the even ones in `even`, the odd ones in `odd`.
  static void from_bf16_pairs(const void* p, F32& even, F32& odd) noexcept {
    const __m512i x = _mm512_loadu_si512(p);
    even.v = _mm512_castsi512_ps(_mm512_slli_epi32(x, 16));
    odd.v =
        _mm512_castsi512_ps(_mm512_and_si512(x, _mm512_set1_epi32(static_cast<int>(0xffff0000U))));
  }
  static F32 from_e5m2(const void* p) noexcept {
    const __m256i x = _mm256_cvtepu8_epi16(_mm_loadu_si128(static_cast<const __m128i*>(p)));
    return {_mm512_cvtph_ps(_mm256_slli_epi16(x, 8))};
  }
  static F32 from_e4m3(const void* p) noexcept {
    // As float16 the same bits, moved, are 2^-8 of the value; but all ones are NaN.
    const __m256i x = _mm256_cvtepi8_epi16(_mm_loadu_si128(static_cast<const __m128i*>(p)));
    const __m256i largest = _mm256_set1_epi16(0x3f80);
    const __m256i magnitude = _mm256_and_si256(_mm256_slli_epi16(x, 7), largest);
    const __m256i sign = _mm256_and_si256(x, _mm256_set1_epi16(static_cast<short>(0x8000)));
    const __m256i nan =
        _mm256_and_si256(_mm256_cmpeq_epi16(magnitude, largest), _mm256_set1_epi16(0x7e00));
    const __m256i bits = _mm256_or_si256(_mm256_or_si256(magnitude, sign), nan);
    return {_mm512_mul_ps(_mm512_cvtph_ps(bits), _mm512_set1_ps(256.0F))};
  }
  static F32 from_i8(const void* p) noexcept {
    const __m128i x = _mm_loadu_si128(static_cast<const __m128i*>(p));
    return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(x))};
  }
  /// 32 elements, two a byte: the even ones in `even`, the odd ones in `odd`.
  static void from_i4_pairs(const void* p, F32& even, F32& odd) noexcept {
    const __m512i x = _mm512_cvtepi8_epi32(_mm_loadu_si128(static_cast<const __m128i*>(p)));
    even.v = _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(x, 28), 28));
    odd.v = _mm512_cvtepi32_ps(_mm512_srai_epi32(x, 4));
  }
  /// To nearest, ties to even.
  void to_f16(void* p) const noexcept {
    _mm256_storeu_si256(static_cast<__m256i*>(p),
                        _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }

 private:
  /// In each quarter of the result, lane i is the sum of that quarter of x[i].
  static __m512 four_sums(const F32* x) noexcept {
    const __m512 a =
        _mm512_add_ps(_mm512_unpacklo_ps(x[0].v, x[1].v), _mm512_unpackhi_ps(x[0].v, x[1].v));
    const __m512 b =
        _mm512_add_ps(_mm512_unpacklo_ps(x[2].v, x[3].v), _mm512_unpackhi_ps(x[2].v, x[3].v));
    const __m512d c = _mm512_castps_pd(a), d = _mm512_castps_pd(b);
    return _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(c, d)),
                         _mm512_castpd_ps(_mm512_unpackhi_pd(c, d)));
  }
  /// The quarters a0 + a1, a2 + a3, b0 + b1, b2 + b3.
  static __m512 quarter_sums(__m512 a, __m512 b) noexcept {
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
  }
};

/// 16 integers of 32 bits.
struct I32 {
  static constexpr int width = 16;
  __m512i v;

  static I32 zero() noexcept { return {_mm512_setzero_si512()}; }
  static I32 all(std::int32_t x) noexcept { return {_mm512_set1_epi32(x)}; }
  static I32 load(const std::int32_t* p) noexcept { return {_mm512_loadu_si512(p)}; }
  void store(std::int32_t* p) const noexcept { _mm512_storeu_si512(p, v); }
  friend I32 operator+(I32 a, I32 b) noexcept { return {_mm512_add_epi32(a.v, b.v)}; }
  friend I32 operator-(I32 a, I32 b) noexcept { return {_mm512_sub_epi32(a.v, b.v)}; }
  friend I32 operator&(I32 a, I32 b) noexcept { return {_mm512_and_si512(a.v, b.v)}; }
  friend I32 operator|(I32 a, I32 b) noexcept { return {_mm512_or_si512(a.v, b.v)}; }
  friend I32 min(I32 a, I32 b) noexcept { return {_mm512_min_epi32(a.v, b.v)}; }
  /// Zeros come in.
  template <int n>
  [[nodiscard]] I32 shifted_right() const noexcept {
    return {_mm512_srli_epi32(v, n)};
  }
  friend F32 to_float(I32 a) noexcept { return {_mm512_cvtepi32_ps(a.v)}; }
  /// The bits of a float, and back.
  static I32 bits_of(F32 a) noexcept { return {_mm512_castps_si512(a.v)}; }
  [[nodiscard]] F32 as_float() const noexcept { return {_mm512_castsi512_ps(v)}; }
  /// `yes` where a > b, else `no`.
  friend F32 select_greater(I32 a, I32 b, F32 yes, F32 no) noexcept {
    return {_mm512_mask_blend_ps(_mm512_cmpgt_epi32_mask(a.v, b.v), no.v, yes.v)};
  }
  friend I32 select_greater(I32 a, I32 b, I32 yes, I32 no) noexcept {
    return {_mm512_mask_blend_epi32(_mm512_cmpgt_epi32_mask(a.v, b.v), no.v, yes.v)};
  }
  /// Writes 16 integers of 16 bits; the values are 0 to 65,535.
  void store_u16(void* p) const noexcept {
    _mm256_storeu_si256(static_cast<__m256i*>(p), _mm512_cvtepi32_epi16(v));
  }
  /// Writes 16 bytes; the values are 0 to 255.
  void store_u8(void* p) const noexcept {
    _mm_storeu_si128(static_cast<__m128i*>(p), _mm512_cvtepi32_epi8(v));
  }
  /// Lane i of the result is the sum of the lanes of x[i].
  static I32 sums(const I32 (&x)[16]) noexcept {
    const __m512i a = four_sums(x), b = four_sums(x + 4), c = four_sums(x + 8),
                  d = four_sums(x + 12);
    const __m512i ab = quarter_sums(a, b), cd = quarter_sums(c, d);
    return {quarter_sums(ab, cd)};
  }

 private:
  /// As those of F32.
  static __m512i four_sums(const I32* x) noexcept {
    const __m512i a = _mm512_add_epi32(_mm512_unpacklo_epi32(x[0].v, x[1].v),
                                       _mm512_unpackhi_epi32(x[0].v, x[1].v));
    const __m512i b = _mm512_add_epi32(_mm512_unpacklo_epi32(x[2].v, x[3].v),
                                       _mm512_unpackhi_epi32(x[2].v, x[3].v));
    return _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
  }
  static __m512i quarter_sums(__m512i a, __m512i b) noexcept {
    return _mm512_add_epi32(_mm512_shuffle_i32x4(a, b, 0x88), _mm512_shuffle_i32x4(a, b, 0xdd));
  }
};

/// To nearest, ties to even; the values fit.
inline I32 to_int(F32 a) noexcept { return {_mm512_cvtps_epi32(a.v)}; }

/// 32 integers of 16 bits.
struct I16 {
  static constexpr int width = 32;
  __m512i v;

  static I16 load(const std::int16_t* p) noexcept { return {_mm512_loadu_si512(p)}; }
  /// `pair` in every pair of lanes.
  static I16 all_pairs(std::int32_t pair) noexcept { return {_mm512_set1_epi32(pair)}; }
  static I16 from_i8(const void* p) noexcept {
    return {_mm512_cvtepi8_epi16(_mm256_loadu_si256(static_cast<const __m256i*>(p)))};
  }
  /// 64 elements, two a byte: the even ones in `even`, the odd ones in `odd`.
  static void from_i4_pairs(const void* p, I16& even, I16& odd) noexcept {
    const __m512i x = _mm512_cvtepi8_epi16(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
    even.v = _mm512_srai_epi16(_mm512_slli_epi16(x, 12), 12);
    odd.v = _mm512_srai_epi16(x, 4);
  }
  /// Sums of the products of lanes 2i and 2i + 1, added to c.
  friend I32 dot_pairs(I16 a, I16 b, I32 c) noexcept {
#if defined(__AVX512VNNI__)
    return {_mm512_dpwssd_epi32(c.v, a.v, b.v)};
#else
    return {_mm512_add_epi32(c.v, _mm512_madd_epi16(a.v, b.v))};
#endif
  }
  /// a and b lane by lane, in pairs: channels `zip_channel(0, i)` in `low`, `zip_channel(1, i)` in
  /// `high`.
  static void zip(I16 a, I16 b, I16& low, I16& high) noexcept {
    low.v = _mm512_unpacklo_epi16(a.v, b.v);
    high.v = _mm512_unpackhi_epi16(a.v, b.v);
  }
  static constexpr int zip_channel(int half, int i) noexcept {
    return i / 4 * 8 + half * 4 + i % 4;
  }
};

#if defined(__AVX512BF16__)
#define PAGEDKV_SIMD_BF16
/// 32 bfloat16, for products alone.
struct BF16 {
  static constexpr int width = 32;
  __m512i v;

  static BF16 load(const void* p) noexcept { return {_mm512_loadu_si512(p)}; }
  /// Sums of the products of lanes 2i and 2i + 1, added to c; subnormal numbers are taken for 0.
  friend F32 dot_pairs(BF16 a, BF16 b, F32 c) noexcept {
    return {_mm512_dpbf16_ps(c.v, std::bit_cast<__m512bh>(a.v), std::bit_cast<__m512bh>(b.v))};
  }
};
#endif

/// 8 doubles.
struct F64 {
  using Scalar = double;
  static constexpr int width = 8;
  static constexpr int num_registers = 32;
  __m512d v;

  static F64 zero() noexcept { return {_mm512_setzero_pd()}; }
  static F64 all(double x) noexcept { return {_mm512_set1_pd(x)}; }
  static F64 load(const double* p) noexcept { return {_mm512_loadu_pd(p)}; }
  void store(double* p) const noexcept { _mm512_storeu_pd(p, v); }

  friend F64 operator+(F64 a, F64 b) noexcept { return {_mm512_add_pd(a.v, b.v)}; }
  friend F64 operator-(F64 a, F64 b) noexcept { return {_mm512_sub_pd(a.v, b.v)}; }
  friend F64 operator*(F64 a, F64 b) noexcept { return {_mm512_mul_pd(a.v, b.v)}; }
  friend F64 operator/(F64 a, F64 b) noexcept { return {_mm512_div_pd(a.v, b.v)}; }
  friend F64 fma(F64 a, F64 b, F64 c) noexcept { return {_mm512_fmadd_pd(a.v, b.v, c.v)}; }
  friend F64 max(F64 a, F64 b) noexcept { return {_mm512_max_pd(a.v, b.v)}; }
  friend F64 min(F64 a, F64 b) noexcept { return {_mm512_min_pd(a.v, b.v)}; }
  friend F64 abs(F64 a) noexcept { return {_mm512_andnot_pd(_mm512_set1_pd(-0.0), a.v)}; }
  friend F64 round(F64 a) noexcept {
    return {_mm512_roundscale_pd(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
  }
  friend F64 select_less(F64 a, F64 b, F64 yes, F64 no) noexcept {
    return {_mm512_mask_blend_pd(_mm512_cmp_pd_mask(a.v, b.v, _CMP_LT_OQ), no.v, yes.v)};
  }
  /// a * 2^n for integral n, -1022 <= n <= 1023.
  friend F64 scale_by_power_of_two(F64 a, F64 n) noexcept { return {_mm512_scalef_pd(a.v, n.v)}; }
  static F64 sums(const F64 (&x)[8]) noexcept {
    const __m512d ab = quarter_sums(two_sums(x), two_sums(x + 2));
    const __m512d cd = quarter_sums(two_sums(x + 4), two_sums(x + 6));
    return {quarter_sums(ab, cd)};
  }

 private:
  /// In each quarter of the result, lane i is the sum of that quarter of x[i].
  static __m512d two_sums(const F64* x) noexcept {
    return _mm512_add_pd(_mm512_unpacklo_pd(x[0].v, x[1].v), _mm512_unpackhi_pd(x[0].v, x[1].v));
  }
  /// The quarters a0 + a1, a2 + a3, b0 + b1, b2 + b3.
  static __m512d quarter_sums(__m512d a, __m512d b) noexcept {
    return _mm512_add_pd(_mm512_shuffle_f64x2(a, b, 0x88), _mm512_shuffle_f64x2(a, b, 0xdd));
  }
};

}  // namespace pagedkv::inline v0_1::cpu::PAGEDKV_ISA_NAMESPACE

#endif
