// KVCacheManager under random operations, against a model and a memory whose contents are checked.
// PAGEDKV_STRESS_OPERATIONS and PAGEDKV_STRESS_SEED make the run longer, or another one.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <random>
#include <span>
#include <string>

#include "../fuzz/manager_operations.hpp"

namespace {

using pagedkv::detail::HashKey;
using Hash = pagedkv::detail::MultilinearHash;
using Random = pagedkv_fuzz::RandomSource<std::mt19937_64>;

/// Everything collides: what is found is then decided by comparing alone.
struct ConstantHash {
  std::uint64_t operator()(std::uint64_t, std::span<const std::int32_t>,
                           std::uint64_t) const noexcept {
    return 7;
  }
  std::uint64_t bytes(const void*, std::size_t) const noexcept { return 7; }
  explicit ConstantHash(HashKey = {}) noexcept {}
};

std::uint64_t number_from_environment(const char* name, std::uint64_t otherwise) {
  const char* value = std::getenv(name);  // NOLINT(concurrency-mt-unsafe)
  return value == nullptr ? otherwise : std::strtoull(value, nullptr, 10);
}

/// Runs `operations` from `seed` on and returns the digest of what the manager decided.
template <class AnyHash>
std::uint64_t run(std::uint64_t seed, std::uint64_t operations, std::uint64_t check_every,
                  AnyHash hash) {
  Random in(seed);
  const auto options = pagedkv_fuzz::choose_options(in);
  std::uint64_t done = 0;
  try {
    pagedkv_fuzz::ManagerRun<AnyHash, Random> manager(in, options, hash);
    while (done < operations) {
      manager.step();
      if (++done % check_every == 0) manager.check();
    }
    manager.finish();
    return manager.decisions();
  } catch (const std::exception& error) {
    ADD_FAILURE() << "seed " << seed << ", operation " << done << ": " << error.what();
    return 0;
  }
}

TEST(ManagerStress, EveryInvariantHoldsAfterEveryOperation) {
  constexpr std::uint64_t kSeeds = 200, kOperations = 400;
  for (std::uint64_t seed = 1; seed <= kSeeds && !HasFailure(); ++seed) {
    run(seed, kOperations, 1, Hash());
  }
}

TEST(ManagerStress, ContentsStayRightOverManyOperations) {
  constexpr std::uint64_t kCheckEvery = 10'000;
  const std::uint64_t total = number_from_environment("PAGEDKV_STRESS_OPERATIONS", 500'000);
  const std::uint64_t first = number_from_environment("PAGEDKV_STRESS_SEED", 1'000);
  // Each seed is another manager: of other groups, other sizes, other options.
  const std::uint64_t each = std::max<std::uint64_t>(total / 1000, kCheckEvery);
  for (std::uint64_t seed = first, done = 0; done < total && !HasFailure(); ++seed, done += each) {
    run(seed, each, kCheckEvery, Hash());
  }
}

TEST(ManagerStress, NoHashFunctionAndNoKeyChangesADecision) {
  for (std::uint64_t seed = 1; seed <= 60 && !HasFailure(); ++seed) {
    const std::uint64_t decisions = run(seed, 500, 100, Hash());
    EXPECT_EQ(run(seed, 500, 100, Hash(HashKey{seed, 1})), decisions) << "seed " << seed;
    EXPECT_EQ(run(seed, 500, 100, ConstantHash()), decisions) << "seed " << seed;
  }
}

}  // namespace
