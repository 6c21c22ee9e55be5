#pragma once

// Memory of kernels that put parts of a result aside.

#include <cstddef>
#include <cstdint>

#include "cuda/stream.hpp"

namespace pagedkv::cuda {

/// What the kernels of one stream may use, one after the other.
struct Workspace {
  float* partials = nullptr;
  unsigned* arrivals = nullptr;  ///< 0 wherever no kernel runs
};

/// The workspace of a stream, with room for so many floats and arrivals. Grows where that is more
/// than ever before: what it was before stays, since a captured graph may use it. The kernels of
/// one stream, and of graphs captured on it, must not run beside one another.
/// @throws UnsupportedError where it would have to grow while the stream is captured; CudaError.
[[nodiscard]] Workspace workspace(const Stream& stream, std::size_t floats, std::size_t arrivals,
                                  const char* where);

}  // namespace pagedkv::cuda
