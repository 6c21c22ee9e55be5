#pragma once

// Blocks, or slots, are copied over others. A unit is what an id names: a block, or a slot.

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "cuda/kernels/elements.cuh"
#include "cuda/kernels/report.cuh"
#include "cuda/kernels/rows.cuh"
#include "pagedkv/ops/copy_blocks_call.hpp"

namespace pagedkv::cuda {

/// Where the units of a cache lie: bytes.
struct Units {
  std::byte* data;
  std::int64_t block_stride;
  std::int64_t head_stride;
  std::int64_t token_stride;

  /// @param in_block  units of a block: 1 where blocks are copied.
  __device__ std::byte* at(std::int64_t unit, const Divider& in_block) const {
    const std::int64_t block = in_block.quotient(unit);
    return data + block * block_stride + (unit - block * in_block.divisor) * token_stride;
  }
};

/// A cache in which, or two between which, units are copied.
struct UnitCopy {
  Units from, to;
  std::int64_t num_from, num_to;  ///< units
  std::int64_t num_vectors;       ///< of a unit
  Divider row_vectors;            ///< of a row
  Divider tokens;                 ///< of a head in a unit
  int vector_bytes;
};

inline constexpr int kCopiesAtATime = 32;
inline constexpr int kPairsAtATime = 512;
/// Vectors of a unit that a thread owns.
inline constexpr int kOwned = 4;

/// By value: a few KiB that need no buffer and no copy of their own, and that a graph keeps.
struct CopyParams {
  UnitCopy copies[kCopiesAtATime];  ///< by blockIdx.y
  IndexPair pairs[kPairsAtATime];
  const IndexPair* device_pairs = nullptr;  ///< instead of `pairs`
  std::int64_t num_pairs = 0;
  bool in_order = true;  ///< else each blockIdx.z does one pair
  Divider in_block;
  Mistake mistake = Mistake::block;
  ErrorWord* errors = nullptr;
};

static_assert(sizeof(CopyParams) <= 32764);  // what a launch takes

/// Offsets in a unit of the vectors that a thread owns, the same in each unit: pairs that depend on
/// one another need no barrier, because what one writes the same thread reads.
template <class Vector>
__device__ void copy_owned(const CopyParams& p, const UnitCopy& copy) {
  std::int64_t from_offset[kOwned] = {}, to_offset[kOwned] = {};
  int owned = 0;
#pragma unroll
  for (int i = 0; i < kOwned; ++i) {
    const std::int64_t vector =
        (blockIdx.x * std::int64_t{kOwned} + i) * kBlockThreads + threadIdx.x;
    if (vector >= copy.num_vectors) break;
    const std::int64_t row = copy.row_vectors.quotient(vector);
    const std::int64_t head = copy.tokens.quotient(row), token = row - head * copy.tokens.divisor;
    const std::int64_t in_row =
        (vector - row * copy.row_vectors.divisor) * static_cast<std::int64_t>(sizeof(Vector));
    from_offset[i] = head * copy.from.head_stride + token * copy.from.token_stride + in_row;
    to_offset[i] = head * copy.to.head_stride + token * copy.to.token_stride + in_row;
    ++owned;
  }
  const std::int64_t first = p.in_order ? 0 : blockIdx.z;
  const std::int64_t end = p.in_order ? p.num_pairs : first + 1;
  for (std::int64_t i = first; i < end; ++i) {
    const IndexPair pair = p.device_pairs != nullptr ? p.device_pairs[i] : p.pairs[i];
    if (p.device_pairs != nullptr) {
      if (!in_range(p.errors, p.mistake, pair.from, i, 0, copy.num_from)) continue;
      if (!in_range(p.errors, p.mistake, pair.to, i, 0, copy.num_to)) continue;
    }
    const std::byte* from = copy.from.at(pair.from, p.in_block);
    std::byte* to = copy.to.at(pair.to, p.in_block);
    if (from == to) continue;
    Vector words[kOwned] = {};
#pragma unroll
    for (int j = 0; j < kOwned; ++j) {
      if (j < owned) words[j] = *reinterpret_cast<const Vector*>(from + from_offset[j]);
    }
#pragma unroll
    for (int j = 0; j < kOwned; ++j) {
      if (j < owned) *reinterpret_cast<Vector*>(to + to_offset[j]) = words[j];
    }
  }
}

__global__ void __launch_bounds__(kBlockThreads) copy_units(const __grid_constant__ CopyParams p) {
  const UnitCopy& copy = p.copies[blockIdx.y];
  switch (copy.vector_bytes) {
    case 16: return copy_owned<Word<16>::Type>(p, copy);
    case 8: return copy_owned<Word<8>::Type>(p, copy);
    case 4: return copy_owned<Word<4>::Type>(p, copy);
    case 2: return copy_owned<Word<2>::Type>(p, copy);
    default: return copy_owned<Word<1>::Type>(p, copy);
  }
}

}  // namespace pagedkv::cuda
