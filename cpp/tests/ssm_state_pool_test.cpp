// SsmStatePool and its slots. What every pool has in common is in pool_contract_test.cpp.

#include "pagedkv/core/ssm_state_pool.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <utility>

#include "expect_error.hpp"

namespace {

using namespace pagedkv;
using pagedkv_test::expect_error;

constexpr auto kMax = std::numeric_limits<std::size_t>::max();
constexpr SsmStateSpec kSpec{
    .num_layers = 2, .num_heads = 3, .head_dim = 5, .d_state = 7, .conv_dim = 11, .d_conv = 4};
constexpr std::size_t kStateSize = 2 * 3 * 5 * 7;
constexpr std::size_t kConvSize = 2 * 11 * 3;

bool is_zero(std::span<const std::byte> bytes) {
  return std::ranges::all_of(bytes, [](std::byte byte) { return byte == std::byte{0}; });
}

TEST(SsmStateSpec, SaysWhatASlotHolds) {
  EXPECT_EQ(kSpec.dtype, DType::float32) << "unless told otherwise";
  EXPECT_EQ(kSpec.ssm_bytes(), kStateSize * sizeof(float));
  EXPECT_EQ(kSpec.conv_bytes(), kConvSize * sizeof(float)) << "[num_layers, conv_dim, d_conv - 1]";
  auto half = kSpec;
  half.dtype = DType::bfloat16;
  EXPECT_EQ(half.ssm_bytes(), kStateSize * 2);
  EXPECT_NE(half, kSpec);
}

TEST(SsmStateSpec, MayBeWithoutConvolution) {
  auto spec = kSpec;
  spec.d_conv = 1;
  spec.validate();
  EXPECT_EQ(spec.conv_bytes(), 0u);
  spec = kSpec;
  spec.conv_dim = 0;
  spec.validate();
  EXPECT_EQ(spec.conv_bytes(), 0u);
}

TEST(SsmStateSpec, ADimensionOfZeroIsAShapeError) {
  using Dimension = std::size_t SsmStateSpec::*;
  const auto expect_refused = [](Dimension dimension, const char* name) {
    auto spec = kSpec;
    spec.*dimension = 0;
    expect_error<ShapeError>([&] { spec.validate(); }, "SsmStateSpec", std::string(name) + " is 0",
                             "at least 1");
    EXPECT_THROW(SsmStatePool(1, spec), ShapeError);
    EXPECT_THROW(SsmSnapshot{spec}, ShapeError);
  };
  expect_refused(&SsmStateSpec::num_layers, "num_layers");
  expect_refused(&SsmStateSpec::num_heads, "num_heads");
  expect_refused(&SsmStateSpec::head_dim, "head_dim");
  expect_refused(&SsmStateSpec::d_state, "d_state");
  expect_refused(&SsmStateSpec::d_conv, "d_conv");
}

TEST(SsmStateSpec, SizesThatOverflowAreAShapeError) {
  const SsmStateSpec state{1, kMax, kMax, 1, 0, 1, DType::int8};
  EXPECT_THROW(state.validate(), ShapeError);
  const SsmStateSpec history{1, 1, 1, 1, kMax, kMax, DType::int8};
  EXPECT_THROW(history.validate(), ShapeError);
  // Each half fits, the two together do not.
  const SsmStateSpec sum{1, 1, 1, std::size_t{1} << 60, std::size_t{1} << 60, 2, DType::float32};
  expect_error<ShapeError>([&] { sum.validate(); }, "SsmStateSpec", "a size beyond",
                           "an array can have");
  EXPECT_THROW(SsmStatePool(0, sum), ShapeError);
  EXPECT_THROW(SsmSnapshot{sum}, ShapeError);
}

TEST(SsmStateSpec, Int4IsUnsupported) {
  auto spec = kSpec;
  spec.dtype = DType::int4;
  expect_error<UnsupportedError>([&] { spec.validate(); }, "SsmStateSpec", "dtype int4",
                                 "at least 8 bits");
}

TEST(SsmStateSpec, ReprNamesEachDimension) {
  EXPECT_EQ(kSpec.repr(),
            "SsmStateSpec(num_layers=2, num_heads=3, head_dim=5, d_state=7, conv_dim=11, d_conv=4, "
            "dtype=float32)");
}

TEST(SsmStatePool, ASlotHasStateHistoryPositionAndRequest) {
  SsmStatePool pool(2, kSpec);
  const auto index = pool.alloc(4711);
  const auto slot = pool.slot(index);
  ASSERT_TRUE(slot);
  EXPECT_EQ(slot->ssm_state_as<float>().size(), kStateSize);
  EXPECT_EQ(slot->conv_state_as<float>().size(), kConvSize);
  EXPECT_EQ(slot->position(), 0u);
  EXPECT_EQ(slot->request_id(), 4711u);
  EXPECT_EQ(slot->index(), index);
  EXPECT_TRUE(slot->is_live());
}

TEST(SsmStatePool, SlotsAreZeroedAlignedAndDoNotOverlap) {
  SsmStatePool pool(3, kSpec);
  for (std::uint64_t request = 0; request < 3; ++request) {
    const auto slot = *pool.slot(pool.alloc(request));
    EXPECT_TRUE(is_zero(slot.ssm_state()) && is_zero(slot.conv_state()));
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(slot.ssm_state().data()) % 64, 0u);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(slot.conv_state().data()) % 64, 0u);
    std::ranges::fill(slot.ssm_state_as<float>(), static_cast<float>(request + 1));
    std::ranges::fill(slot.conv_state_as<float>(), -static_cast<float>(request + 1));
  }
  for (std::size_t index = 0; index < 3; ++index) {
    const auto value = static_cast<float>(index + 1);
    for (const float state : pool.slot(index)->ssm_state_as<float>()) EXPECT_EQ(state, value);
    for (const float past : pool.slot(index)->conv_state_as<float>()) EXPECT_EQ(past, -value);
  }
}

