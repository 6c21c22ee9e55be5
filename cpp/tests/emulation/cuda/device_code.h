#pragma once

// What kernels use: qualifiers, indices, barriers, votes, shuffles, atomics, arithmetic.

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <type_traits>

#include "cpp/tests/emulation/cuda/vector_types.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __restrict__ __restrict
#define __align__(n) alignas(n)
#define __grid_constant__
#define __launch_bounds__(...)
/// One block runs at a time on a host thread.
#define __shared__ static thread_local

using pagedkv::simt::indices::blockDim;
using pagedkv::simt::indices::blockIdx;
using pagedkv::simt::indices::gridDim;
using pagedkv::simt::indices::threadIdx;
inline constexpr int warpSize = 32;

// Each takes the place in the source that calls it, which errors name.
#define PAGEDKV_PLACE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(PAGEDKV_PLACE) { pagedkv::simt::barrier(0, file, line); }
inline int __syncthreads_count(int predicate, PAGEDKV_PLACE) {
  return static_cast<int>(pagedkv::simt::barrier(predicate != 0, file, line));
}
inline int __syncthreads_or(int predicate, PAGEDKV_PLACE) {
  return pagedkv::simt::barrier(predicate != 0, file, line) != 0;
}
inline int __syncthreads_and(int predicate, PAGEDKV_PLACE) {
  return pagedkv::simt::barrier(predicate == 0, file, line) == 0;
}

inline void __syncwarp(unsigned mask = 0xffffffffU, PAGEDKV_PLACE) {
  char nothing = 0;
  pagedkv::simt::together(mask, nothing, [](const auto&) {}, file, line);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, PAGEDKV_PLACE) {
  struct {
    bool in;
    unsigned out;
  } vote{predicate != 0, 0};
  const auto combine = [](const auto& lanes) {
    unsigned all = 0;
    for (unsigned i = 0; i < 32; ++i) {
      if (lanes[i] != nullptr && lanes[i]->in) all |= 1U << i;
    }
    for (auto* lane : lanes) {
      if (lane != nullptr) lane->out = all;
    }
  };
  pagedkv::simt::together(mask, vote, combine, file, line);
  return vote.out;
}
inline int __any_sync(unsigned mask, int predicate, PAGEDKV_PLACE) {
  return __ballot_sync(mask, predicate, file, line) != 0;
}
inline int __all_sync(unsigned mask, int predicate, PAGEDKV_PLACE) {
  return __ballot_sync(mask, predicate, file, line) == mask;
}

namespace pagedkv::simt {

/// Each lane gets the value of the lane that `source(lane)` names, its own where that is not one of
/// its section of `width` lanes. What a lane of the section gives that does not take part is
/// undefined, and an error.
template <class T, class Source>
T shuffle(std::uint32_t mask, T value, int width, Source&& source, const char* file, int line) {
  static_assert(std::is_trivially_copyable_v<T> &&
                (sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 2));
  struct Operands {
    T in, out;
    int from;
  };
  const int lane = static_cast<int>(self().lane());
  const int first = lane & ~(width - 1);
  const int from = source(lane, first);
  const bool inside = from >= first && from < first + width;
  Operands operands{value, value, inside ? from : lane};
  const auto combine = [](const Lanes<Operands>& lanes) {
    for (Operands* mine : lanes) {
      if (mine == nullptr) continue;
      const Operands* theirs = lanes[static_cast<std::size_t>(mine->from)];
      if (theirs == nullptr) throw Error("a shuffle from a lane that does not take part");
      mine->out = theirs->in;
    }
  };
  together(mask, operands, combine, file, line);
  return operands.out;
}

}  // namespace pagedkv::simt

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, PAGEDKV_PLACE) {
  return pagedkv::simt::shuffle(
      mask, value, width, [=](int, int first) { return first + (source & (width - 1)); }, file,
      line);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, PAGEDKV_PLACE) {
  return pagedkv::simt::shuffle(
      mask, value, width, [=](int lane, int) { return lane ^ bits; }, file, line);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, PAGEDKV_PLACE) {
  return pagedkv::simt::shuffle(
      mask, value, width, [=](int lane, int) { return lane - static_cast<int>(delta); }, file,
      line);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, PAGEDKV_PLACE) {
  return pagedkv::simt::shuffle(
      mask, value, width, [=](int lane, int) { return lane + static_cast<int>(delta); }, file,
      line);
}

namespace pagedkv::simt {

template <class T, class Combine>
T reduce(std::uint32_t mask, T value, Combine&& combine, const char* file, int line) {
  T result = value;
  const auto all = [&combine](const Lanes<T>& lanes) {
    T total{};
    bool first = true;
    for (const T* lane : lanes) {
      if (lane == nullptr) continue;
      total = first ? *lane : static_cast<T>(combine(total, *lane));
      first = false;
    }
    for (T* lane : lanes) {
      if (lane != nullptr) *lane = total;
    }
  };
  together(mask, result, all, file, line);
  return result;
}

}  // namespace pagedkv::simt

