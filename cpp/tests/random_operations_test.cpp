// The bodies of the fuzzers over random bytes: the allocator, the sequences and the caches against
// their models, many seeds each.

#include <gtest/gtest.h>

#include <cstdint>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "../fuzz/allocator_operations.hpp"
#include "../fuzz/sequence_operations.hpp"
#include "../fuzz/snapshot_operations.hpp"

namespace {

constexpr unsigned kSeeds = 300;
constexpr std::size_t kBytes = 600;

template <class Body>
void run_seeds(Body body) {
  for (unsigned seed = 1; seed <= kSeeds; ++seed) {
    std::mt19937 random(seed);
    std::vector<std::uint8_t> bytes(kBytes);
    for (auto& byte : bytes) byte = static_cast<std::uint8_t>(random());
    try {
      body(std::span<const std::uint8_t>(bytes));
    } catch (const std::exception& error) {
      FAIL() << "seed " << seed << ": " << error.what();
    }
  }
}

TEST(RandomOperations, TheAllocatorAgreesWithAStackAndCounts) {
  run_seeds(pagedkv_fuzz::run_allocator_operations);
}

TEST(RandomOperations, SequencesAndCachesAgreeWithListsOfTokensOnAFailingDevice) {
  run_seeds(pagedkv_fuzz::run_sequence_operations);
}

TEST(RandomOperations, BytesThatAreNoSnapshotAreRefused) {
  run_seeds(pagedkv_fuzz::run_snapshot_operations);
}

}  // namespace
