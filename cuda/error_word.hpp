#pragma once

// Ids, slots and lengths on the device cannot be checked before a call without waiting for it.
// Kernels follow none that is out of range, and write down the first that they meet.

#include <cstdint>

#include "cuda/stream.hpp"

namespace pagedkv::cuda {

/// What was out of range.
enum class Mistake : unsigned {
  none,
  slot,         ///< of a write or a move
  block,        ///< of a block table, or of a copy
  position,     ///< of a rotary embedding
  length,       ///< of a sequence: more than its row of the block table holds
  total,        ///< of all lengths: more rows than there is room for
  query_start,  ///< query_start_loc is not sorted, or names rows that q does not have
};

/// Memory that host and device both reach.
struct ErrorWord {
  Mistake mistake;
  std::int64_t value;
  std::int64_t index;  ///< of the value in its array
  std::int64_t lowest;
  std::int64_t end;  ///< the value should have been in [lowest, end)
};

/// The word of a stream, made at its first call and kept. Pass it to kernels; they call `report`.
/// @throws CudaError, std::bad_alloc.
[[nodiscard]] ErrorWord* error_word(const Stream& stream, const char* where);

}  // namespace pagedkv::cuda