TEST(SsmStatePool, ASlotReadsAsZeroAtPosition0WhenItIsHandedOutAgain) {
  SsmStatePool pool(1, kSpec);
  const auto first = *pool.slot(pool.alloc(1));
  std::ranges::fill(first.ssm_state(), std::byte{0xff});
  std::ranges::fill(first.conv_state(), std::byte{0xff});
  first.advance(9);
  pool.release(0);
  const auto second = *pool.slot(pool.alloc(2));
  EXPECT_TRUE(is_zero(second.ssm_state()));
  EXPECT_TRUE(is_zero(second.conv_state()));
  EXPECT_EQ(second.position(), 0u);
  EXPECT_EQ(second.request_id(), 2u);
}

TEST(SsmStatePool, AdvanceCountsTokens) {
  SsmStatePool pool(1, kSpec);
  const auto slot = *pool.slot(pool.alloc(0));
  slot.advance();
  slot.advance(41);
  slot.advance(0);
  EXPECT_EQ(slot.position(), 42u);
  constexpr auto kLast = std::numeric_limits<std::uint64_t>::max();
  expect_error<CapacityError>([&] { slot.advance(kLast); }, "SsmSlot.advance",
                              "position 42 and 18446744073709551615 more", "below 2^64");
  EXPECT_EQ(slot.position(), 42u);
  slot.advance(kLast - 42);
  EXPECT_EQ(slot.position(), kLast);
}

TEST(SsmStatePool, ASlotThatIsNotLiveIsNothing) {
  SsmStatePool pool(2, kSpec);
  EXPECT_FALSE(pool.slot(0)) << "never handed out";
  (void)pool.alloc(1);
  EXPECT_TRUE(pool.slot(0));
  EXPECT_TRUE(std::as_const(pool).slot(0));
  EXPECT_FALSE(pool.slot(1));
  EXPECT_FALSE(pool.slot(2)) << "out of range";
  EXPECT_FALSE(pool.slot(kMax));
  EXPECT_FALSE(pool.slot(std::size_t{1} << 32)) << "not cut down to 32 bits";
  pool.release(0);
  EXPECT_FALSE(pool.slot(0)) << "released";
  EXPECT_FALSE(std::as_const(pool).slot(0));
}

