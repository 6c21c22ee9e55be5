#pragma once

// Copies between pages and flat arrays.

#include <cstddef>
#include <cstring>

namespace pagedkv::inline v0_1::detail {

/// Copies `size` bytes that do not overlap.
inline void copy_bytes(std::byte* to, const std::byte* from, std::size_t size) noexcept {
  if (size != 0) std::memcpy(to, from, size);
}

}  // namespace pagedkv::inline v0_1::detail
