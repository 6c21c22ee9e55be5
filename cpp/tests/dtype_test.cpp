// Element types: names, widths, the C++ types that hold them.

#include "pagedkv/core/dtype.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <set>
#include <string>

#include "expect_error.hpp"

namespace {

using namespace pagedkv;
using pagedkv_test::expect_error;

constexpr DType kAll[] = {DType::float64,  DType::float32,     DType::float16,
                          DType::bfloat16, DType::float8_e4m3, DType::float8_e5m2,
                          DType::int8,     DType::int4,        DType::int32};

TEST(DType, EveryNameParsesToItsDtype) {
  std::set<std::string_view> names;
  for (const DType dtype : kAll) {
    EXPECT_EQ(parse_dtype(dtype_name(dtype)), dtype);
    names.insert(dtype_name(dtype));
  }
  EXPECT_EQ(names.size(), std::size(kAll));
}

TEST(DType, AnUnknownNameParsesToNothing) {
  for (const auto* name : {"", "float", "Float32", "float32 ", "float128"}) {
    EXPECT_FALSE(parse_dtype(name)) << name;
  }
}

TEST(DType, NumbersAreThoseOfSavedState) {
  // They stand in files: a new dtype goes to the end.
  for (std::size_t i = 0; i < std::size(kAll); ++i) EXPECT_EQ(static_cast<std::size_t>(kAll[i]), i);
}

TEST(DType, WidthsAreInBits) {
  const unsigned bits[] = {64, 32, 16, 16, 8, 8, 8, 4, 32};
  for (std::size_t i = 0; i < std::size(kAll); ++i) EXPECT_EQ(dtype_bits(kAll[i]), bits[i]);
}

template <class T>
std::set<std::string_view> held_by() {
  std::set<std::string_view> names;
  for (const DType dtype : kAll) {
    if (holds_elements_of<T>(dtype)) names.insert(dtype_name(dtype));
  }
  return names;
}

TEST(DType, EachIsHeldByOneCppType) {
  using Names = std::set<std::string_view>;
  EXPECT_EQ(held_by<double>(), (Names{"float64"}));
  EXPECT_EQ(held_by<float>(), (Names{"float32"}));
  EXPECT_EQ(held_by<std::uint16_t>(), (Names{"bfloat16", "float16"}));
  EXPECT_EQ(held_by<std::uint8_t>(), (Names{"float8_e4m3", "float8_e5m2", "int4"}));
  EXPECT_EQ(held_by<std::int8_t>(), (Names{"int8"}));
  EXPECT_EQ(held_by<std::int32_t>(), (Names{"int32"}));
  EXPECT_EQ(held_by<std::uint32_t>(), Names{});
}

TEST(DType, BytesAreCountTimesWidth) {
  EXPECT_EQ(detail::bytes_of("F.f", DType::float64, 3), 24u);
  EXPECT_EQ(detail::bytes_of("F.f", DType::bfloat16, 3), 6u);
  EXPECT_EQ(detail::bytes_of("F.f", DType::int8, 3), 3u);
  EXPECT_EQ(detail::bytes_of("F.f", DType::int4, 6), 3u);
  EXPECT_EQ(detail::bytes_of("F.f", DType::int4, 0), 0u);
}

TEST(DType, AnOddNumberOfInt4ElementsIsAShapeError) {
  expect_error<ShapeError>([] { (void)detail::bytes_of("F.f", DType::int4, 3); }, "F.f",
                           "an odd number of int4 elements", "an even one");
}

TEST(DType, BytesThatOverflowAreAShapeError) {
  EXPECT_THROW((void)detail::bytes_of("F.f", DType::float64, SIZE_MAX / 4), ShapeError);
  EXPECT_THROW((void)detail::bytes_of("F.f", DType::int8, SIZE_MAX), ShapeError);
}

TEST(DType, ACppTypeThatDoesNotHoldTheElementsIsAShapeError) {
  detail::expect_elements_of<float>("F.f", DType::float32);
  expect_error<ShapeError>([] { detail::expect_elements_of<double>("F.f", DType::float32); }, "F.f",
                           "does not hold float32", "one that does");
}

static_assert(dtype_bits(DType::float32) == 32 && parse_dtype("int8") == DType::int8,
              "usable in constant expressions");

}  // namespace
