#pragma once

// dim3 and the small vectors, aligned as on the device.

#include "cpp/tests/emulation/simt.hpp"

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x = 1, y = 1, z = 1;

  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
  constexpr dim3(pagedkv::simt::Dim3 d) : x(d.x), y(d.y), z(d.z) {}
  constexpr operator pagedkv::simt::Dim3() const { return {x, y, z}; }
};

#define PAGEDKV_VECTORS(T, name, align2, align4)             \
  struct alignas(align2) name##2 { T x, y; };                \
  struct name##3 { T x, y, z; };                             \
  struct alignas(align4) name##4 { T x, y, z, w; };          \
  inline name##2 make_##name##2(T x, T y) { return {x, y}; } \
  inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }

PAGEDKV_VECTORS(char, char, 2, 4)
PAGEDKV_VECTORS(unsigned char, uchar, 2, 4)
PAGEDKV_VECTORS(short, short, 4, 8)
PAGEDKV_VECTORS(unsigned short, ushort, 4, 8)
PAGEDKV_VECTORS(int, int, 8, 16)
PAGEDKV_VECTORS(float, float, 8, 16)
PAGEDKV_VECTORS(long long, longlong, 16, 16)
PAGEDKV_VECTORS(double, double, 16, 16)

#undef PAGEDKV_VECTORS

struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
