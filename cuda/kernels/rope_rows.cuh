#pragma once

// Rows of queries and keys are normed and rotated.

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "cuda/kernels/elements.cuh"
#include "cuda/kernels/report.cuh"
#include "cuda/kernels/rows.cuh"
#include "cuda/kernels/write_rows.cuh"
#include "pagedkv/ops/attention_call.hpp"
#include "pagedkv/ops/views.hpp"

namespace pagedkv::cuda {

/// Queries or keys.
struct RopeSide {
  RowsView rows;
  RowsView norm_weight;  ///< no data: no norm
  Divider heads;
  RowThreads threads;
};

struct RopeParams {
  RopeSide q;  ///< no heads: none
  RopeSide k;
  RowsView q_out;
  WriteParams write;  ///< of k and v
  const std::int64_t* positions = nullptr;
  const std::int32_t* positions_int32 = nullptr;
  const float* cos_sin_cache = nullptr;
  std::int64_t cos_sin_stride = 0;
  std::int64_t max_position = 0;
  int head_dim = 0;
  int rotary_dim = 0;
  bool interleaved = false;
  float norm_eps = 0;
};

/// Elements that each of 32 threads has of the largest row.
inline constexpr int kRopeElements = static_cast<int>(kMaxHeadDim) / 32;

/// The part of a row that a thread has: chunks of `width` elements, `lanes` chunks apart. A row has
/// at most as many as 32 threads hold.
template <int width>
struct RopeRow {
  static constexpr int kChunks = kRopeElements / width;

  float x[kChunks][width];

  /// The row times the norm's factor and weights, rotated. All threads of the row call it; none has
  /// written to it when it returns.
  __device__ void rotate(const RopeParams& p, const RopeSide& side, const RowThread& me,
                         const std::byte* from, std::int64_t position) {
    const float* cos_sin = p.cos_sin_cache + position * p.cos_sin_stride;
    const bool norm = side.norm_weight.data != nullptr;
    const int half = p.rotary_dim / 2;
    float squares = 0;
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      const int first = (c * me.lanes + me.lane) * width;
      if (first >= p.head_dim) break;
      load_floats(side.rows.dtype, from, first, x[c]);
#pragma unroll
      for (int j = 0; j < width; ++j) squares = fmaf(x[c][j], x[c][j], squares);
    }
    const float factor =
        norm ? 1 / sqrtf(me.sum(squares) / static_cast<float>(p.head_dim) + p.norm_eps) : 1.0F;
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      const int first = (c * me.lanes + me.lane) * width;
      if (first >= p.head_dim) break;
      if (norm) weigh(side, first, factor, x[c]);
      if (first >= p.rotary_dim) continue;
      if (p.interleaved) {
        rotate_pairs(p, side, norm, from, cos_sin, half, first, factor, x[c]);
      } else {
        rotate_halves(p, side, norm, from, cos_sin, half, first, factor, x[c]);
      }
    }
    __syncwarp(me.mask);  // the rest of the row may be written over now
  }

 private:
  __device__ static void weigh(const RopeSide& side, int first, float factor,
                               float (&part)[width]) {
    float weight[width];
    load_floats(side.norm_weight.dtype, side.norm_weight.data, first, weight);
#pragma unroll
    for (int j = 0; j < width; ++j) part[j] = part[j] * factor * weight[j];
  }

  /// The chunk of the row that begins at `first`, as it is before the rotation.
  __device__ static void load_other(const RopeSide& side, bool norm, const std::byte* from,
                                    int first, float factor, float (&part)[width]) {
    load_floats(side.rows.dtype, from, first, part);
    if (norm) weigh(side, first, factor, part);
  }

  /// Pairs (i, i + half); with several elements a chunk, all of a chunk are in one half.
  __device__ static void rotate_halves(const RopeParams&, const RopeSide& side, bool norm,
                                       const std::byte* from, const float* cos_sin, int half,
                                       int first, float factor, float (&part)[width]) {
    const bool second = first >= half;
    const int angle = second ? first - half : first;
    float other[width], cosine[width], sine[width];
    load_other(side, norm, from, second ? first - half : first + half, factor, other);
    load_bits(reinterpret_cast<const std::byte*>(cos_sin + angle), cosine);
    load_bits(reinterpret_cast<const std::byte*>(cos_sin + half + angle), sine);
#pragma unroll
    for (int j = 0; j < width; ++j) {
      part[j] = second ? part[j] * cosine[j] + other[j] * sine[j]
                       : part[j] * cosine[j] - other[j] * sine[j];
    }
  }

  /// Pairs (2i, 2i + 1).
  __device__ static void rotate_pairs(const RopeParams& p, const RopeSide& side, bool norm,
                                      const std::byte* from, const float* cos_sin, int half,
                                      int first, float factor, float (&part)[width]) {
    if constexpr (width == 1) {
      const bool second = first % 2 != 0;
      float other[1];
      load_other(side, norm, from, second ? first - 1 : first + 1, factor, other);
      const float cosine = cos_sin[first / 2], sine = cos_sin[half + first / 2];
      part[0] = second ? part[0] * cosine + other[0] * sine : part[0] * cosine - other[0] * sine;
    } else {
#pragma unroll
      for (int j = 0; j < width; j += 2) {
        if (first + j >= p.rotary_dim) return;
        const int angle = (first + j) / 2;
        const float cosine = cos_sin[angle], sine = cos_sin[half + angle];
        const float a = part[j], b = part[j + 1];
        part[j] = a * cosine - b * sine;
        part[j + 1] = b * cosine + a * sine;
      }
    }
  }
};

