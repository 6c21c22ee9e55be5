#pragma once

// Two attentions of the same queries over different tokens become one.

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "cuda/kernels/elements.cuh"
#include "cuda/kernels/rows.cuh"
#include "pagedkv/ops/merge_states_call.hpp"

namespace pagedkv::cuda {

struct MergeParams {
  MergeStatesCall call;
  Divider heads;
  RowThreads threads;
};

__device__ __forceinline__ float* lse_of(const LseView& lse, std::int64_t token,
                                         std::int64_t head) {
  return lse.data + token * lse.token_stride + head * lse.head_stride;
}

template <int width>
__global__ void __launch_bounds__(kBlockThreads)
    merge_states(const __grid_constant__ MergeParams p) {
  const RowThread me(p.threads);
  const MergeStatesCall& call = p.call;
  const std::int64_t rows = call.o.num_tokens * call.o.num_heads, size = call.o.head_dim;
  const float nothing = -__int_as_float(0x7f800000);
  for (std::int64_t row = me.row; row < rows; row += me.step) {
    const std::int64_t token = p.heads.quotient(row), head = row - token * p.heads.divisor;
    const float a = *lse_of(call.lse_a, token, head), b = *lse_of(call.lse_b, token, head);
    __syncwarp(me.mask);  // the result's LSE may be one of these
    // A NaN is taken over, whichever side it is on.
    const float highest = a > b || a != a ? a : b;
    float sum = 0, weight_a = 0, weight_b = 0;
    if (highest != nothing) {
      weight_a = a == nothing ? 0 : expf(a - highest);
      weight_b = b == nothing ? 0 : expf(b - highest);
      sum = weight_a + weight_b;
    }
    const float factor = sum == 0 ? 0 : 1 / sum;
    weight_a *= factor;
    weight_b *= factor;
    for (std::int64_t i = std::int64_t{me.lane} * width; i < size;
         i += std::int64_t{me.lanes} * width) {
      // What saw nothing is not read: it may hold anything.
      float x[width] = {}, y[width] = {};
      if (a != nothing) load_floats(call.o.dtype, row_of(call.o_a, token, head), i, x);
      if (b != nothing) load_floats(call.o.dtype, row_of(call.o_b, token, head), i, y);
#pragma unroll
      for (int j = 0; j < width; ++j) x[j] = weight_a * x[j] + weight_b * y[j];
      store_floats(call.o.dtype, row_of(call.o, token, head), i, x);
    }
    if (me.lane == 0 && call.lse.data != nullptr) {
      *lse_of(call.lse, token, head) = highest == nothing ? nothing : highest + logf(sum);
    }
  }
}

}  // namespace pagedkv::cuda
