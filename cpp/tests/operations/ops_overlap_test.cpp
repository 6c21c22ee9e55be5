// Which strided arrays share memory: against the set of their bytes.

#include <gtest/gtest.h>

#include <array>
#include <cstddef>
#include <random>
#include <set>
#include <vector>

#include "pagedkv/ops/overlap.hpp"

namespace {

using pagedkv::MemoryRegion;
using Dimensions = std::array<MemoryRegion::Dimension, 3>;

std::byte memory[1 << 16];
std::byte* const middle = memory + sizeof memory / 2;

/// Each byte of an array, once for each element that has it.
std::multiset<std::ptrdiff_t> bytes_of(std::ptrdiff_t begin, std::int64_t run,
                                       const Dimensions& d) {
  std::multiset<std::ptrdiff_t> bytes;
  for (std::int64_t i = 0; i < d[0].size; ++i) {
    for (std::int64_t j = 0; j < d[1].size; ++j) {
      for (std::int64_t k = 0; k < d[2].size; ++k) {
        for (std::int64_t b = 0; b < run; ++b) {
          bytes.insert(begin + i * d[0].stride + j * d[1].stride + k * d[2].stride + b);
        }
      }
    }
  }
  return bytes;
}

bool share(const std::multiset<std::ptrdiff_t>& a, const std::multiset<std::ptrdiff_t>& b) {
  for (const auto byte : a) {
    if (b.contains(byte)) return true;
  }
  return false;
}

TEST(MemoryRegion, NeverOverlooksSharedMemory) {
  std::mt19937 random(1);
  const auto upto = [&](int end) { return static_cast<std::int64_t>(random()) % end; };
  int apart = 0, shared = 0;
  for (int round = 0; round < 20000; ++round) {
    Dimensions a, b;
    for (std::size_t i = 0; i < 3; ++i) {
      a[i] = {upto(4), upto(60) - 20};
      b[i] = {upto(4), upto(2) == 0 ? a[i].stride : upto(60) - 20};
    }
    const std::int64_t run_a = upto(5), run_b = upto(5), from = upto(100) - 50;
    const MemoryRegion first(middle, run_a, a), second(middle + from, run_b, b);
    const auto first_bytes = bytes_of(0, run_a, a), second_bytes = bytes_of(from, run_b, b);
    const bool meet = share(first_bytes, second_bytes);
    if (meet) {
      ASSERT_TRUE(first.meets(second) && second.meets(first));
    }
    if (std::set(first_bytes.begin(), first_bytes.end()).size() != first_bytes.size()) {
      ASSERT_TRUE(first.meets_itself());
    }
    if (!first_bytes.empty()) {
      EXPECT_EQ(first.begin() - reinterpret_cast<std::intptr_t>(middle), *first_bytes.begin());
      EXPECT_EQ(first.end() - reinterpret_cast<std::intptr_t>(middle), *first_bytes.rbegin() + 1);
    }
    (meet ? shared : apart) += 1;
  }
  EXPECT_GT(shared, 1000);
  EXPECT_GT(apart, 1000);
}

TEST(MemoryRegion, TellsInterleavedHalvesOfOneTensorApart) {
  // [blocks, 2, heads, slots, row]: keys and values of one block lie side by side.
  const Dimensions keys{{{5, 2 * 6 * 32}, {2, 3 * 32}, {3, 32}}};
  const MemoryRegion k(middle, 32, keys), v(middle + 6 * 32, 32, keys);
  EXPECT_FALSE(k.meets(v) || v.meets(k) || k.meets_itself());
  // [blocks, slots, latent + rotary]
  const Dimensions tokens{{{5, 4 * 40}, {1, 0}, {4, 40}}};
  const MemoryRegion latent(middle, 32, tokens), rotary(middle + 32, 8, tokens);
  EXPECT_FALSE(latent.meets(rotary) || rotary.meets(latent));
  const MemoryRegion wider(middle + 31, 8, tokens);
  EXPECT_TRUE(latent.meets(wider) && wider.meets(latent));
}

TEST(MemoryRegion, OfNothingMeetsNothing) {
  const MemoryRegion none(middle, 4, {{{0, 4}, {2, 8}, {1, 0}}}),
      some(middle, 4, {{{2, 4}, {1, 0}, {1, 0}}});
  EXPECT_TRUE(none.empty());
  EXPECT_FALSE(none.meets(some) || some.meets(none) || none.meets_itself());
}

}  // namespace
