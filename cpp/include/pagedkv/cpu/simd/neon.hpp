#pragma once

// Advanced SIMD of 64-bit Arm: 4 floats, 2 doubles, 8 words a vector.

#include "pagedkv/cpu/simd/isa_namespace.hpp"

#if defined(PAGEDKV_SIMD_NEON)

#include <arm_neon.h>

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace pagedkv::inline v0_1::cpu::PAGEDKV_ISA_NAMESPACE {

/// 4 bytes as words, the sign of each kept.
inline int16x4_t load_4_bytes(const void* p) noexcept {
  std::uint32_t x;
  std::memcpy(&x, p, sizeof x);
  return vget_low_s16(vmovl_s8(vreinterpret_s8_u32(vdup_n_u32(x))));
}

/// 4 words, or 8.
inline uint16x4_t load_4_words(const void* p) noexcept {
  return vld1_u16(static_cast<const std::uint16_t*>(p));
}
inline uint16x8_t load_8_words(const void* p) noexcept {
  return vld1q_u16(static_cast<const std::uint16_t*>(p));
}

struct F32 {
  using Scalar = float;
  static constexpr int width = 4;
  static constexpr int num_registers = 32;
  float32x4_t v;

  static F32 zero() noexcept { return {vdupq_n_f32(0)}; }
  static F32 all(float x) noexcept { return {vdupq_n_f32(x)}; }
  static F32 load(const float* p) noexcept { return {vld1q_f32(p)}; }
  void store(float* p) const noexcept { vst1q_f32(p, v); }

  friend F32 operator+(F32 a, F32 b) noexcept { return {vaddq_f32(a.v, b.v)}; }
  friend F32 operator-(F32 a, F32 b) noexcept { return {vsubq_f32(a.v, b.v)}; }
  friend F32 operator*(F32 a, F32 b) noexcept { return {vmulq_f32(a.v, b.v)}; }
  friend F32 operator/(F32 a, F32 b) noexcept { return {vdivq_f32(a.v, b.v)}; }
  /// a * b + c
  friend F32 fma(F32 a, F32 b, F32 c) noexcept { return {vfmaq_f32(c.v, a.v, b.v)}; }
  // FMAX and FMIN would give NaN where only a is NaN.
  friend F32 max(F32 a, F32 b) noexcept { return {vbslq_f32(vcgtq_f32(a.v, b.v), a.v, b.v)}; }
  friend F32 min(F32 a, F32 b) noexcept { return {vbslq_f32(vcltq_f32(a.v, b.v), a.v, b.v)}; }
  friend F32 abs(F32 a) noexcept { return {vabsq_f32(a.v)}; }
  friend F32 round(F32 a) noexcept { return {vrndnq_f32(a.v)}; }
  /// `yes` where a < b, else `no`; what is not selected may be anything.
  friend F32 select_less(F32 a, F32 b, F32 yes, F32 no) noexcept {
    return {vbslq_f32(vcltq_f32(a.v, b.v), yes.v, no.v)};
  }
  /// a * 2^n for integral n, -126 <= n <= 127.
  friend F32 scale_by_power_of_two(F32 a, F32 n) noexcept {
    const int32x4_t bits = vshlq_n_s32(vaddq_s32(vcvtnq_s32_f32(n.v), vdupq_n_s32(127)), 23);
    return {vmulq_f32(a.v, vreinterpretq_f32_s32(bits))};
  }

  /// Lane i of the result is the sum of the lanes of x[i].
  static F32 sums(const F32 (&x)[4]) noexcept {
    return {vpaddq_f32(vpaddq_f32(x[0].v, x[1].v), vpaddq_f32(x[2].v, x[3].v))};
  }

  static F32 from_f16(const void* p) noexcept {
    return {vcvt_f32_f16(vreinterpret_f16_u16(load_4_words(p)))};
  }
  static F32 from_bf16(const void* p) noexcept {
    return {vreinterpretq_f32_u32(vshlq_n_u32(vmovl_u16(load_4_words(p)), 16))};
  }
  /// 8 elements: the even ones in `even`, the odd ones in `odd`.
  static void from_bf16_pairs(const void* p, F32& even, F32& odd) noexcept {
    const uint32x4_t x = vreinterpretq_u32_u16(load_8_words(p));
    even.v = vreinterpretq_f32_u32(vshlq_n_u32(x, 16));
    odd.v = vreinterpretq_f32_u32(vandq_u32(x, vdupq_n_u32(0xffff0000U)));
  }
  static F32 from_e5m2(const void* p) noexcept {
    return {vcvt_f32_f16(vreinterpret_f16_s16(vshl_n_s16(load_4_bytes(p), 8)))};
  }
  static F32 from_e4m3(const void* p) noexcept {
    // As float16 the same bits, moved, are 2^-8 of the value; but all ones are NaN.
    const uint16x4_t x = vreinterpret_u16_s16(load_4_bytes(p)), largest = vdup_n_u16(0x3f80);
    const uint16x4_t magnitude = vand_u16(vshl_n_u16(x, 7), largest);
    const uint16x4_t sign = vand_u16(x, vdup_n_u16(0x8000));
    const uint16x4_t nan = vand_u16(vceq_u16(magnitude, largest), vdup_n_u16(0x7e00));
    const uint16x4_t bits = vorr_u16(vorr_u16(magnitude, sign), nan);
    return {vmulq_n_f32(vcvt_f32_f16(vreinterpret_f16_u16(bits)), 256.0F)};
  }
  static F32 from_i8(const void* p) noexcept { return {vcvtq_f32_s32(vmovl_s16(load_4_bytes(p)))}; }
  /// 8 elements, two a byte: the even ones in `even`, the odd ones in `odd`.
  static void from_i4_pairs(const void* p, F32& even, F32& odd) noexcept {
    const int32x4_t x = vmovl_s16(load_4_bytes(p));
    even.v = vcvtq_f32_s32(vshrq_n_s32(vshlq_n_s32(x, 28), 28));
    odd.v = vcvtq_f32_s32(vshrq_n_s32(x, 4));
  }
  /// To nearest, ties to even.
  void to_f16(void* p) const noexcept {
    vst1_u16(static_cast<std::uint16_t*>(p), vreinterpret_u16_f16(vcvt_f16_f32(v)));
  }
};

/// 4 integers of 32 bits.
struct I32 {
  static constexpr int width = 4;
  int32x4_t v;

  static I32 zero() noexcept { return {vdupq_n_s32(0)}; }
  static I32 all(std::int32_t x) noexcept { return {vdupq_n_s32(x)}; }
  static I32 load(const std::int32_t* p) noexcept { return {vld1q_s32(p)}; }
  void store(std::int32_t* p) const noexcept { vst1q_s32(p, v); }
  friend I32 operator+(I32 a, I32 b) noexcept { return {vaddq_s32(a.v, b.v)}; }
  friend I32 operator-(I32 a, I32 b) noexcept { return {vsubq_s32(a.v, b.v)}; }
  friend I32 operator&(I32 a, I32 b) noexcept { return {vandq_s32(a.v, b.v)}; }
  friend I32 operator|(I32 a, I32 b) noexcept { return {vorrq_s32(a.v, b.v)}; }
  friend I32 min(I32 a, I32 b) noexcept { return {vminq_s32(a.v, b.v)}; }
  /// Zeros come in.
  template <int n>
  [[nodiscard]] I32 shifted_right() const noexcept {
    return {vreinterpretq_s32_u32(vshrq_n_u32(vreinterpretq_u32_s32(v), n))};
  }
  friend F32 to_float(I32 a) noexcept { return {vcvtq_f32_s32(a.v)}; }
  /// The bits of a float, and back.
  static I32 bits_of(F32 a) noexcept { return {vreinterpretq_s32_f32(a.v)}; }
  [[nodiscard]] F32 as_float() const noexcept { return {vreinterpretq_f32_s32(v)}; }
  /// `yes` where a > b, else `no`.
  friend F32 select_greater(I32 a, I32 b, F32 yes, F32 no) noexcept {
    return {vbslq_f32(vcgtq_s32(a.v, b.v), yes.v, no.v)};
  }
  friend I32 select_greater(I32 a, I32 b, I32 yes, I32 no) noexcept {
    return {vbslq_s32(vcgtq_s32(a.v, b.v), yes.v, no.v)};
  }
  /// Writes 4 integers of 16 bits; the values are 0 to 65,535.
  void store_u16(void* p) const noexcept { vst1_u16(static_cast<std::uint16_t*>(p), words()); }
  /// Writes 4 bytes; the values are 0 to 255.
  void store_u8(void* p) const noexcept {
    const uint8x8_t bytes = vmovn_u16(vcombine_u16(words(), words()));
    const std::uint32_t four = vget_lane_u32(vreinterpret_u32_u8(bytes), 0);
    std::memcpy(p, &four, sizeof four);
  }
  /// Lane i of the result is the sum of the lanes of x[i].
  static I32 sums(const I32 (&x)[4]) noexcept {
    return {vpaddq_s32(vpaddq_s32(x[0].v, x[1].v), vpaddq_s32(x[2].v, x[3].v))};
  }

 private:
  [[nodiscard]] uint16x4_t words() const noexcept { return vmovn_u32(vreinterpretq_u32_s32(v)); }
};

/// To nearest, ties to even; the values fit.
inline I32 to_int(F32 a) noexcept { return {vcvtnq_s32_f32(a.v)}; }

/// 8 integers of 16 bits.
struct I16 {
  static constexpr int width = 8;
  int16x8_t v;

  static I16 load(const std::int16_t* p) noexcept { return {vld1q_s16(p)}; }
  /// `pair` in every pair of lanes.
  static I16 all_pairs(std::int32_t pair) noexcept {
    return {vreinterpretq_s16_s32(vdupq_n_s32(pair))};
  }
  static I16 from_i8(const void* p) noexcept {
    return {vmovl_s8(vld1_s8(static_cast<const std::int8_t*>(p)))};
  }
  /// 16 elements, two a byte: the even ones in `even`, the odd ones in `odd`.
  static void from_i4_pairs(const void* p, I16& even, I16& odd) noexcept {
    const int16x8_t x = vmovl_s8(vld1_s8(static_cast<const std::int8_t*>(p)));
    even.v = vshrq_n_s16(vshlq_n_s16(x, 12), 12);
    odd.v = vshrq_n_s16(x, 4);
  }
  /// Sums of the products of lanes 2i and 2i + 1, added to c.
  friend I32 dot_pairs(I16 a, I16 b, I32 c) noexcept {
    const int32x4_t low = vmull_s16(vget_low_s16(a.v), vget_low_s16(b.v));
    return {vaddq_s32(c.v, vpaddq_s32(low, vmull_high_s16(a.v, b.v)))};
  }
  /// a and b lane by lane, in pairs: channels `zip_channel(0, i)` in `low`, `zip_channel(1, i)` in
  /// `high`.
  static void zip(I16 a, I16 b, I16& low, I16& high) noexcept {
    low.v = vzip1q_s16(a.v, b.v);
    high.v = vzip2q_s16(a.v, b.v);
  }
  static constexpr int zip_channel(int half, int i) noexcept { return half * 4 + i; }
};

/// 2 doubles.
struct F64 {
  using Scalar = double;
  static constexpr int width = 2;
  static constexpr int num_registers = 32;
  float64x2_t v;

  static F64 zero() noexcept { return {vdupq_n_f64(0)}; }
  static F64 all(double x) noexcept { return {vdupq_n_f64(x)}; }
  static F64 load(const double* p) noexcept { return {vld1q_f64(p)}; }
  void store(double* p) const noexcept { vst1q_f64(p, v); }

  friend F64 operator+(F64 a, F64 b) noexcept { return {vaddq_f64(a.v, b.v)}; }
  friend F64 operator-(F64 a, F64 b) noexcept { return {vsubq_f64(a.v, b.v)}; }
  friend F64 operator*(F64 a, F64 b) noexcept { return {vmulq_f64(a.v, b.v)}; }
  friend F64 operator/(F64 a, F64 b) noexcept { return {vdivq_f64(a.v, b.v)}; }
  friend F64 fma(F64 a, F64 b, F64 c) noexcept { return {vfmaq_f64(c.v, a.v, b.v)}; }
  friend F64 max(F64 a, F64 b) noexcept { return {vbslq_f64(vcgtq_f64(a.v, b.v), a.v, b.v)}; }
  friend F64 min(F64 a, F64 b) noexcept { return {vbslq_f64(vcltq_f64(a.v, b.v), a.v, b.v)}; }
  friend F64 abs(F64 a) noexcept { return {vabsq_f64(a.v)}; }
  friend F64 round(F64 a) noexcept { return {vrndnq_f64(a.v)}; }
  friend F64 select_less(F64 a, F64 b, F64 yes, F64 no) noexcept {
    return {vbslq_f64(vcltq_f64(a.v, b.v), yes.v, no.v)};
  }
  /// a * 2^n for integral n, -1022 <= n <= 1023.
  friend F64 scale_by_power_of_two(F64 a, F64 n) noexcept {
    const int64x2_t bits = vshlq_n_s64(vaddq_s64(vcvtnq_s64_f64(n.v), vdupq_n_s64(1023)), 52);
    return {vmulq_f64(a.v, vreinterpretq_f64_s64(bits))};
  }
  static F64 sums(const F64 (&x)[2]) noexcept { return {vpaddq_f64(x[0].v, x[1].v)}; }
};

}  // namespace pagedkv::inline v0_1::cpu::PAGEDKV_ISA_NAMESPACE

#endif
