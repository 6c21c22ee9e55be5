#pragma once

// Tokens of sequences become dense rows, one sequence after the other.

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "cuda/kernels/elements.cuh"
#include "cuda/kernels/instructions.cuh"
#include "cuda/kernels/report.cuh"
#include "cuda/kernels/rows.cuh"
#include "pagedkv/ops/views.hpp"

namespace pagedkv::cuda {

/// One of the two caches, and the rows that come from it.
struct GatherSide {
  CacheView cache;
  ScaleView scale;
  RowsView rows;
  RowThreads threads;
};

struct GatherParams {
  GatherSide sides[2];  ///< by blockIdx.y
  const std::int32_t* block_tables = nullptr;
  std::int64_t block_table_stride = 0;
  std::int64_t max_blocks = 0;
  const std::int32_t* seq_lens = nullptr;
  std::int64_t num_seqs = 0;
  std::int64_t num_rows = 0;    ///< tokens that there is room for
  std::int64_t block_rows = 0;  ///< that a block of threads does
  Divider heads;
  Divider block_size;
  ErrorWord* errors = nullptr;
};

/// Sequences whose lengths a block of threads sums at a time.
inline constexpr int kGatherSeqs = kBlockThreads;

/// `before[i]` becomes `before[0]` plus the lengths of the first i of these sequences; a length
/// that its row of the block table has no room for is 0. All threads of the block call it.
__device__ inline void sum_lengths(const GatherParams& p, std::int64_t first_seq,
                                   std::int64_t* before, std::int64_t* warp_sums) {
  const auto thread = static_cast<int>(threadIdx.x);
  const int lane = thread % 32, warp = thread / 32;
  const std::int64_t seq = first_seq + thread;
  std::int64_t sum = 0;
  if (seq < p.num_seqs) {
    sum = p.seq_lens[seq];
    const std::int64_t room = p.max_blocks * p.block_size.divisor;
    if (!in_range(p.errors, Mistake::length, sum, seq, 0, room + 1)) sum = 0;
  }
  for (int delta = 1; delta < 32; delta *= 2) {
    const std::int64_t other = __shfl_up_sync(~0U, sum, delta);
    if (lane >= delta) sum += other;
  }
  if (lane == 31) warp_sums[warp] = sum;
  __syncthreads();
  std::int64_t base = before[0];
  for (int i = 0; i < warp; ++i) base += warp_sums[i];
  before[thread + 1] = base + sum;
  __syncthreads();
}

/// Where a token is: the last of the sequences that begins at it or before it, of those that
/// `before` tells of.
__device__ __forceinline__ int seq_of(const std::int64_t* before, std::int64_t token) {
  int low = 0, high = kGatherSeqs;  // before[low] <= token < before[high]
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    (before[middle] <= token ? low : high) = middle;
  }
  return low;
}

/// Reads a row, `width` elements at a time.
template <int width>
__device__ __forceinline__ void read_row(const GatherSide& side, const RowThread& me,
                                         std::int64_t block, std::int64_t head, std::int64_t offset,
                                         std::int64_t row) {
  const std::byte* from = row_of(side.cache, block, head, offset);
  std::byte* to = row_of(side.rows, row, head);
  const std::int64_t size = side.cache.head_dim, step = std::int64_t{me.lanes} * width;
  const std::int64_t first = std::int64_t{me.lane} * width;
  if (side.rows.dtype == side.cache.dtype) {
    for (std::int64_t i = first; i < size; i += step) {
      copy_elements<width>(side.cache.dtype, from, to, i);
    }
    return;
  }
  const float scale = scale_at(side.scale, block, head, offset);
  for (std::int64_t i = first; i < size; i += step) {
    float x[width];
    load_floats(side.cache.dtype, from, i, x);
#pragma unroll
    for (int j = 0; j < width; ++j) x[j] *= scale;
    store_floats(side.rows.dtype, to, i, x);
  }
}

/// Each block of threads does rows of its own, and goes through the lengths up to them: no memory
/// for sums is needed, however many sequences there are.
template <int width>
__global__ void __launch_bounds__(kBlockThreads)
    gather_rows(const __grid_constant__ GatherParams p) {
  std::int64_t* const before = dynamic_shared<std::int64_t>();
  std::int64_t* const warp_sums = before + kGatherSeqs + 1;
  const GatherSide& side = p.sides[blockIdx.y];
  const RowThread me(side.threads);
  const std::int64_t begin = blockIdx.x * p.block_rows;
  const std::int64_t end = ::min(begin + p.block_rows, p.num_rows);
  const bool last = end == p.num_rows;
  const std::int64_t rows_at_a_time = kBlockThreads / me.lanes;
  if (threadIdx.x == 0) before[0] = 0;
  __syncthreads();
  for (std::int64_t seqs = 0; seqs < p.num_seqs; seqs += kGatherSeqs) {
    sum_lengths(p, seqs, before, warp_sums);
    const std::int64_t from = ::max(begin, before[0]), to = ::min(end, before[kGatherSeqs]);
    const std::int64_t rows = (to - from) * p.heads.divisor;
    for (std::int64_t i = threadIdx.x / me.lanes; i < rows; i += rows_at_a_time) {
      const std::int64_t token = p.heads.quotient(i), head = i - token * p.heads.divisor;
      const int seq = seq_of(before, from + token);
      const std::int64_t position = from + token - before[seq];
      const std::int64_t entry = p.block_size.quotient(position);
      const std::int64_t index = (seqs + seq) * p.block_table_stride + entry;
      const std::int64_t block = p.block_tables[index];
      if (!in_range(p.errors, Mistake::block, block, entry, 0, side.cache.num_blocks)) continue;
      read_row<width>(side, me, block, head, position - entry * p.block_size.divisor, from + token);
    }
    const std::int64_t all = before[kGatherSeqs];
    __syncthreads();
    if (threadIdx.x == 0) before[0] = all;
    __syncthreads();
    if (all >= end && !last) return;
  }
  if (last && threadIdx.x == 0) {
    in_range(p.errors, Mistake::total, before[0], 0, 0, p.num_rows + 1);
  }
}

}  // namespace pagedkv::cuda
