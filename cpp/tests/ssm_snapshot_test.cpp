// SsmSnapshot: copies of a slot's state, to memory and to bytes.

#include "pagedkv/core/ssm_snapshot.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "expect_error.hpp"
#include "pagedkv/core/ssm_state_pool.hpp"

namespace {

using namespace pagedkv;
using pagedkv_test::expect_error;
using Bytes = std::vector<std::byte>;

constexpr SsmStateSpec kSpec{2, 1, 2, 3, 2, 3, DType::float32};
constexpr std::size_t kHeader = 8 + 9 * 8;  // magic, 8 fields, checksum

SsmSnapshot example() {
  SsmSnapshot snapshot(kSpec);
  snapshot.position = 77;
  std::uint8_t next = 1;
  for (auto& byte : snapshot.ssm_state()) byte = std::byte{next++};
  for (auto& byte : snapshot.conv_state()) byte = std::byte{next++};
  return snapshot;
}

void put(Bytes& bytes, std::size_t field, std::uint64_t value) {
  std::memcpy(bytes.data() + 8 + 8 * field, &value, 8);
}

/// What from_bytes says about bytes that no to_bytes made.
void expect_refused(const Bytes& bytes, const std::string& given, const std::string& expected) {
  expect_error<ShapeError>([&] { (void)SsmSnapshot::from_bytes(bytes); }, "SsmSnapshot.from_bytes",
                           given, expected);
}

TEST(SsmSnapshot, IsZeroAtPosition0) {
  const SsmSnapshot snapshot(kSpec);
  EXPECT_EQ(snapshot.spec(), kSpec);
  EXPECT_EQ(snapshot.position, 0u);
  EXPECT_EQ(snapshot.ssm_state().size(), kSpec.ssm_bytes());
  EXPECT_EQ(snapshot.conv_state().size(), kSpec.conv_bytes());
  EXPECT_EQ(snapshot, SsmSnapshot(kSpec));
}

TEST(SsmSnapshot, OfASlotOutlivesTheSlot) {
  SsmStatePool pool(1, kSpec);
  const auto slot = *pool.slot(pool.alloc(1));
  std::ranges::copy(example().ssm_state(), slot.ssm_state().begin());
  std::ranges::copy(example().conv_state(), slot.conv_state().begin());
  slot.advance(77);
  const auto snapshot = std::as_const(pool).slot(0)->snapshot();
  std::ranges::fill(slot.ssm_state(), std::byte{0xee});
  pool.release(0);
  EXPECT_EQ(snapshot, example());
}

TEST(SsmSnapshot, RestorePutsStateAndPositionBackAndKeepsTheRequest) {
  SsmStatePool pool(2, kSpec);
  const auto slot = *pool.slot(pool.alloc(5));
  slot.advance(3);
  slot.restore(example());
  EXPECT_EQ(slot.position(), 77u);
  EXPECT_EQ(slot.request_id(), 5u);
  EXPECT_EQ(slot.snapshot(), example());
  const auto other = *pool.slot(pool.alloc(6));
  EXPECT_EQ(other.snapshot(), SsmSnapshot(kSpec)) << "the neighbour is untouched";
}

TEST(SsmSnapshot, RestoreOfAnotherShapeOrDtypeIsAnErrorAndChangesNothing) {
  SsmStatePool pool(1, kSpec);
  const auto slot = *pool.slot(pool.alloc(5));
  slot.restore(example());
  auto transposed = kSpec;  // as many bytes in another shape
  std::swap(transposed.head_dim, transposed.d_state);
  auto integers = kSpec;
  integers.dtype = DType::int32;
  auto shorter = kSpec;
  shorter.num_layers = 1;
  for (const auto& spec : {transposed, integers, shorter}) {
    expect_error<ShapeError>([&] { slot.restore(SsmSnapshot(spec)); }, "SsmSlot.restore",
                             spec.repr(), kSpec.repr());
  }
  EXPECT_EQ(slot.snapshot(), example());
}

TEST(SsmSnapshot, SurvivesBytes) {
  const auto bytes = example().to_bytes();
  EXPECT_EQ(bytes.size(), kHeader + kSpec.ssm_bytes() + kSpec.conv_bytes());
  EXPECT_EQ(SsmSnapshot::from_bytes(bytes), example());
  auto without_history = kSpec;
  without_history.d_conv = 1;
  const SsmSnapshot plain(without_history);
  EXPECT_EQ(SsmSnapshot::from_bytes(plain.to_bytes()), plain);
}

TEST(SsmSnapshot, BytesAreAHeaderAndTheStateAsItLies) {
  const auto bytes = example().to_bytes();
  EXPECT_EQ(std::memcmp(bytes.data(), "PKVSSM01", 8), 0);
  const std::uint64_t fields[] = {2, 1, 2, 3, 2, 3, 1, 77};  // dimensions, dtype, position
  EXPECT_EQ(std::memcmp(bytes.data() + 8, fields, sizeof fields), 0) << "little-endian";
  EXPECT_EQ(bytes[kHeader], std::byte{1}) << "the recurrent state first";
  EXPECT_EQ(bytes[kHeader + kSpec.ssm_bytes()], example().conv_state()[0]);
}

TEST(SsmSnapshot, BytesThatAreTooFewAreRefused) {
  const auto bytes = example().to_bytes();
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    const Bytes cut(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size));
    EXPECT_THROW((void)SsmSnapshot::from_bytes(cut), ShapeError) << size;
  }
  expect_refused({}, "0 bytes that do not begin as a snapshot", "what to_bytes returned");
}

