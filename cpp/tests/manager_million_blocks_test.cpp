// A manager of a million blocks: filled, shared, evicted, every invariant checked.

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <numeric>
#include <string>
#include <vector>

#include "pagedkv/core/manager/kv_cache_manager.hpp"

namespace {

using namespace pagedkv;

constexpr std::size_t kBlocks = 1'000'000;
constexpr std::size_t kBlockSize = 16;
constexpr std::size_t kSequences = 100;
constexpr std::size_t kTokens = kBlocks / kSequences * kBlockSize;  // of each sequence

std::vector<TokenId> text(std::size_t number) {
  std::vector<TokenId> tokens(kTokens + 1);
  std::iota(tokens.begin(), tokens.end(), static_cast<TokenId>(number * 2 * kTokens));
  return tokens;
}

void compute(KVCacheManager& manager, SeqId id, const std::vector<TokenId>& tokens) {
  std::int32_t cached = 0;
  manager.add(id, {tokens.data(), kTokens});
  manager.acquire({&id, 1}, {&cached, 1});
  const std::int32_t rest = static_cast<std::int32_t>(kTokens) - cached;
  manager.schedule({&id, 1}, {&rest, 1});
  manager.commit({&id, 1}, {&rest, 1});
}

class ManagerOfAMillionBlocks : public testing::TestWithParam<EvictionKind> {};

TEST_P(ManagerOfAMillionBlocks, FillsSharesEvictsAndKeepsItsBooks) {
  ManagerOptions options;
  options.num_blocks = kBlocks;
  options.block_size = kBlockSize;
  options.eviction = GetParam();
  KVCacheManager manager(options);
  for (SeqId id = 0; id < kSequences; ++id) {
    compute(manager, id, text(id));
    manager.free({&id, 1});
  }
  EXPECT_EQ(manager.stats().num_cached_blocks, kBlocks);
  EXPECT_EQ(manager.stats().evictions, 0u);
  for (std::size_t number = 0; number < kSequences; number += 9) {
    EXPECT_EQ(manager.probe(text(number)), kTokens);
  }

  const SeqId held = 7;
  compute(manager, held, text(held));
  // Its last block is computed again, in the place of one that was evicted.
  EXPECT_EQ(manager.evict(2 * kBlocks), kBlocks - kTokens / kBlockSize - 1);
  EXPECT_EQ(manager.probe(text(held)), kTokens) << "it is in use";
  EXPECT_EQ(manager.probe(text(8)), 0u);
  manager.check();
}

INSTANTIATE_TEST_SUITE_P(Policies, ManagerOfAMillionBlocks,
                         testing::Values(EvictionKind::lru, EvictionKind::lifetable),
                         [](const auto& tested) {
                           return std::string(eviction_name(tested.param));
                         });

}  // namespace
