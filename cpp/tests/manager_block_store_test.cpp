// The blocks of a manager: the order in which they are handed out again, who may be evicted, and
// what priority, ttl and a salt's maximum do to that.

#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "pagedkv/core/manager/block_store.hpp"

namespace {

using namespace pagedkv;
using Store = detail::BlockStore<detail::MultilinearHash>;
using Blocks = std::vector<BlockId>;

class BlockStore : public testing::Test {
 protected:
  static ManagerOptions options(std::size_t num_blocks) {
    ManagerOptions options;
    options.num_blocks = num_blocks;
    options.block_size = 1;
    return resolved(options);
  }
  void make(std::size_t num_blocks) {
    store.emplace(options(num_blocks), detail::MultilinearHash());
  }

  /// A chain of blocks in the index that spells `tokens` below `salt`; each is held once.
  Blocks chain(const std::vector<TokenId>& tokens, std::string_view salt = {},
               std::uint8_t priority = 0) {
    Blocks blocks;
    NodeId node = store->root(store->salt(salt), 0);
    for (std::size_t depth = 0; depth < tokens.size(); ++depth) {
      node = store->tree(0).insert(node, &tokens[depth], {});
      store->add_cursor(0, node);
      blocks.push_back(store->take());
      EXPECT_TRUE(store->attach(0, node, blocks.back(), depth, priority));
      store->drop_cursor(0, node);
    }
    return blocks;
  }
  void unref(const Blocks& blocks, std::uint32_t ttl = 0) {
    for (std::size_t i = blocks.size(); i-- > 0;) store->unref(blocks[i], ttl);
  }
  Blocks take(std::size_t n) {
    Blocks blocks;
    for (std::size_t i = 0; i < n; ++i) blocks.push_back(store->take());
    return blocks;
  }

