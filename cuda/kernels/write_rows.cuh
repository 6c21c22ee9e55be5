#pragma once

// Rows go to their slots: as they are, or converted and quantised.

#include <cuda_runtime.h>

#include <cfloat>
#include <cstddef>
#include <cstdint>

#include "cuda/kernels/elements.cuh"
#include "cuda/kernels/report.cuh"
#include "cuda/kernels/rows.cuh"
#include "pagedkv/ops/checks.hpp"
#include "pagedkv/ops/views.hpp"

namespace pagedkv::cuda {

/// One of the two caches, and the rows that go to it.
struct WriteSide {
  RowsView rows;
  CacheView cache;
  ScaleView scale;
  std::int64_t row_bytes = 0;   ///< of the cache
  float largest_quantized = 0;  ///< of the dtype of the cache, where scales are computed; else 0
  RowThreads threads;
};

struct WriteParams {
  WriteSide sides[2];  ///< by blockIdx.y
  const std::int64_t* slot_mapping = nullptr;
  std::int64_t num_slots = 0;
  Divider heads;
  Divider block_size;
  ErrorWord* errors = nullptr;
};

/// Where a row goes.
struct Target {
  std::int64_t block = -1;  ///< negative: nowhere
  std::int64_t head = 0;
  std::int64_t offset = 0;
};

/// Where row `row` of all tokens and heads goes; what is out of range is reported.
__device__ __forceinline__ Target target_of(const WriteParams& p, std::int64_t token,
                                            std::int64_t head) {
  const std::int64_t slot = p.slot_mapping[token];
  if (slot == kNoSlot) return {};
  if (!in_range(p.errors, Mistake::slot, slot, token, kNoSlot, p.num_slots)) return {};
  const std::int64_t block = p.block_size.quotient(slot);
  return {block, head, slot - block * p.block_size.divisor};
}

/// The scale that makes the largest value the largest of the dtype. Also rows of zeros have one
/// that can be divided by.
__device__ __forceinline__ float computed_scale(float largest, float largest_quantized) {
  return fmaxf(fminf(largest, FLT_MAX) / largest_quantized, FLT_MIN);
}

/// Copies rows, a vector of `bytes` at a time.
template <int bytes>
__global__ void __launch_bounds__(kBlockThreads)
    copy_rows_to_slots(const __grid_constant__ WriteParams p) {
  using Vector = typename Word<bytes>::Type;
  constexpr int kBatch = 4;  // rows whose loads overlap
  const WriteSide& side = p.sides[blockIdx.y];
  const RowThread me(side.threads);
  const std::int64_t rows = side.rows.num_tokens * side.rows.num_heads;
  const std::int64_t vectors = side.row_bytes / bytes;
  for (std::int64_t first = me.row; first < rows; first += kBatch * me.step) {
    Vector* from[kBatch];
    Vector* to[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      from[i] = to[i] = nullptr;
      const std::int64_t row = first + i * me.step;
      if (row >= rows) continue;
      const std::int64_t token = p.heads.quotient(row), head = row - token * p.heads.divisor;
      const Target target = target_of(p, token, head);
      if (target.block < 0) continue;
      from[i] = reinterpret_cast<Vector*>(row_of(side.rows, token, head));
      to[i] = reinterpret_cast<Vector*>(row_of(side.cache, target.block, head, target.offset));
    }
    for (std::int64_t v = me.lane; v < vectors; v += me.lanes) {
      Vector words[kBatch] = {};
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        if (to[i] != nullptr) words[i] = from[i][v];
      }
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        if (to[i] != nullptr) to[i][v] = words[i];
      }
    }
  }
}

/// Writes a row, converted where it is not of the cache's dtype, `width` elements at a time. All
/// threads of the row call it.
template <int width>
__device__ __forceinline__ void write_converted(const WriteSide& side, const RowThread& me,
                                                std::int64_t token, const Target& target) {
  const std::byte* from = row_of(side.rows, token, target.head);
  std::byte* to = row_of(side.cache, target.block, target.head, target.offset);
  const std::int64_t size = side.cache.head_dim, step = std::int64_t{me.lanes} * width;
  const std::int64_t first = std::int64_t{me.lane} * width;
  if (side.rows.dtype == side.cache.dtype) {  // as it is: scales are of what is converted
    for (std::int64_t i = first; i < size; i += step) {
      copy_elements<width>(side.cache.dtype, from, to, i);
    }
    return;
  }
  float x[width];
  float scale;
  if (side.largest_quantized != 0) {
    float largest = 0;
    for (std::int64_t i = first; i < size; i += step) {
      load_floats(side.rows.dtype, from, i, x);
#pragma unroll
      for (int j = 0; j < width; ++j) largest = fmaxf(largest, fabsf(x[j]));  // passes over NaN
    }
    scale = computed_scale(me.max(largest), side.largest_quantized);
    if (me.lane == 0) *scale_of(side.scale, target.block, target.head, target.offset) = scale;
  } else {
    scale = scale_at(side.scale, target.block, target.head, target.offset);
  }
  for (std::int64_t i = first; i < size; i += step) {
    load_floats(side.rows.dtype, from, i, x);
    if (scale != 1) {
#pragma unroll
      for (int j = 0; j < width; ++j) x[j] = x[j] / scale;
    }
    store_floats(side.cache.dtype, to, i, x);
  }
}

template <int width>
__device__ __forceinline__ void convert_rows(const WriteParams& p, const WriteSide& side) {
  const RowThread me(side.threads);
  const std::int64_t rows = side.rows.num_tokens * side.rows.num_heads;
  for (std::int64_t row = me.row; row < rows; row += me.step) {
    const std::int64_t token = p.heads.quotient(row), head = row - token * p.heads.divisor;
    const Target target = target_of(p, token, head);
    if (target.block >= 0) write_converted<width>(side, me, token, target);
  }
}

template <int width>
__global__ void __launch_bounds__(kBlockThreads)
    convert_rows_to_slots(const __grid_constant__ WriteParams p) {
  convert_rows<width>(p, p.sides[blockIdx.y]);
}

}  // namespace pagedkv::cuda
