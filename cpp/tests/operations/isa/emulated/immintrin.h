#pragma once

// AVX-512 by SIMDe's plain definitions, for processors that do not have it: `.ci/avx512` compiles
// the tests against this header, with `_mm512_` in avx512.hpp replaced by `simde_mm512_`. What
// SIMDe 0.7.4 lacks is here, made of halves.

#include_next <immintrin.h>

#include <cstdint>
#include <cstring>

// The order is SIMDe's.
#include <simde/x86/avx512.h>

using Vector512f = simde__m512;
using Vector512i = simde__m512i;

template <class Whole, class Half>
inline Whole simde_join(Half low, Half high) {
  static_assert(sizeof(Whole) == 2 * sizeof(Half));
  Whole x;
  std::memcpy(&x, &low, sizeof low);
  std::memcpy(reinterpret_cast<char*>(&x) + sizeof low, &high, sizeof high);
  return x;
}

template <class Half, class Whole>
inline Half simde_half(const Whole& x, int i) {
  static_assert(sizeof(Whole) == 2 * sizeof(Half));
  Half half;
  std::memcpy(&half, reinterpret_cast<const char*>(&x) + i * sizeof half, sizeof half);
  return half;
}

inline Vector512f simde_mm512_cvtepi32_ps(Vector512i a) {
  return simde_join<Vector512f>(_mm256_cvtepi32_ps(simde_half<__m256i>(a, 0)),
                                _mm256_cvtepi32_ps(simde_half<__m256i>(a, 1)));
}
inline Vector512i simde_mm512_cvtepi8_epi32(__m128i a) {
  return simde_join<Vector512i>(_mm256_cvtepi8_epi32(a),
                                _mm256_cvtepi8_epi32(_mm_srli_si128(a, 8)));
}
inline Vector512i simde_mm512_cvtepu16_epi32(__m256i a) {
  return simde_join<Vector512i>(_mm256_cvtepu16_epi32(simde_half<__m128i>(a, 0)),
                                _mm256_cvtepu16_epi32(simde_half<__m128i>(a, 1)));
}
inline Vector512f simde_mm512_cvtph_ps(__m256i a) {
  return simde_join<Vector512f>(_mm256_cvtph_ps(simde_half<__m128i>(a, 0)),
                                _mm256_cvtph_ps(simde_half<__m128i>(a, 1)));
}
inline Vector512i simde_mm512_cvtps_epi32(Vector512f a) {
  return simde_join<Vector512i>(_mm256_cvtps_epi32(simde_half<__m256>(a, 0)),
                                _mm256_cvtps_epi32(simde_half<__m256>(a, 1)));
}
inline __m256i simde_mm512_cvtps_ph(Vector512f a, int /*to nearest, ties to even*/) {
  return simde_join<__m256i>(_mm256_cvtps_ph(simde_half<__m256>(a, 0), _MM_FROUND_TO_NEAREST_INT),
                             _mm256_cvtps_ph(simde_half<__m256>(a, 1), _MM_FROUND_TO_NEAREST_INT));
}
inline Vector512i simde_mm512_srai_epi32(Vector512i a, unsigned n) {
  return simde_join<Vector512i>(_mm256_srai_epi32(simde_half<__m256i>(a, 0), static_cast<int>(n)),
                                _mm256_srai_epi32(simde_half<__m256i>(a, 1), static_cast<int>(n)));
}
template <class Narrow, class Whole>
inline Whole simde_truncated(Vector512i a) {
  std::int32_t x[16];
  Narrow y[16];
  std::memcpy(x, &a, sizeof x);
  for (int i = 0; i < 16; ++i) y[i] = static_cast<Narrow>(x[i]);
  Whole whole;
  static_assert(sizeof whole == sizeof y);
  std::memcpy(&whole, y, sizeof y);
  return whole;
}
inline __m256i simde_mm512_cvtepi32_epi16(Vector512i a) {
  return simde_truncated<std::int16_t, __m256i>(a);
}
inline __m128i simde_mm512_cvtepi32_epi8(Vector512i a) {
  return simde_truncated<std::int8_t, __m128i>(a);
}

// From here on the names of the compiler mean SIMDe's types.
#define __m512 simde__m512
#define __m512i simde__m512i
#define __m512d simde__m512d
#define __m512bh simde__m512bh
