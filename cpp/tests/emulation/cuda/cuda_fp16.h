#pragma once

// A stand-in for the header of this name.

#include <array>
#include <cmath>

#include "cpp/tests/emulation/cuda/cuda_runtime.h"
#include "cpp/tests/emulation/cuda/float_bits.h"

struct __half_raw {
  unsigned short x;
};
struct __half2_raw {
  unsigned short x, y;
};

struct __half {
  __half() = default;
  __half(__half_raw raw) : bits(raw.x) {}
  explicit __half(float x) : bits(static_cast<unsigned short>(pagedkv::simt::Float16::encode(x))) {}
  operator __half_raw() const { return {bits}; }

  unsigned short bits;
};
using half = __half;

struct alignas(4) __half2 {
  __half2() = default;
  __half2(__half a, __half b) : x(a), y(b) {}
  __half2(__half2_raw raw) : x(__half_raw{raw.x}), y(__half_raw{raw.y}) {}
  operator __half2_raw() const { return {x.bits, y.bits}; }

  __half x, y;
};
using half2 = __half2;

namespace pagedkv::simt {
/// All 65,536 values: decoded once, because tensor cores decode many.
template <class Format>
const float* decoded() {
  static const auto table = [] {
    std::array<float, 65536> values;
    for (unsigned i = 0; i < values.size(); ++i) values[i] = Format::decode(i);
    return values;
  }();
  return table.data();
}
}  // namespace pagedkv::simt

inline float __half2float(__half x) {
  static const float* const table = pagedkv::simt::decoded<pagedkv::simt::Float16>();
  return table[x.bits];
}
inline __half __float2half_rn(float x) { return __half(x); }
inline __half __float2half(float x) { return __half(x); }
inline unsigned short __half_as_ushort(__half x) { return x.bits; }
inline __half __ushort_as_half(unsigned short bits) { return __half_raw{bits}; }
inline __half2 __halves2half2(__half a, __half b) { return {a, b}; }
inline __half2 __half2half2(__half a) { return {a, a}; }
inline __half2 __float2half2_rn(float x) { return {__half(x), __half(x)}; }
inline __half2 __floats2half2_rn(float x, float y) { return {__half(x), __half(y)}; }
inline __half2 __float22half2_rn(float2 x) { return {__half(x.x), __half(x.y)}; }
inline float2 __half22float2(__half2 x) { return {__half2float(x.x), __half2float(x.y)}; }
inline __half __low2half(__half2 x) { return x.x; }
inline __half __high2half(__half2 x) { return x.y; }
inline float __low2float(__half2 x) { return __half2float(x.x); }
inline float __high2float(__half2 x) { return __half2float(x.y); }
inline bool __hisnan(__half x) { return (x.bits & 0x7fff) > 0x7c00; }
inline __half __hadd(__half a, __half b) { return __half(__half2float(a) + __half2float(b)); }
inline __half __hmul(__half a, __half b) { return __half(__half2float(a) * __half2float(b)); }
inline __half2 __hadd2(__half2 a, __half2 b) { return {__hadd(a.x, b.x), __hadd(a.y, b.y)}; }
inline __half2 __hsub2(__half2 a, __half2 b) {
  return {__half(__half2float(a.x) - __half2float(b.x)),
          __half(__half2float(a.y) - __half2float(b.y))};
}
inline __half2 __hmul2(__half2 a, __half2 b) { return {__hmul(a.x, b.x), __hmul(a.y, b.y)}; }
/// Rounded once: the sum of floats is exact enough for that only in doubles.
inline __half __hfma(__half a, __half b, __half c) {
  const double exact = static_cast<double>(__half2float(a)) * __half2float(b) + __half2float(c);
  return __half(static_cast<float>(exact));
}
inline __half2 __hfma2(__half2 a, __half2 b, __half2 c) {
  return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)};
}