TEST(SsmSnapshot, BytesThatAreTooManyAreRefused) {
  auto bytes = example().to_bytes();
  bytes.push_back(std::byte{0});
  expect_refused(bytes, "81 bytes of state", "48 + 32 for " + kSpec.repr());
}

TEST(SsmSnapshot, EveryFlippedBitIsFound) {
  const auto bytes = example().to_bytes();
  for (std::size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
    auto damaged = bytes;
    damaged[bit / 8] ^= static_cast<std::byte>(1u << bit % 8);
    EXPECT_THROW((void)SsmSnapshot::from_bytes(damaged), Error) << "bit " << bit;
  }
}

TEST(SsmSnapshot, DamageIsNamed) {
  auto magic = example().to_bytes();
  magic[0] = std::byte{'Q'};
  expect_refused(magic, "160 bytes that do not begin as a snapshot", "what to_bytes returned");

  auto dtype = example().to_bytes();
  put(dtype, 6, 9);
  expect_refused(dtype, "dtype number 9", "one below 9");
  put(dtype, 6, 1 + (std::uint64_t{1} << 32));
  expect_refused(dtype, "dtype number 4294967297", "one below 9");

  auto position = example().to_bytes();
  put(position, 7, 78);
  expect_refused(position, "a checksum that does not match", "unchanged bytes");

  auto state = example().to_bytes();
  state.back() ^= std::byte{1};
  expect_refused(state, "a checksum that does not match", "unchanged bytes");
}

TEST(SsmSnapshot, AHeaderThatPromisesMoreThanThereIsAllocatesNothing) {
  auto bytes = example().to_bytes();
  put(bytes, 0, std::uint64_t{1} << 55);  // a petabyte: if it were allocated, this would not pass
  expect_refused(bytes, "80 bytes of state", "for SsmStateSpec(num_layers=36028797018963968");
  put(bytes, 0, ~std::uint64_t{0});
  EXPECT_THROW((void)SsmSnapshot::from_bytes(bytes), ShapeError) << "a size that overflows";
  put(bytes, 0, 0);
  EXPECT_THROW((void)SsmSnapshot::from_bytes(bytes), ShapeError) << "no layers";
}

TEST(SsmSnapshot, OfAnUnsupportedDtypeIsRefused) {
  auto bytes = example().to_bytes();
  put(bytes, 6, static_cast<std::uint64_t>(DType::int4));
  EXPECT_THROW((void)SsmSnapshot::from_bytes(bytes), UnsupportedError);
}

}  // namespace
