// Host memory of pools.

#include "pagedkv/detail/storage.hpp"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <utility>

namespace {

using pagedkv::detail::Storage;

std::uintptr_t address(const Storage& storage) {
  return reinterpret_cast<std::uintptr_t>(storage.data());
}

bool is_zero(const Storage& storage) {
  const auto* const bytes = storage.data();
  return bytes[0] == std::byte{0} && std::memcmp(bytes, bytes + 1, storage.size() - 1) == 0;
}

TEST(Storage, IsZeroedAndAlignedToACacheLine) {
  for (const std::size_t size : {1u, 63u, 64u, 65u, 4096u, 100'000u}) {
    const Storage storage(size);
    EXPECT_EQ(storage.size(), size);
    EXPECT_EQ(address(storage) % 64, 0u) << size;
    EXPECT_TRUE(is_zero(storage)) << size;
  }
}

TEST(Storage, IsZeroedAlsoWhereTheMemoryWasUsedBefore) {
  for (int round = 0; round < 10; ++round) {
    Storage storage(1000);
    EXPECT_TRUE(is_zero(storage)) << "round " << round;
    std::memset(storage.data(), 0xff, storage.size());
  }
}

TEST(Storage, IsAlignedToAHugePageWhenItIsLarge) {
  constexpr std::size_t kMiB = std::size_t{1} << 20;
  for (const std::size_t size : {4 * kMiB, 4 * kMiB + 1, 5 * kMiB}) {
    const Storage storage(size);
    EXPECT_EQ(address(storage) % (2 * kMiB), 0u) << size;
    EXPECT_TRUE(is_zero(storage)) << size;
  }
}

TEST(Storage, OfNoBytesHoldsNothing) {
  EXPECT_EQ(Storage().data(), nullptr);
  EXPECT_EQ(Storage(0).data(), nullptr);
  EXPECT_EQ(Storage(0).size(), 0u);
}

TEST(Storage, MovesAndLeavesNothingBehind) {
  Storage from(128);
  auto* const bytes = from.data();
  bytes[7] = std::byte{42};
  Storage to(std::move(from));
  EXPECT_EQ(to.data(), bytes);
  EXPECT_EQ(from.data(), nullptr);  // NOLINT(bugprone-use-after-move): that is the question
  EXPECT_EQ(from.size(), 0u);
  Storage other(64);
  other = std::move(to);
  EXPECT_EQ(other.data(), bytes);
  EXPECT_EQ(other.data()[7], std::byte{42});
  EXPECT_EQ(to.size(), 0u);
  auto& self = other;
  other = std::move(self);
  EXPECT_EQ(other.data(), bytes);
}

TEST(SpanCast, ShowsTheSameBytesAsElements) {
  Storage storage(24);
  const std::span bytes(storage.data(), storage.size());
  const auto values = pagedkv::detail::span_cast<double>(bytes);
  ASSERT_EQ(values.size(), 3u);
  values[1] = 2.5;
  const auto read = pagedkv::detail::span_cast<double>(std::span<const std::byte>(bytes));
  EXPECT_EQ(read[1], 2.5);
  EXPECT_EQ(static_cast<const void*>(read.data()), storage.data());
}

}  // namespace
