#pragma once

// What every backend refuses: elements and rectangles outside of a buffer.

#include <cstddef>
#include <string>

#include "pagedkv/core/backend.hpp"
#include "pagedkv/core/errors.hpp"
#include "pagedkv/detail/checked_math.hpp"

namespace pagedkv::inline v0_1::detail {

/// ShapeError unless elements [first, first + count) are among `size`.
inline void expect_range(const char* where, std::size_t first, std::size_t count,
                         std::size_t size) {
  if (first > size || count > size - first) [[unlikely]] {
    throw_shape(where, "elements " + std::to_string(first) + " to " + std::to_string(first) +
                           " + " + std::to_string(count) + "; expected them inside the buffer's " +
                           std::to_string(size));
  }
}

/// ShapeError unless `rows`, at least one, are inside a buffer of `size` bytes.
inline void expect_rows(const char* where, const RowCopy& rows, std::size_t size) {
  const std::size_t last = checked_product(where, {rows.rows - 1, rows.device_pitch});
  if (rows.device_offset > size || last > size - rows.device_offset ||
      rows.width > size - rows.device_offset - last) [[unlikely]] {
    throw_shape(where, std::to_string(rows.rows) + " rows of " + std::to_string(rows.width) +
                           " bytes from byte " + std::to_string(rows.device_offset) +
                           "; expected them inside the buffer's " + std::to_string(size) +
                           " bytes");
  }
}

}  // namespace pagedkv::inline v0_1::detail
