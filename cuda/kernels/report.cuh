#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/error_word.hpp"

namespace pagedkv::cuda {

/// Writes down that `value`, at `index` of its array, is not in [lowest, end): the first one
/// counts.
__device__ inline void report(ErrorWord* word, Mistake mistake, std::int64_t value,
                              std::int64_t index, std::int64_t lowest, std::int64_t end) {
  auto* const claimed = reinterpret_cast<unsigned*>(&word->mistake);
  if (atomicCAS(claimed, 0U, static_cast<unsigned>(mistake)) != 0U) return;
  word->value = value;
  word->index = index;
  word->lowest = lowest;
  word->end = end;
}

/// Whether `value` is in [lowest, end); reports it where it is not.
__device__ inline bool in_range(ErrorWord* word, Mistake mistake, std::int64_t value,
                                std::int64_t index, std::int64_t lowest, std::int64_t end) {
  if (value >= lowest && value < end) return true;
  report(word, mistake, value, index, lowest, end);
  return false;
}

}  // namespace pagedkv::cuda
