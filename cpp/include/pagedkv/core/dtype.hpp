#pragma once

// Element types of stored keys, values and states. The library stores and moves elements; only the
// kernels compute with them.

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "pagedkv/core/errors.hpp"
#include "pagedkv/detail/checked_math.hpp"

namespace pagedkv::inline v0_1 {

/// Element type of a buffer. The numbers are stored in saved state and never change.
enum class DType : std::uint8_t {
  float64 = 0,
  float32 = 1,
  float16 = 2,
  bfloat16 = 3,
  float8_e4m3 = 4,
  float8_e5m2 = 5,
  int8 = 6,
  int4 = 7,  ///< two elements a byte, the even one in the low nibble
  int32 = 8,
};

namespace detail {
struct DTypeInfo {
  std::string_view name;
  unsigned bits;
};
inline constexpr std::array<DTypeInfo, 9> kDTypes{{{"float64", 64},
                                                   {"float32", 32},
                                                   {"float16", 16},
                                                   {"bfloat16", 16},
                                                   {"float8_e4m3", 8},
                                                   {"float8_e5m2", 8},
                                                   {"int8", 8},
                                                   {"int4", 4},
                                                   {"int32", 32}}};
}  // namespace detail

/// Name of `dtype`, as `parse_dtype` takes it.
[[nodiscard]] constexpr std::string_view dtype_name(DType dtype) noexcept {
  return detail::kDTypes[static_cast<std::size_t>(dtype)].name;
}

/// Bits of one element.
[[nodiscard]] constexpr unsigned dtype_bits(DType dtype) noexcept {
  return detail::kDTypes[static_cast<std::size_t>(dtype)].bits;
}

/// The dtype of that name, or nothing.
[[nodiscard]] constexpr std::optional<DType> parse_dtype(std::string_view name) noexcept {
  for (std::size_t i = 0; i < detail::kDTypes.size(); ++i) {
    if (detail::kDTypes[i].name == name) return static_cast<DType>(i);
  }
  return std::nullopt;
}

/// True for the dtypes whose elements are small floats or integers that a scale belongs to.
[[nodiscard]] constexpr bool is_quantized(DType dtype) noexcept {
  return dtype == DType::float8_e4m3 || dtype == DType::float8_e5m2 || dtype == DType::int8 ||
         dtype == DType::int4;
}

/// True for the dtypes that queries, results and new keys and values come in.
[[nodiscard]] constexpr bool is_plain_float(DType dtype) noexcept {
  return dtype == DType::float64 || dtype == DType::float32 || dtype == DType::float16 ||
         dtype == DType::bfloat16;
}

/// Largest value of a quantised dtype that a computed scale makes use of.
[[nodiscard]] constexpr double largest_quantized(DType dtype) noexcept {
  switch (dtype) {
    case DType::float8_e4m3: return 448;
    case DType::float8_e5m2: return 57344;
    case DType::int8: return 127;
    default: return 7;
  }
}

/// True for the C++ types whose values are elements of `dtype` as they lie in memory. Types that
/// C++ does not have (float16, bfloat16, fp8) are held as unsigned integers of their width, int4 as
/// bytes of two elements.
template <class T>
[[nodiscard]] constexpr bool holds_elements_of(DType dtype) noexcept {
  switch (dtype) {
    case DType::float64: return std::same_as<T, double>;
    case DType::float32: return std::same_as<T, float>;
    case DType::float16:
    case DType::bfloat16: return std::same_as<T, std::uint16_t>;
    case DType::float8_e4m3:
    case DType::float8_e5m2:
    case DType::int4: return std::same_as<T, std::uint8_t>;
    case DType::int8: return std::same_as<T, std::int8_t>;
    case DType::int32: return std::same_as<T, std::int32_t>;
  }
  return false;
}

namespace detail {

/// Bytes of `count` elements; ShapeError when they overflow 64 bits or end inside a byte.
[[nodiscard]] inline std::size_t bytes_of(const char* where, DType dtype, std::size_t count) {
  if (dtype == DType::int4) {
    if (count % 2 != 0) {
      throw_shape(where, "an odd number of int4 elements; expected an even one (two share a byte)");
    }
    return count / 2;
  }
  return checked_product(where, {count, dtype_bits(dtype) / 8});
}

/// Checks that values of `T` are what a buffer of `dtype` holds.
template <class T>
void expect_elements_of(const char* where, DType dtype) {
  if (!holds_elements_of<T>(dtype)) {
    throw_shape(where, "values of a C++ type that does not hold " + std::string(dtype_name(dtype)) +
                           " elements; expected one that does");
  }
}

}  // namespace detail
}  // namespace pagedkv::inline v0_1
