// Many prompts with one beginning: a parent with 10,000 children costs what one with a few does.

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <vector>

#include "pagedkv/core/manager/kv_cache_manager.hpp"

namespace {

using namespace pagedkv;
using Tokens = std::vector<TokenId>;

constexpr std::int32_t kBlockSize = 16;

/// A manager in which `children` prompts have gone on differently from one first block.
class Family {
 public:
  explicit Family(TokenId children) : manager_(options()) {
    for (TokenId child = 0; child < children; ++child) run(prompt(child));
  }

  static Tokens prompt(TokenId child) {
    Tokens tokens(3 * kBlockSize, 1);
    std::fill(tokens.begin() + kBlockSize, tokens.end(), child);
    return tokens;
  }
  /// Runs a prompt to its end and returns the tokens that it found.
  std::int32_t run(const Tokens& tokens) {
    const SeqId id = 1;
    std::int32_t cached = 0;
    manager_.add(id, tokens);
    manager_.acquire({&id, 1}, {&cached, 1});
    const std::int32_t rest = static_cast<std::int32_t>(tokens.size()) - cached;
    manager_.schedule({&id, 1}, {&rest, 1});
    manager_.commit({&id, 1}, {&rest, 1});
    manager_.free({&id, 1});
    return cached;
  }
  std::size_t probe(const Tokens& tokens) { return manager_.probe(tokens); }
  void check() { manager_.check(); }

  /// Seconds that a new prompt, one that was there, and a search for either take; the best of many.
  double seconds(TokenId children) {
    double best = 1e9;
    for (TokenId i = 0; i < 200; ++i) {
      const Tokens fresh = prompt(children + i), known = prompt(i % children);
      const auto begin = std::chrono::steady_clock::now();
      probe(fresh);
      run(fresh);
      probe(known);
      run(known);
      const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
      best = std::min(best, took.count());
    }
    return best;
  }

 private:
  static ManagerOptions options() {
    ManagerOptions options;
    options.num_blocks = 40'000;
    options.block_size = kBlockSize;
    return options;
  }
  KVCacheManager manager_;
};

TEST(ManagerSiblings, TenThousandChildrenOfOneParentStayFast) {
  constexpr TokenId kFew = 20, kMany = 10'000;
  Family few(kFew), many(kMany);
  for (const TokenId child : {0, 1, 4'999, 9'999}) {
    // Two blocks, and all of the last one but the token that always is computed.
    EXPECT_EQ(many.probe(Family::prompt(child)), 3u * kBlockSize - 1);
  }
  many.check();
  // A walk over all children would take 500 times as long.
  EXPECT_LT(many.seconds(kMany), 10 * few.seconds(kFew));
}

TEST(ManagerSiblings, ABoundedNumberOfThemIsTriedForACommonStart) {
  Family family(100);
  auto like = [](TokenId child) {
    Tokens tokens = Family::prompt(child);
    tokens.resize(2 * kBlockSize);
    tokens[kBlockSize + 5] = -1;  // agrees with `child` on 5 tokens of its second block
    return tokens;
  };
  EXPECT_EQ(family.probe(like(99)), kBlockSize + 5u);  // the most recent one
  EXPECT_EQ(family.probe(like(90)), kBlockSize + 5u);
  EXPECT_EQ(family.probe(like(50)), kBlockSize + 0u);  // too long ago
  family.run(Family::prompt(50));
  EXPECT_EQ(family.probe(like(50)), kBlockSize + 5u);
}

}  // namespace
