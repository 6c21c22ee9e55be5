// Two tenants with the same prompts never see each other's blocks.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <random>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "pagedkv/core/manager/kv_cache_manager.hpp"

namespace {

using namespace pagedkv;
using Tokens = std::vector<TokenId>;

constexpr std::size_t kTokensPerBlock = 2;

/// What a tenant computed, as every prefix of whole blocks.
class Tenant {
 public:
  Tenant(KVCacheManager& manager, std::string_view salt) : manager_(manager), salt_(salt) {}

  void compute(SeqId id, const Tokens& prompt) {
    const auto length = static_cast<std::int32_t>(prompt.size());
    std::int32_t cached = 0;
    AddOptions options;
    options.salt = salt_;
    manager_.add(id, prompt, options);
    manager_.acquire({&id, 1}, {&cached, 1});
    const std::int32_t rest = length - cached;
    manager_.schedule({&id, 1}, {&rest, 1});
    manager_.commit({&id, 1}, {&rest, 1});
    manager_.free({&id, 1});
    for (std::size_t end = kTokensPerBlock; end <= prompt.size(); end += kTokensPerBlock) {
      computed_.insert({prompt.begin(), prompt.begin() + static_cast<std::ptrdiff_t>(end)});
    }
  }

  [[nodiscard]] std::size_t probe(const Tokens& prompt) { return manager_.probe(prompt, salt_); }

  /// What `probe` must find as long as nothing was evicted.
  [[nodiscard]] std::size_t expected(const Tokens& prompt) const {
    std::size_t hit = 0;
    while (hit + kTokensPerBlock < prompt.size() &&
           computed_.contains({prompt.begin(), prompt.begin() + static_cast<std::ptrdiff_t>(
                                                                    hit + kTokensPerBlock)})) {
      hit += kTokensPerBlock;
    }
    return hit;
  }

 private:
  KVCacheManager& manager_;
  std::string_view salt_;
  std::set<Tokens> computed_;
};

TEST(ManagerTenants, NeverShareInAMillionProbes) {
  constexpr int kProbes = 1'000'000;
  ManagerOptions options;
  options.num_blocks = 1 << 16;  // nothing is evicted
  options.block_size = kTokensPerBlock;
  options.partial_reuse = false;
  KVCacheManager manager(options);
  Tenant tenants[] = {{manager, "one"}, {manager, "two"}};
  std::mt19937 random(5);
  const auto prompt = [&] {
    Tokens tokens(1 + random() % 12);
    // Few tokens, so that most prompts of one tenant are begun alike by the other.
    std::ranges::generate(tokens, [&] { return static_cast<TokenId>(random() % 3); });
    return tokens;
  };
  std::size_t hits = 0, kept_apart = 0;
  for (int i = 0; i < kProbes; ++i) {
    Tenant& mine = tenants[i % 2];
    if (i % 1000 < 2) mine.compute(static_cast<SeqId>(i), prompt());
    const Tokens asked = prompt();
    const std::size_t expected = mine.expected(asked);
    ASSERT_EQ(mine.probe(asked), expected) << "probe " << i;
    hits += expected != 0;
    kept_apart += tenants[(i + 1) % 2].expected(asked) > expected;
  }
  EXPECT_GT(hits, static_cast<std::size_t>(kProbes) / 10);
  EXPECT_GT(kept_apart, static_cast<std::size_t>(kProbes) / 100) << "there was little to see";
  manager.check();
}

}  // namespace
