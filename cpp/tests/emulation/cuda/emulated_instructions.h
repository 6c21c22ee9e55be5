#pragma once

// What cuda/kernels/instructions.cuh declares, by the definition of each instruction in the manual
// of PTX: lane by lane, element by element.

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

#include "cpp/tests/emulation/cuda/cuda_bf16.h"
#include "cpp/tests/emulation/cuda/cuda_fp16.h"
#include "cpp/tests/emulation/simt.hpp"

#define PAGEDKV_PLACE const char *file = __builtin_FILE(), int line = __builtin_LINE()

namespace pagedkv::cuda {

namespace emulated {

inline constexpr std::uint32_t kAllLanes = 0xffffffffU;

inline void expect_aligned(const void* p, std::size_t bytes, const char* file, int line) {
  if (reinterpret_cast<std::uintptr_t>(p) % bytes != 0) {
    throw simt::Error("an address at " + simt::Place{file, line}.text() + " is not a multiple of " +
                      std::to_string(bytes));
  }
}

inline float decode(std::uint16_t bits, __half) { return __half2float(__ushort_as_half(bits)); }
inline float decode(std::uint16_t bits, __nv_bfloat16) {
  return __bfloat162float(__ushort_as_bfloat16(bits));
}
template <class T>
float element(std::uint32_t pair, unsigned which) {
  return decode(static_cast<std::uint16_t>(pair >> (16 * which)), T{});
}

/// D += A B, for A `[16, k]` and B `[k, 8]`, which `set_a` and `set_b` fill from each lane's
/// registers.
template <unsigned k, class Lanes, class A, class B>
void multiply(const Lanes& lanes, A&& set_a, B&& set_b) {
  std::array<std::array<float, k>, 16> a;
  std::array<std::array<float, 8>, k> b;
  for (unsigned lane = 0; lane < 32; ++lane) {
    set_a(a, *lanes[lane], lane / 4, lane % 4);
    set_b(b, *lanes[lane], lane / 4, lane % 4);
  }
  for (unsigned row = 0; row < 16; ++row) {
    std::array<float, 8> sums{};
    for (unsigned i = 0; i < k; ++i) {
      for (unsigned column = 0; column < 8; ++column) sums[column] += a[row][i] * b[i][column];
    }
    for (unsigned column = 0; column < 8; ++column) {
      lanes[row % 8 * 4 + column / 2]->d[row / 8 * 2 + column % 2] += sums[column];
    }
  }
}

template <unsigned count, bool transposed>
void load_matrices(std::uint32_t (&to)[count], const void* row, const char* file, int line) {
  struct Operands {
    std::uint32_t* to;
    const void* row;
  } operands{to, row};
  if (simt::self().lane() < 8 * count) expect_aligned(row, 16, file, line);
  const auto combine = [](const simt::Lanes<Operands>& lanes) {
    for (unsigned matrix = 0; matrix < count; ++matrix) {
      std::array<std::array<std::uint16_t, 8>, 8> m;
      for (unsigned r = 0; r < 8; ++r) std::memcpy(&m[r], lanes[matrix * 8 + r]->row, 16);
      for (unsigned lane = 0; lane < 32; ++lane) {
        const unsigned i = lane / 4, j = lane % 4 * 2;
        const std::uint32_t low = transposed ? m[j][i] : m[i][j];
        const std::uint32_t high = transposed ? m[j + 1][i] : m[i][j + 1];
        lanes[lane]->to[matrix] = low | high << 16;
      }
    }
  };
  simt::together(kAllLanes, operands, combine, file, line);
}

}  // namespace emulated

template <class T>
T* dynamic_shared() {
  return reinterpret_cast<T*>(simt::self().block->shared());
}

template <class T>
void mma_m16n8k16(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                  PAGEDKV_PLACE) {
  using emulated::element;
  struct Operands {
    float* d;
    const std::uint32_t* a;
    const std::uint32_t* b;
  } operands{d, a, b};
  const auto combine = [](const simt::Lanes<Operands>& lanes) {
    emulated::multiply<16>(
        lanes,
        [](auto& matrix, const Operands& from, unsigned group, unsigned in_group) {
          for (unsigned i = 0; i < 8; ++i) {
            const unsigned row = group + i / 2 % 2 * 8, column = in_group * 2 + i % 2 + i / 4 * 8;
            matrix[row][column] = element<T>(from.a[i / 2], i % 2);
          }
        },
        [](auto& matrix, const Operands& from, unsigned group, unsigned in_group) {
          for (unsigned i = 0; i < 4; ++i) {
            matrix[in_group * 2 + i % 2 + i / 2 * 8][group] = element<T>(from.b[i / 2], i % 2);
          }
        });
  };
  simt::together(emulated::kAllLanes, operands, combine, file, line);
}

/// The 13 low bits do not count.
inline void mma_m16n8k8_tf32(float (&d)[4], const std::uint32_t (&a)[4],
                             const std::uint32_t (&b)[2], PAGEDKV_PLACE) {
  struct Operands {
    float* d;
    const std::uint32_t* a;
    const std::uint32_t* b;
  } operands{d, a, b};
  const auto combine = [](const simt::Lanes<Operands>& lanes) {
    const auto value = [](std::uint32_t bits) { return __uint_as_float(bits & 0xffffe000U); };
    emulated::multiply<8>(
        lanes,
        [&](auto& matrix, const Operands& from, unsigned group, unsigned in_group) {
          for (unsigned i = 0; i < 4; ++i) {
            matrix[group + i % 2 * 8][in_group + i / 2 * 4] = value(from.a[i]);
          }
        },
        [&](auto& matrix, const Operands& from, unsigned group, unsigned in_group) {
          for (unsigned i = 0; i < 2; ++i) matrix[in_group + i * 4][group] = value(from.b[i]);
        });
  };
  simt::together(emulated::kAllLanes, operands, combine, file, line);
}

inline std::uint32_t to_tf32(float x) {
  const std::uint32_t bits = __float_as_uint(x);
  if ((bits & 0x7f800000U) == 0x7f800000U) return bits;
  return (bits + 0x1000U) & 0xffffe000U;
}

inline void ldmatrix_x1(std::uint32_t (&to)[1], const void* row, PAGEDKV_PLACE) {
  emulated::load_matrices<1, false>(to, row, file, line);
}
inline void ldmatrix_x2(std::uint32_t (&to)[2], const void* row, PAGEDKV_PLACE) {
  emulated::load_matrices<2, false>(to, row, file, line);
}
inline void ldmatrix_x4(std::uint32_t (&to)[4], const void* row, PAGEDKV_PLACE) {
  emulated::load_matrices<4, false>(to, row, file, line);
}
inline void ldmatrix_x2_transposed(std::uint32_t (&to)[2], const void* row, PAGEDKV_PLACE) {
  emulated::load_matrices<2, true>(to, row, file, line);
}
inline void ldmatrix_x4_transposed(std::uint32_t (&to)[4], const void* row, PAGEDKV_PLACE) {
  emulated::load_matrices<4, true>(to, row, file, line);
}

template <int bytes>
void cp_async(void* shared, const void* global, int valid = bytes, PAGEDKV_PLACE) {
  static_assert(bytes == 4 || bytes == 8 || bytes == 16);
  emulated::expect_aligned(shared, bytes, file, line);
  emulated::expect_aligned(global, bytes, file, line);
  const auto copied = static_cast<std::size_t>(valid);
  if (copied > bytes) throw simt::Error("cp_async of more than its size");
  simt::copy_async(shared, global, copied, bytes - copied);
}
inline void cp_async_commit() { simt::commit_copies(); }
template <int pending>
void cp_async_wait() {
  simt::wait_copies(pending);
}

inline float exp2_approx(float x) { return std::exp2(x); }
inline float log2_approx(float x) { return std::log2(x); }
inline float tanh_approx(float x) { return std::tanh(x); }

inline uint4 load_once(const uint4* p) { return *p; }

}  // namespace pagedkv::cuda

#undef PAGEDKV_PLACE
