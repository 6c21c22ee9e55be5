#pragma once

// From views to what kernels are told. Private to the operations.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <string>

#include "metal/kernels/params.h"
#include "metal/queue.hpp"
#include "pagedkv/core/errors.hpp"
#include "pagedkv/ops/merge_states_call.hpp"
#include "pagedkv/ops/views.hpp"

namespace pagedkv::metal::detail_dispatches {

inline constexpr std::uint32_t kThreads = 256;  ///< of a threadgroup that moves elements

/// @throws ShapeError for a size beyond 32 bits.
[[nodiscard]] inline std::uint32_t narrow(const char* where, const char* what, std::int64_t size) {
  if (size < 0 || size > std::numeric_limits<std::int32_t>::max()) {
    detail::throw_shape(where, std::string(what) + " of " + std::to_string(size) +
                                   "; expected at most 2^31 - 1 on Metal");
  }
  return static_cast<std::uint32_t>(size);
}

/// @throws UnsupportedError for what kernels do not compute with.
[[nodiscard]] inline std::uint32_t element_type(const char* where, const char* what, DType dtype) {
  switch (dtype) {
    case DType::float32: return kernels::kFloat;
    case DType::float16: return kernels::kHalf;
    case DType::bfloat16: return kernels::kBfloat;
    default: break;
  }
  detail::throw_unsupported(where, std::string(what) + " of " + std::string(dtype_name(dtype)) +
                                       " on Metal; expected float32, float16 or bfloat16");
}

[[nodiscard]] inline kernels::Rows rows(const RowsView& view) noexcept {
  return {view.token_stride, view.head_stride};
}
[[nodiscard]] inline kernels::Rows rows(const LseView& view) noexcept {
  return {view.token_stride, view.head_stride};
}
[[nodiscard]] inline kernels::Cache cache(const CacheView& view) noexcept {
  return {view.block_stride, view.head_stride, view.token_stride};
}

/// Whether an address and strides are multiples of `bytes`.
[[nodiscard]] inline bool aligned(std::size_t bytes, const void* data,
                                  std::initializer_list<std::int64_t> strides) noexcept {
  auto all = reinterpret_cast<std::uintptr_t>(data);
  for (const std::int64_t stride : strides) all |= static_cast<std::uintptr_t>(stride);
  return all % bytes == 0;
}
[[nodiscard]] inline bool aligned(std::size_t bytes, const RowsView& view) noexcept {
  return aligned(bytes, view.data, {view.token_stride, view.head_stride});
}
[[nodiscard]] inline bool aligned(std::size_t bytes, const CacheView& view) noexcept {
  return aligned(bytes, view.data, {view.block_stride, view.head_stride, view.token_stride});
}

[[nodiscard]] constexpr std::uint32_t ceil_div(std::uint32_t a, std::uint32_t b) noexcept {
  return a / b + (a % b != 0 ? 1 : 0);
}

/// Threads for a plane of `width` by `height`, of which kernels leave out what is outside.
inline void cover(Dispatch& dispatch, std::uint32_t width, std::uint32_t height) noexcept {
  std::uint32_t x = 1;
  while (x < width && x < kThreads) x *= 2;
  dispatch.threads = {x, kThreads / x, 1};
  dispatch.groups = {ceil_div(width, x), ceil_div(height, kThreads / x), 1};
}

/// One simdgroup for each head of each token.
inline void cover_rows(Dispatch& dispatch, std::uint32_t num_heads,
                       std::uint32_t num_tokens) noexcept {
  const std::uint32_t simdgroups = std::min(num_heads, kThreads / kernels::kSimdWidth);
  dispatch.set(Constant::simdgroups, simdgroups);
  dispatch.threads = {simdgroups * kernels::kSimdWidth, 1, 1};
  dispatch.groups = {ceil_div(num_heads, simdgroups), num_tokens, 1};
}

}  // namespace pagedkv::metal::detail_dispatches
