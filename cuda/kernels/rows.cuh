#pragma once

// Addresses of rows, and which threads do which.

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "pagedkv/ops/views.hpp"

namespace pagedkv::cuda {

inline constexpr int kBlockThreads = 256;

/// Threads that do one row together: `lanes` of one warp, a power of two. Any number of rows.
struct RowThreads {
  int lanes = 32;

  /// The fewest that have a vector each, so that few are idle.
  [[nodiscard]] static RowThreads for_vectors(std::int64_t vectors) noexcept {
    RowThreads threads{1};
    while (threads.lanes < 32 && threads.lanes < vectors) threads.lanes *= 2;
    return threads;
  }
  [[nodiscard]] int rows_per_block() const noexcept { return kBlockThreads / lanes; }
};

/// What a thread is among the threads of its row.
struct RowThread {
  int lane;
  int lanes;
  unsigned mask;      ///< those of its row, of the warp
  std::int64_t row;   ///< the first that it does
  std::int64_t step;  ///< to the next

  __device__ explicit RowThread(RowThreads threads)
      : lane(static_cast<int>(threadIdx.x) & (threads.lanes - 1)), lanes(threads.lanes) {
    const unsigned first = threadIdx.x % 32 / threads.lanes * threads.lanes;
    mask = (lanes == 32 ? ~0U : (1U << lanes) - 1) << first;
    const std::int64_t per_block = kBlockThreads / threads.lanes;
    row = blockIdx.x * per_block + threadIdx.x / threads.lanes;
    step = gridDim.x * per_block;
  }

  __device__ float sum(float x) const {
    for (int bits = lanes / 2; bits != 0; bits /= 2) x += __shfl_xor_sync(mask, x, bits);
    return x;
  }
  __device__ float max(float x) const {
    for (int bits = lanes / 2; bits != 0; bits /= 2) {
      x = fmaxf(x, __shfl_xor_sync(mask, x, bits));
    }
    return x;
  }
};

/// Division by what is mostly a power of two.
struct Divider {
  std::int64_t divisor = 1;
  int shift = -1;  ///< negative: no power of two

  Divider() = default;
  explicit Divider(std::int64_t value) noexcept : divisor(value) {
    for (int i = 0; i < 62; ++i) {
      if (value == std::int64_t{1} << i) shift = i;
    }
  }
  /// Of what is not negative.
  __device__ std::int64_t quotient(std::int64_t x) const {
    if (shift >= 0) return x >> shift;
    // Half the time of 64 bits.
    if (static_cast<std::uint64_t>(x | divisor) >> 32 == 0) {
      return static_cast<std::uint32_t>(x) / static_cast<std::uint32_t>(divisor);
    }
    return x / divisor;
  }
};

__device__ __forceinline__ std::byte* row_of(const CacheView& cache, std::int64_t block,
                                             std::int64_t head, std::int64_t offset) {
  return cache.data + block * cache.block_stride + head * cache.head_stride +
         offset * cache.token_stride;
}
__device__ __forceinline__ std::byte* row_of(const RowsView& rows, std::int64_t token,
                                             std::int64_t head) {
  return rows.data + token * rows.token_stride + head * rows.head_stride;
}
__device__ __forceinline__ float* scale_of(const ScaleView& scale, std::int64_t block,
                                           std::int64_t head, std::int64_t offset) {
  return scale.data + block * scale.block_stride + head * scale.head_stride +
         offset * scale.slot_stride;
}
__device__ __forceinline__ float scale_at(const ScaleView& scale, std::int64_t block,
                                          std::int64_t head, std::int64_t offset) {
  return scale.data == nullptr ? scale.value : *scale_of(scale, block, head, offset);
}

}  // namespace pagedkv::cuda