  std::optional<Store> store;
};

TEST_F(BlockStore, HandsOutFreshBlocksInOrderAndGivenBackOnesFirst) {
  make(6);
  EXPECT_EQ(take(4), (Blocks{0, 1, 2, 3}));
  unref({0, 2, 1});  // the last one listed is the first to be given back
  EXPECT_EQ(store->available(), 5u);
  EXPECT_EQ(take(5), (Blocks{0, 2, 1, 4, 5}));
  EXPECT_EQ(store->available(), 0u);
}

TEST_F(BlockStore, EvictsLastAndThenTheLeastRecentlyUsedTheTailBeforeTheHead) {
  make(7);
  const Blocks first = chain({1, 2, 3});
  const Blocks second = chain({7, 8});
  unref(first);
  unref(second);
  EXPECT_EQ(store->available(), 7u);
  EXPECT_EQ(take(2), (Blocks{5, 6}));  // fresh
  EXPECT_EQ(take(5), (Blocks{first[2], first[1], first[0], second[1], second[0]}));
  EXPECT_EQ(store->evictions(), 5u);
  EXPECT_EQ(store->cached(), 0u);
}

TEST_F(BlockStore, NeverEvictsAParentBeforeItsChild) {
  make(2);
  const Blocks blocks = chain({1, 2});
  store->unref(blocks[0]);
  store->unref(blocks[1]);  // released last, and yet it goes first
  EXPECT_FALSE(store->evict(blocks[0]));
  EXPECT_EQ(take(2), (Blocks{blocks[1], blocks[0]}));
}

TEST_F(BlockStore, KeepsWhatIsHeldAgain) {
  make(3);
  const Blocks blocks = chain({1, 2, 3});
  unref(blocks);
  store->ref(blocks[0]);
  store->ref(blocks[1]);
  EXPECT_EQ(store->available(), 1u);
  EXPECT_EQ(store->evict_one(), blocks[2]);
  EXPECT_EQ(store->evict_one(), std::nullopt);
}

TEST_F(BlockStore, EvictsLowPriorityFirst) {
  make(2);
  const Blocks high = chain({1}, {}, 50);
  const Blocks low = chain({2}, {}, 10);
  unref(high);
  unref(low);
  EXPECT_EQ(take(2), (Blocks{low[0], high[0]}));
}

TEST_F(BlockStore, EvictsWhatNobodyTookAgainWithinItsStepsToLive) {
  make(4);
  const Blocks expiring = chain({1, 2});
  const Blocks taken_again = chain({3});
  unref(expiring, 2);
  unref(taken_again, 2);
  store->ref(taken_again[0]);
  store->advance_step();
  EXPECT_EQ(store->cached(), 3u);
  store->advance_step();
  EXPECT_EQ(store->cached(), 1u);
  EXPECT_EQ(store->refs(taken_again[0]), 1u);
}

TEST_F(BlockStore, EvictsAnOverdueParentWithTheLastBlockThatHangsOnIt) {
  make(6);
  const Blocks parents = chain({1, 2}, {}, 100);
  const TokenId token = 3;
  const NodeId node = store->insert(0, store->node_of(parents[1]).second, &token, {});
  const BlockId child = store->take();
  EXPECT_TRUE(store->attach(0, node, child, 2, 100));
  store->unref(child);
  unref(parents, 1);
  store->advance_step();
  EXPECT_EQ(store->cached(), 3u) << "the child stays, and so must they";
  EXPECT_TRUE(store->evict(child));
  store->advance_step();
  EXPECT_EQ(store->cached(), 0u);
}

TEST_F(BlockStore, ForgetsATimeLimitWithTheUseThatEndsIt) {
  make(1);
  const Blocks blocks = chain({1});
  for (int use = 0; use < 100; ++use) {
    store->unref(blocks[0], 1'000'000);
    store->ref(blocks[0]);
  }
  store->unref(blocks[0], 2);
  store->advance_step();
  EXPECT_EQ(store->cached(), 1u);
  store->advance_step();
  EXPECT_EQ(store->cached(), 0u);
}

TEST_F(BlockStore, ForgetsSaltsOfWhichNothingIsLeft) {
  make(4);
  const Blocks kept = chain({1}, "kept");
  store->add_user(store->salt("used"));
  store->set_salt_limit(store->salt("limited"), 3);
  for (int i = 0; i < 5000; ++i) store->salts()[store->salt(std::to_string(i))].reuse.queries = 1;
  EXPECT_LT(store->salts().end(), 1100u);
  EXPECT_LT(store->tree(0).size(), 1100u);
  for (const char* salt : {"kept", "used", "limited"}) {
    EXPECT_TRUE(store->salts().find(salt).has_value()) << salt;
  }
  EXPECT_FALSE(store->salts().find("0").has_value());
  EXPECT_TRUE(store->salts().find("4999").has_value());
  EXPECT_EQ(store->salts().total().queries, 5000u) << "of those forgotten, too";
  EXPECT_TRUE(store->is_indexed(kept[0]));
}

TEST_F(BlockStore, KeepsASaltToItsMaximumByEvictingWhatItReleasedFirst) {
  make(8);
  const std::uint32_t salt = store->salt("s");
  store->set_salt_limit(salt, 2);
  const Blocks other = chain({1});
  const Blocks first = chain({1}, "s");
  const Blocks second = chain({2}, "s");
  unref(other);
  unref(second);
  unref(first);
  chain({3}, "s");
  EXPECT_EQ(store->salts()[salt].blocks, 2u);
  EXPECT_FALSE(store->is_indexed(second[0]));
  EXPECT_TRUE(store->is_indexed(first[0]));
  EXPECT_TRUE(store->is_indexed(other[0]));
}

TEST_F(BlockStore, RefusesToIndexBeyondAMaximumThatIsHeld) {
  make(8);
  const std::uint32_t salt = store->salt("s");
  store->set_salt_limit(salt, 1);
  chain({1}, "s");
  const TokenId token = 2;
  const NodeId node = store->tree(0).insert(store->root(salt, 0), &token, {});
  EXPECT_FALSE(store->attach(0, node, store->take(), 0, 0));
  EXPECT_EQ(store->cached(), 1u);
}

TEST_F(BlockStore, PacksLiveBlocksToTheFrontAndLeavesFixedOnesInPlace) {
  make(8);
  const Blocks loose = take(2);  // 0 1
  chain({1, 2});                 // 2 3
  const Blocks held = take(3);   // 4 5 6
  unref(loose);
  store->unref(held[0]);
  std::vector<bool> fixed(store->fresh());
  fixed[6] = true;
  const auto now_at = store->compact(fixed);
  EXPECT_EQ(now_at, (Blocks{0, 1, 2, 1, 4, 0, 6}));
  EXPECT_EQ(store->refs(0), 1u);
  EXPECT_FALSE(store->is_indexed(0));
  EXPECT_TRUE(store->is_indexed(1));
  EXPECT_EQ(store->tree(0)[store->node_of(1).second].block, 1);
  EXPECT_EQ(take(4), (Blocks{3, 4, 5, 7}));
}

TEST_F(BlockStore, RemembersWhatItEvictedForTheStatistics) {
  make(1);
  const Blocks blocks = chain({5});
  const auto key = store->tree(0)[store->node_of(blocks[0]).second].key;
  EXPECT_FALSE(store->was_evicted(key));
  unref(blocks);
  take(1);
  EXPECT_TRUE(store->was_evicted(key));
}

}  // namespace
