#include "pagedkv/detail/copy.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <random>
#include <span>
#include <vector>

namespace {

using pagedkv::detail::copy_bytes;
using pagedkv::detail::kOwnCopyFrom;
using pagedkv::detail::kStreamTransferFrom;
using pagedkv::detail::stream_bytes;
using pagedkv::detail::stream_fence;
using pagedkv::detail::Transfer;

constexpr std::size_t kPage = 4096;
constexpr std::byte kUntouched{0xa5};

std::vector<std::byte> random_bytes(std::size_t size) {
  std::mt19937_64 random{42};
  std::vector<std::byte> bytes(size);
  std::ranges::generate(bytes, [&] { return static_cast<std::byte>(random()); });
  return bytes;
}

/// The first byte of `bytes` that lies `offset` after a multiple of a page; a page must be to
/// spare.
std::byte* at_page_offset(std::vector<std::byte>& bytes, std::size_t offset) {
  const auto past = reinterpret_cast<std::uintptr_t>(bytes.data()) % kPage;
  return bytes.data() + (kPage + offset - past) % kPage;
}

template <class Copy>
void expect_exact_copies(Copy copy) {
  constexpr std::size_t margin = 64;
  const std::size_t sizes[] = {0,
                               1,
                               63,
                               64,
                               65,
                               127,
                               575,
                               576,
                               577,
                               kOwnCopyFrom - 1,
                               kOwnCopyFrom,
                               kOwnCopyFrom + 1,
                               3 * kPage,
                               3 * kPage + 17};
  for (const std::size_t size : sizes) {
    for (const std::size_t from_offset : {0u, 1u, 16u}) {
      for (const std::size_t to_offset : {64u, 65u, 80u, 95u, 96u, 127u}) {
        auto source = random_bytes(size + 2 * kPage);
        std::vector<std::byte> target(size + 2 * kPage + 2 * margin, kUntouched);
        const std::byte* from = at_page_offset(source, from_offset);
        std::byte* to = at_page_offset(target, to_offset - margin) + margin;
        copy(to, from, size);
        ASSERT_TRUE(std::equal(from, from + size, to))
            << size << " bytes from offset " << from_offset << " to " << to_offset;
        const auto untouched = [](std::byte byte) { return byte == kUntouched; };
        ASSERT_TRUE(std::all_of(to - margin, to, untouched) &&
                    std::all_of(to + size, to + size + margin, untouched))
            << size << " bytes from offset " << from_offset << " to " << to_offset;
      }
    }
  }
}

TEST(Copy, CopiesExactlyTheBytesAskedForAtEveryAlignment) { expect_exact_copies(copy_bytes); }

TEST(Copy, StreamsExactlyTheBytesAskedForAtEveryAlignment) {
  expect_exact_copies([](std::byte* to, const std::byte* from, std::size_t size) {
    stream_bytes(to, from, size);
    stream_fence();
  });
}

TEST(Copy, NothingIsCopiedFromNowhere) {
  copy_bytes(nullptr, nullptr, 0);
  stream_bytes(nullptr, nullptr, 0);
  Transfer(kStreamTransferFrom).copy(nullptr, nullptr, 0);
}

TEST(Copy, ALargeTransferOfPiecesOfEverySizeIsExact) {
  const auto source = random_bytes(kStreamTransferFrom + 12'345);
  std::vector<std::byte> target(source.size() + 16, kUntouched);
  {
    const Transfer transfer(source.size());
    std::size_t size = 1;
    for (std::size_t done = 0; done < source.size(); done += size, size = size * 3 % 1'000'003) {
      size = std::min(size, source.size() - done);
      transfer.copy(target.data() + 16 + done, source.data() + done, size);
    }
  }
  EXPECT_TRUE(std::ranges::equal(source, std::span(target).subspan(16)));
  EXPECT_TRUE(std::all_of(target.begin(), target.begin() + 16,
                          [](std::byte byte) { return byte == kUntouched; }));
}

}  // namespace
