#pragma once

// How the rows of one side of a write are loaded, and by how many threads: the host's part of
// kernels/write_rows.cuh.

#include <algorithm>
#include <cstdint>

#include "cuda/host.hpp"
#include "cuda/kernels/write_rows.cuh"
#include "pagedkv/ops/views.hpp"

namespace pagedkv::cuda {

/// Bytes that rows are copied by.
[[nodiscard]] inline int copied_bytes(const RowsView& rows, const CacheView& cache) noexcept {
  return std::min({row_alignment(rows), row_alignment(cache),
                   common_alignment({static_cast<std::int64_t>(cache.row_bytes())})});
}

/// Elements that rows are converted by.
[[nodiscard]] inline int converted_width(const RowsView& rows, const CacheView& cache) noexcept {
  return loads_wide(rows, kWide) && loads_wide(cache, kWide) ? kWide : 1;
}

/// @param vectors  of a row, one a thread.
[[nodiscard]] inline WriteSide write_side(const RowsView& rows, const CacheView& cache,
                                          const ScaleView& scale, std::int64_t vectors) noexcept {
  const float largest =
      scale.per_token() ? static_cast<float>(largest_quantized(cache.dtype)) : 0.0F;
  return {rows,    cache,
          scale,   static_cast<std::int64_t>(cache.row_bytes()),
          largest, RowThreads::for_vectors(vectors)};
}

}  // namespace pagedkv::cuda