template <class Slot>
void expect_dead(const Slot& slot) {
  EXPECT_FALSE(slot.is_live());
  const auto refused = [&](const char* where, auto call) {
    EXPECT_EQ(expect_error<InvalidSlotError>(call, where, "slot 0 is not live", "held").slot(), 0u);
  };
  refused("SsmSlot.ssm_state", [&] { (void)slot.ssm_state(); });
  refused("SsmSlot.conv_state", [&] { (void)slot.conv_state(); });
  refused("SsmSlot.position", [&] { (void)slot.position(); });
  refused("SsmSlot.request_id", [&] { (void)slot.request_id(); });
  refused("SsmSlot.snapshot", [&] { (void)slot.snapshot(); });
}

TEST(SsmStatePool, AHandleOfAReleasedSlotIsDead) {
  SsmStatePool pool(1, kSpec);
  (void)pool.alloc(1);
  const auto handle = *pool.slot(0);
  const auto view = *std::as_const(pool).slot(0);
  pool.release(0);
  expect_dead(handle);
  expect_dead(view);
  EXPECT_THROW(handle.advance(), InvalidSlotError);
  EXPECT_THROW(handle.restore(SsmSnapshot(kSpec)), InvalidSlotError);
}

TEST(SsmStatePool, AHandleStaysDeadWhenTheSlotIsHandedOutAgain) {
  SsmStatePool pool(1, kSpec);
  (void)pool.alloc(1);
  const auto stale = *pool.slot(0);
  pool.release(0);
  (void)pool.alloc(2);
  expect_dead(stale);  // nobody reads another request's state
  EXPECT_THROW(stale.advance(), InvalidSlotError);
  EXPECT_EQ(pool.slot(0)->position(), 0u);
}

TEST(SsmStatePool, AHandleOfAPoolThatMovedAwayIsDead) {
  SsmStatePool pool(1, kSpec);
  (void)pool.alloc(1);
  const auto handle = *pool.slot(0);
  SsmStatePool moved(std::move(pool));
  EXPECT_FALSE(handle.is_live());
  EXPECT_EQ(moved.slot(0)->request_id(), 1u);
}

TEST(SsmStatePool, RefusesToShowAStateAsAnotherType) {
  SsmStatePool pool(1, kSpec);
  const auto slot = *pool.slot(pool.alloc(1));
  expect_error<ShapeError>([&] { (void)slot.ssm_state_as<double>(); }, "SsmSlot.ssm_state_as",
                           "does not hold float32", "one that does");
  expect_error<ShapeError>([&] { (void)slot.conv_state_as<std::uint16_t>(); },
                           "SsmSlot.conv_state_as", "does not hold float32", "one that does");
}

TEST(SsmStatePool, ErrorsNameTheCall) {
  SsmStatePool pool(1, kSpec);
  expect_error<InvalidSlotError>([&] { pool.release(0); }, "SsmStatePool.release",
                                 "slot 0 is not live", "held");
  expect_error<InvalidSlotError>([&] { pool.release(9); }, "SsmStatePool.release",
                                 "slot 9 is out of range", "less than 1");
  (void)pool.alloc(1);
  expect_error<PoolExhaustedError>([&] { (void)pool.alloc(2); }, "SsmStatePool.alloc",
                                   "1 needed, 0 free", "as many free");
}

TEST(SsmStatePool, TooManySlotsAreACapacityErrorAndTooManyBytesAShapeError) {
  EXPECT_THROW(SsmStatePool(BlockAllocator::kMaxCapacity + 1, kSpec), CapacityError);
  const SsmStateSpec large{1, 1, 1, std::size_t{1} << 58, 0, 1, DType::float32};
  expect_error<ShapeError>([&] { SsmStatePool pool(64, large); }, "SsmStatePool", "a size beyond",
                           "an array can have");
}

TEST(SsmStatePool, KeepsItsSpecAndCounts) {
  SsmStatePool pool(3, kSpec);
  EXPECT_EQ(pool.spec(), kSpec);
  EXPECT_EQ(pool.capacity(), 3u);
  (void)pool.alloc(1);
  EXPECT_EQ(pool.free_count(), 2u);
  EXPECT_EQ(pool.used_count(), 1u);
}

}  // namespace
