#pragma once

// What the host's side of several operations does: which dtypes there are, how wide a load may be,
// how many blocks fill the device.

#include <algorithm>
#include <bit>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "cuda/stream.hpp"
#include "pagedkv/core/errors.hpp"
#include "pagedkv/ops/views.hpp"

namespace pagedkv::cuda {

/// @throws UnsupportedError for float64 and int4.
inline void expect_supported(const char* where, const char* name, DType dtype) {
  if (dtype != DType::float64 && dtype != DType::int4) return;
  pagedkv::detail::throw_unsupported(
      where, std::string(name) + " of " + std::string(dtype_name(dtype)) +
                 " on a CUDA device; expected float32, float16, bfloat16, and in caches "
                 "float8_e4m3, float8_e5m2 or int8");
}

/// The largest power of two, up to 16, that divides all.
[[nodiscard]] inline int common_alignment(std::initializer_list<std::int64_t> numbers) noexcept {
  std::uint64_t all = 16;
  for (const std::int64_t number : numbers) all |= static_cast<std::uint64_t>(number);
  return 1 << std::countr_zero(all);
}
[[nodiscard]] inline std::int64_t address(const void* p) noexcept {
  return static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(p));
}
/// What each row begins at a multiple of.
[[nodiscard]] inline int row_alignment(const RowsView& rows) noexcept {
  return common_alignment({address(rows.data), rows.token_stride, rows.head_stride});
}
[[nodiscard]] inline int row_alignment(const CacheView& cache) noexcept {
  return common_alignment(
      {address(cache.data), cache.block_stride, cache.head_stride, cache.token_stride});
}
/// Whether rows can be loaded `width` elements at a time.
template <class View>
[[nodiscard]] bool loads_wide(const View& view, int width) noexcept {
  const int bytes = width * static_cast<int>(dtype_bits(view.dtype)) / 8;
  return view.head_dim % width == 0 && row_alignment(view) >= std::min(bytes, 16);
}

/// Blocks of `threads` threads that the device runs at a time, where nothing else holds them back.
[[nodiscard]] inline std::int64_t blocks_at_a_time(const char* where, int device, int threads) {
  int processors = 0;
  expect_success(where, "cudaDeviceGetAttribute",
                 cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device));
  return std::int64_t{processors} * (2048 / threads);
}

/// As many blocks as there is work for, but not many more than run at a time: each then does
/// several pieces, and its loads overlap.
[[nodiscard]] inline unsigned grid_for(const char* where, int device, int threads,
                                       std::int64_t pieces) {
  return static_cast<unsigned>(std::min(pieces, 2 * blocks_at_a_time(where, device, threads)));
}

}  // namespace pagedkv::cuda