template <class T>
T __reduce_add_sync(unsigned mask, T value, PAGEDKV_PLACE) {
  return pagedkv::simt::reduce(mask, value, [](T a, T b) { return a + b; }, file, line);
}
template <class T>
T __reduce_max_sync(unsigned mask, T value, PAGEDKV_PLACE) {
  return pagedkv::simt::reduce(mask, value, [](T a, T b) { return a > b ? a : b; }, file, line);
}
template <class T>
T __reduce_min_sync(unsigned mask, T value, PAGEDKV_PLACE) {
  return pagedkv::simt::reduce(mask, value, [](T a, T b) { return a < b ? a : b; }, file, line);
}
#undef PAGEDKV_PLACE

// Atomic beside the other host threads' launches too, as they are beside other streams.
template <class T, class U>
T atomicAdd(T* at, U value) {
  return std::atomic_ref<T>(*at).fetch_add(static_cast<T>(value));
}
template <class T, class U>
T atomicOr(T* at, U value) {
  return std::atomic_ref<T>(*at).fetch_or(static_cast<T>(value));
}
template <class T, class U>
T atomicExch(T* at, U value) {
  return std::atomic_ref<T>(*at).exchange(static_cast<T>(value));
}
template <class T, class U>
T atomicCAS(T* at, U expected, U desired) {
  T seen = static_cast<T>(expected);
  std::atomic_ref<T>(*at).compare_exchange_strong(seen, static_cast<T>(desired));
  return seen;
}
template <class T, class U>
T atomicMax(T* at, U value) {
  std::atomic_ref<T> all(*at);
  T seen = all.load();
  while (seen < static_cast<T>(value) && !all.compare_exchange_weak(seen, static_cast<T>(value))) {
  }
  return seen;
}
template <class T, class U>
T atomicMin(T* at, U value) {
  std::atomic_ref<T> all(*at);
  T seen = all.load();
  while (seen > static_cast<T>(value) && !all.compare_exchange_weak(seen, static_cast<T>(value))) {
  }
  return seen;
}
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}

template <class T>
T __ldg(const T* p) {
  return *p;
}
template <class T>
T __ldcg(const T* p) {
  return *p;
}
template <class T>
T __ldcs(const T* p) {
  return *p;
}
template <class T>
void __stcs(T* p, T value) {
  *p = value;
}
template <class T>
void __stcg(T* p, T value) {
  *p = value;
}

inline int __float_as_int(float x) { return std::bit_cast<int>(x); }
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline float __int_as_float(int x) { return std::bit_cast<float>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline int __popc(unsigned x) { return std::popcount(x); }
inline int __clz(int x) { return std::countl_zero(static_cast<unsigned>(x)); }
inline int __ffs(int x) { return x == 0 ? 0 : std::countr_zero(static_cast<unsigned>(x)) + 1; }
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  const std::uint64_t bytes = std::uint64_t{y} << 32 | x;
  unsigned result = 0;
  for (unsigned i = 0; i < 4; ++i) {
    const unsigned nibble = selector >> (4 * i) & 0xf;
    unsigned byte = static_cast<unsigned>(bytes >> (8 * (nibble & 7))) & 0xff;
    if ((nibble & 8) != 0) byte = (byte & 0x80) != 0 ? 0xff : 0;
    result |= byte << (8 * i);
  }
  return result;
}
inline int __mulhi(int x, int y) { return static_cast<int>(std::int64_t{x} * y >> 32); }
inline unsigned __umulhi(unsigned x, unsigned y) {
  return static_cast<unsigned>(std::uint64_t{x} * y >> 32);
}

inline float __fmaf_rn(float x, float y, float z) { return std::fma(x, y, z); }
inline float __fadd_rn(float x, float y) { return x + y; }
inline float __fmul_rn(float x, float y) { return x * y; }
inline float __fdiv_rn(float x, float y) { return x / y; }
inline float __fdividef(float x, float y) { return x / y; }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
inline float __frcp_rn(float x) { return 1 / x; }
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __log2f(float x) { return std::log2(x); }
inline int __float2int_rn(float x) {
  // As the device: saturated, NaN is 0.
  if (x != x) return 0;
  if (x >= 2147483648.0F) return 2147483647;
  if (x < -2147483648.0F) return -2147483647 - 1;
  return static_cast<int>(std::nearbyint(x));
}
inline float rsqrtf(float x) { return 1 / std::sqrt(x); }
inline float __saturatef(float x) { return x > 0 ? (x < 1 ? x : 1) : 0; }

// In the global namespace, as CUDA has them; of mixed types, the common one.
template <class T, class U>
constexpr std::common_type_t<T, U> min(T a, U b) {
  using C = std::common_type_t<T, U>;
  if constexpr (std::is_floating_point_v<C>) {
    return std::fmin(static_cast<C>(a), static_cast<C>(b));
  } else {
    return static_cast<C>(b) < static_cast<C>(a) ? static_cast<C>(b) : static_cast<C>(a);
  }
}
template <class T, class U>
constexpr std::common_type_t<T, U> max(T a, U b) {
  using C = std::common_type_t<T, U>;
  if constexpr (std::is_floating_point_v<C>) {
    return std::fmax(static_cast<C>(a), static_cast<C>(b));
  } else {
    return static_cast<C>(a) < static_cast<C>(b) ? static_cast<C>(b) : static_cast<C>(a);
  }
}

inline long long clock64() { return static_cast<long long>(std::clock()); }
inline void __nanosleep(unsigned) {}
[[noreturn]] inline void __trap() { throw pagedkv::simt::Error("__trap()"); }
