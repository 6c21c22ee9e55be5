// The error tree and its messages.

#include "pagedkv/core/errors.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <new>
#include <type_traits>

#include "expect_error.hpp"
#include "pagedkv/detail/checked_math.hpp"

namespace {

using namespace pagedkv;
using pagedkv_test::expect_error;

template <class Derived, class Base>
constexpr bool is_a = std::is_base_of_v<Base, Derived>;

static_assert(is_a<Error, std::runtime_error>);
static_assert(is_a<PoolError, Error>);
static_assert(is_a<PoolExhaustedError, PoolError> && is_a<InvalidSlotError, PoolError>);
static_assert(is_a<ShapeError, Error> && !is_a<ShapeError, PoolError>);
static_assert(is_a<CapacityError, Error> && !is_a<CapacityError, PoolError>);
static_assert(is_a<UnsupportedError, Error> && is_a<SequenceError, Error>);
static_assert(!is_a<Error, std::bad_alloc>, "running out of host memory stays std::bad_alloc");

TEST(Errors, AnExhaustedPoolTellsHowManyWereNeededAndHowManyWereFree) {
  const auto error =
      expect_error<PoolExhaustedError>([] { detail::throw_exhausted("Pool.take", 5, 2); },
                                       "Pool.take", "5 needed, 2 free", "as many free");
  EXPECT_EQ(error.needed(), 5u);
  EXPECT_EQ(error.free(), 2u);
}

TEST(Errors, AnIdOutOfRangeIsNamedWithTheRange) {
  const auto error =
      expect_error<InvalidSlotError>([] { detail::throw_out_of_range("Pool.free", "slot", 9, 4); },
                                     "Pool.free", "slot 9 is out of range", "less than 4");
  EXPECT_EQ(error.slot(), 9u);
}

TEST(Errors, AnIdThatIsNotLiveIsNamed) {
  const auto error =
      expect_error<InvalidSlotError>([] { detail::throw_not_live("Pool.free", "slot", 3, 4); },
                                     "Pool.free", "slot 3 is not live", "one that is held");
  EXPECT_EQ(error.slot(), 3u);
}

TEST(Errors, AnIdThatIsNotLiveBecauseItIsOutOfRangeIsCalledOutOfRange) {
  expect_error<InvalidSlotError>([] { detail::throw_not_live("Pool.free", "slot", 4, 4); },
                                 "Pool.free", "slot 4 is out of range", "less than 4");
}

TEST(Errors, NoSlotIsTheLargestNumberOf64Bits) {
  EXPECT_EQ(InvalidSlotError::kNoSlot, std::numeric_limits<std::uint64_t>::max());
}

TEST(Errors, EachThrowingHelperNamesFunctionGivenAndExpected) {
  expect_error<ShapeError>([] { detail::throw_zero("F.f", "dim"); }, "F.f", "dim is 0",
                           "at least 1");
  expect_error<ShapeError>([] { detail::throw_shape("F.f", "3; expected 4"); }, "F.f", "3", "4");
  expect_error<CapacityError>([] { detail::throw_capacity("F.f", "3; expected 2"); }, "F.f", "3",
                              "2");
  expect_error<UnsupportedError>([] { detail::throw_unsupported("F.f", "x; expected y"); }, "F.f",
                                 "x", "y");
}

TEST(CheckedMath, AProductOfDimensionsIsExact) {
  EXPECT_EQ(detail::checked_product("F.f", {3, 5, 7}), 105u);
  EXPECT_EQ(detail::checked_product("F.f", {}), 1u);
  EXPECT_EQ(detail::checked_product("F.f", {detail::kMaxSize, 1}), detail::kMaxSize);
}

TEST(CheckedMath, AFactorOfZeroGivesZeroWhereverItStands) {
  EXPECT_EQ(detail::checked_product("F.f", {SIZE_MAX, SIZE_MAX, 0}), 0u);
  EXPECT_EQ(detail::checked_product("F.f", {0, SIZE_MAX, SIZE_MAX}), 0u);
}

TEST(CheckedMath, AProductBeyondAnyArrayIsAShapeError) {
  const auto half = std::size_t{1} << 32;
  expect_error<ShapeError>([&] { (void)detail::checked_product("F.f", {half, half}); }, "F.f",
                           "a size beyond", "an array can have");
  expect_error<ShapeError>([&] { (void)detail::checked_product("F.f", {detail::kMaxSize + 1}); },
                           "F.f", "a size beyond", "an array can have");
}

TEST(CheckedMath, ASumBeyondAnyArrayIsAShapeError) {
  EXPECT_EQ(detail::checked_sum("F.f", detail::kMaxSize, 0), detail::kMaxSize);
  const auto expect_too_large = [](std::size_t a, std::size_t b) {
    expect_error<ShapeError>([&] { (void)detail::checked_sum("F.f", a, b); }, "F.f",
                             "a size beyond", "an array can have");
  };
  expect_too_large(detail::kMaxSize, 1);
  expect_too_large(1, detail::kMaxSize);
  expect_too_large(SIZE_MAX, SIZE_MAX);
}

TEST(CheckedMath, DivisionRoundsUpWithoutOverflow) {
  EXPECT_EQ(detail::ceil_div(0, 16), 0u);
  EXPECT_EQ(detail::ceil_div(1, 16), 1u);
  EXPECT_EQ(detail::ceil_div(16, 16), 1u);
  EXPECT_EQ(detail::ceil_div(17, 16), 2u);
  EXPECT_EQ(detail::ceil_div(SIZE_MAX, 2), SIZE_MAX / 2 + 1);
  EXPECT_EQ(detail::ceil_div(SIZE_MAX, SIZE_MAX), 1u);
}

TEST(CheckedMath, RoundingUpChecksForOverflow) {
  EXPECT_EQ(detail::round_up("F.f", 0, 64), 0u);
  EXPECT_EQ(detail::round_up("F.f", 65, 64), 128u);
  EXPECT_THROW((void)detail::round_up("F.f", detail::kMaxSize, 64), ShapeError);
}

}  // namespace
