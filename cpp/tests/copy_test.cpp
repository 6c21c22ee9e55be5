// Copies between pages and flat arrays: whatever the sizes and the addresses, the bytes arrive and
// no other byte is touched.

#include "pagedkv/detail/copy.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "pagedkv/detail/storage.hpp"

namespace {

using namespace pagedkv;
using Bytes = std::vector<std::byte>;

constexpr std::byte kUntouched{0xcd};

Bytes pattern(std::size_t size) {
  Bytes bytes(size);
  std::uint32_t state = 12345;
  for (auto& byte : bytes) {
    state = state * 1664525 + 1013904223;
    byte = static_cast<std::byte>(state >> 24);
  }
  return bytes;
}

/// A page-aligned piece of memory, so that offsets in it are offsets modulo 4,096.
struct Page {
  explicit Page(std::size_t size) : memory(size + 4096) {
    const auto address = reinterpret_cast<std::uintptr_t>(memory.data());
    data = memory.data() + (4096 - address % 4096) % 4096;
  }
  Bytes memory;
  std::byte* data;
};

/// `copy(to, from, size)` moves exactly its bytes, for sizes around each threshold and each offset
/// of the destination within a line, and for sources just before it modulo 4,096.
template <class Copy>
void expect_exact(Copy copy) {
  constexpr std::size_t kLargest = 6000;
  constexpr std::size_t kMargin = 128;
  const Bytes source = pattern(kLargest);
  Page from(kLargest + 128);
  Page to(kLargest + 2 * kMargin + 64);
  for (const std::size_t size :
       {0u, 1u, 63u, 64u, 65u, 575u, 576u, 2047u, 2048u, 2049u, 4096u, 6000u}) {
    for (const std::size_t to_offset : {0u, 1u, 16u, 31u, 32u, 63u}) {
      for (const std::size_t from_offset : {0u, 1u, 15u, 64u, 97u, 127u}) {
        auto* const target = to.data + kMargin + to_offset;
        std::memcpy(from.data + from_offset, source.data(), kLargest);
        std::fill(to.data, target + size + kMargin, kUntouched);
        copy(target, from.data + from_offset, size);
        ASSERT_EQ(std::memcmp(target, source.data(), size), 0)
            << size << " bytes from offset " << from_offset << " to " << to_offset;
        const auto untouched = [](std::byte byte) { return byte == kUntouched; };
        ASSERT_TRUE(std::all_of(to.data, target, untouched));
        ASSERT_TRUE(std::all_of(target + size, target + size + kMargin, untouched));
      }
    }
  }
}

TEST(Copy, MovesExactlyItsBytes) { expect_exact(detail::copy_bytes); }

TEST(Copy, AroundTheCachesMovesExactlyItsBytes) {
  expect_exact([](std::byte* to, const std::byte* from, std::size_t size) {
    detail::stream_bytes(to, from, size);
    detail::stream_fence();
  });
}

TEST(Copy, OfNothingNeedsNoMemory) {
  detail::copy_bytes(nullptr, nullptr, 0);
  const detail::Transfer transfer(0);
  transfer.copy(nullptr, nullptr, 0);
}

TEST(Transfer, OfAnySizeMovesExactlyItsBytes) {
  for (const std::size_t whole :
       {std::size_t{0}, detail::kStreamTransferFrom - 1, detail::kStreamTransferFrom}) {
    expect_exact([&](std::byte* to, const std::byte* from, std::size_t size) {
      const detail::Transfer transfer(whole);
      transfer.copy(to, from, size / 2);
      transfer.copy(to + size / 2, from + size / 2, size - size / 2);
    });
  }
}

TEST(Storage, ItsCloneHoldsTheSameBytesElsewhere) {
  for (const std::size_t size : {1u, 100u, 5000u}) {
    detail::Storage storage(size);
    const Bytes bytes = pattern(size);
    std::memcpy(storage.data(), bytes.data(), size);
    const auto clone = storage.clone();
    EXPECT_NE(clone.data(), storage.data());
    ASSERT_EQ(clone.size(), size);
    EXPECT_EQ(std::memcmp(clone.data(), bytes.data(), size), 0);
  }
  EXPECT_EQ(detail::Storage(0).clone().data(), nullptr);
}

}  // namespace