/// The token's position, negative where it has none.
__device__ __forceinline__ std::int64_t position_of(const RopeParams& p, std::int64_t token) {
  const std::int64_t position =
      p.positions != nullptr ? p.positions[token] : p.positions_int32[token];
  const bool known =
      in_range(p.write.errors, Mistake::position, position, token, 0, p.max_position);
  return known ? position : -1;
}

template <int width>
__device__ void rope_queries(const RopeParams& p) {
  const RopeSide& side = p.q;
  const RowThread me(side.threads);
  const std::int64_t rows = side.rows.num_tokens * side.rows.num_heads;
  for (std::int64_t row = me.row; row < rows; row += me.step) {
    const std::int64_t token = side.heads.quotient(row), head = row - token * side.heads.divisor;
    const std::int64_t position = position_of(p, token);
    if (position < 0) continue;
    RopeRow<width> part;
    part.rotate(p, side, me, row_of(side.rows, token, head), position);
    std::byte* to = row_of(p.q_out, token, head);
#pragma unroll
    for (int c = 0; c < RopeRow<width>::kChunks; ++c) {
      const int first = (c * me.lanes + me.lane) * width;
      if (first >= p.head_dim) break;
      store_floats(p.q_out.dtype, to, first, part.x[c]);
    }
  }
}

template <int width>
__device__ void rope_keys(const RopeParams& p) {
  const RopeSide& side = p.k;
  const WriteSide& write = p.write.sides[0];
  const RowThread me(side.threads);
  const std::int64_t rows = side.rows.num_tokens * side.rows.num_heads;
  for (std::int64_t row = me.row; row < rows; row += me.step) {
    const std::int64_t token = side.heads.quotient(row), head = row - token * side.heads.divisor;
    const Target target = target_of(p.write, token, head);
    const std::int64_t position = position_of(p, token);
    if (target.block < 0 || position < 0) continue;
    RopeRow<width> part;
    part.rotate(p, side, me, row_of(side.rows, token, head), position);
    float scale;
    if (write.largest_quantized != 0) {
      float largest = 0;
#pragma unroll
      for (int c = 0; c < RopeRow<width>::kChunks; ++c) {
        if ((c * me.lanes + me.lane) * width >= p.head_dim) break;
#pragma unroll
        for (int j = 0; j < width; ++j) largest = fmaxf(largest, fabsf(part.x[c][j]));
      }
      scale = computed_scale(me.max(largest), write.largest_quantized);
      if (me.lane == 0) *scale_of(write.scale, target.block, head, target.offset) = scale;
    } else {
      scale = scale_at(write.scale, target.block, head, target.offset);
    }
    std::byte* to = row_of(write.cache, target.block, head, target.offset);
#pragma unroll
    for (int c = 0; c < RopeRow<width>::kChunks; ++c) {
      const int first = (c * me.lanes + me.lane) * width;
      if (first >= p.head_dim) break;
      if (scale != 1) {
#pragma unroll
        for (int j = 0; j < width; ++j) part.x[c][j] = part.x[c][j] / scale;
      }
      store_floats(write.cache.dtype, to, first, part.x[c]);
    }
  }
}

/// One launch for all: blockIdx.y is 0 for keys, 1 for values, 2 for queries.
template <int width, int v_width>
__global__ void __launch_bounds__(kBlockThreads)
    rope_and_write(const __grid_constant__ RopeParams p) {
  if (blockIdx.y == 0) return rope_keys<width>(p);
  if (blockIdx.y == 1) return convert_rows<v_width>(p.write, p.write.sides[1]);
  rope_queries<width>(p);
}

}  // namespace pagedkv::cuda
