#pragma once

// Sizes that come from outside are multiplied with overflow checked.

#include <cstddef>
#include <initializer_list>
#include <limits>

#include "pagedkv/core/errors.hpp"

namespace pagedkv::inline v0_1::detail {

/// Product of `factors`, or ShapeError when it does not fit in `std::size_t`.
[[nodiscard]] inline std::size_t checked_product(const char* where,
                                                 std::initializer_list<std::size_t> factors) {
  std::size_t product = 1;
  for (const std::size_t factor : factors) {
    if (factor == 0) return 0;
  }
  for (const std::size_t factor : factors) {
    if (product > std::numeric_limits<std::size_t>::max() / factor) {
      throw_shape(where, "the size asked for overflows 64 bits; expected a product of dimensions "
                         "that fits");
    }
    product *= factor;
  }
  return product;
}

/// `ceil(value / divisor)` without overflow; `divisor` > 0.
[[nodiscard]] constexpr std::size_t ceil_div(std::size_t value, std::size_t divisor) noexcept {
  return value / divisor + (value % divisor != 0 ? 1 : 0);
}

/// `value` rounded up to a multiple of `multiple`, or ShapeError when that does not fit.
[[nodiscard]] inline std::size_t round_up(const char* where, std::size_t value,
                                          std::size_t multiple) {
  return checked_product(where, {ceil_div(value, multiple), multiple});
}

}  // namespace pagedkv::inline v0_1::detail
