#pragma once

// Sizes that come from outside are multiplied and added with overflow checked. The limit is what an
// array can have, so that an allocation of the result cannot overflow either when it is rounded up.

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "pagedkv/core/errors.hpp"

namespace pagedkv::inline v0_1::detail {

inline constexpr std::size_t kMaxSize = PTRDIFF_MAX;

[[noreturn]] PAGEDKV_COLD inline void throw_too_large(const char* where) {
  throw_shape(where, "a size beyond " + std::to_string(kMaxSize) +
                         "; expected dimensions that an array can have");
}

/// Product of `factors`, or ShapeError when it is beyond `kMaxSize`.
[[nodiscard]] inline std::size_t checked_product(const char* where,
                                                 std::initializer_list<std::size_t> factors) {
  std::size_t product = 1;
  for (const std::size_t factor : factors) {
    if (factor == 0) return 0;
  }
  for (const std::size_t factor : factors) {
    if (product > kMaxSize / factor) throw_too_large(where);
    product *= factor;
  }
  return product;
}

/// `a + b`, or ShapeError when it is beyond `kMaxSize`.
[[nodiscard]] inline std::size_t checked_sum(const char* where, std::size_t a, std::size_t b) {
  if (a > kMaxSize || b > kMaxSize - a) throw_too_large(where);
  return a + b;
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
