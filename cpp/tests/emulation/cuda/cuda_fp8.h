#pragma once

// A stand-in for the header of this name.

#include "cpp/tests/emulation/cuda/cuda_bf16.h"
#include "cpp/tests/emulation/cuda/cuda_fp16.h"

using __nv_fp8_storage_t = unsigned char;
using __nv_fp8x2_storage_t = unsigned short;

enum __nv_saturation_t { __NV_NOSAT, __NV_SATFINITE };
enum __nv_fp8_interpretation_t { __NV_E4M3, __NV_E5M2 };

inline __nv_fp8_storage_t __nv_cvt_float_to_fp8(float x, __nv_saturation_t saturate,
                                                __nv_fp8_interpretation_t kind) {
  using namespace pagedkv::simt;
  const bool finite = saturate == __NV_SATFINITE;
  if (x != x) return 0x7f;
  return static_cast<__nv_fp8_storage_t>(kind == __NV_E4M3 ? Float8E4M3::encode(x, finite)
                                                           : Float8E5M2::encode(x, finite));
}
inline __nv_fp8x2_storage_t __nv_cvt_float2_to_fp8x2(float2 x, __nv_saturation_t saturate,
                                                     __nv_fp8_interpretation_t kind) {
  return static_cast<__nv_fp8x2_storage_t>(__nv_cvt_float_to_fp8(x.x, saturate, kind) |
                                           __nv_cvt_float_to_fp8(x.y, saturate, kind) << 8);
}
/// Exact: float16 holds every value of both.
inline __half_raw __nv_cvt_fp8_to_halfraw(__nv_fp8_storage_t x, __nv_fp8_interpretation_t kind) {
  using namespace pagedkv::simt;
  return __half(kind == __NV_E4M3 ? Float8E4M3::decode(x) : Float8E5M2::decode(x));
}
inline __half2_raw __nv_cvt_fp8x2_to_halfraw2(__nv_fp8x2_storage_t x,
                                              __nv_fp8_interpretation_t kind) {
  const auto low = __nv_cvt_fp8_to_halfraw(static_cast<__nv_fp8_storage_t>(x & 0xff), kind);
  const auto high = __nv_cvt_fp8_to_halfraw(static_cast<__nv_fp8_storage_t>(x >> 8), kind);
  return {low.x, high.x};
}
