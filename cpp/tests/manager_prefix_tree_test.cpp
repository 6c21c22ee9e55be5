// The prefix tree of one group: what it finds, what it keeps, what it lets go.

#include <gtest/gtest.h>

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "pagedkv/core/manager/prefix_tree.hpp"

namespace {

using namespace pagedkv;
using Block = std::array<TokenId, 4>;

/// Every node in one bucket.
struct ConstantHash {
  std::uint64_t operator()(std::uint64_t, std::span<const TokenId>, std::uint64_t) const noexcept {
    return 0;
  }
  [[nodiscard]] std::uint64_t bytes(const void*, std::size_t) const noexcept { return 0; }
};

template <class Hash>
class AnyPrefixTree : public testing::Test {
 protected:
  NodeId insert(NodeId parent, const Block& tokens, std::string_view extras = {}) {
    return tree.insert(parent, tokens.data(), extras);
  }
  NodeId find(NodeId parent, const Block& tokens, std::string_view extras = {}) {
    return tree.find(parent, tokens.data(), extras);
  }

  PrefixTree<Hash> tree{4, 8, Hash()};
  NodeId root = tree.add_root(0, "");
};

using Hashes = testing::Types<detail::MultilinearHash, ConstantHash>;
TYPED_TEST_SUITE(AnyPrefixTree, Hashes, );

constexpr Block kA{1, 2, 3, 4}, kB{1, 2, 3, 5}, kC{9, 2, 3, 4};

TYPED_TEST(AnyPrefixTree, FindsAChildByExactlyItsTokensAndExtras) {
  const NodeId a = this->insert(this->root, kA);
  const NodeId b = this->insert(this->root, kB);
  const NodeId image = this->insert(this->root, kA, "cat");
  EXPECT_EQ(this->find(this->root, kA), a);
  EXPECT_EQ(this->find(this->root, kB), b);
  EXPECT_EQ(this->find(this->root, kA, "cat"), image);
  EXPECT_EQ(this->find(this->root, kA, "dog"), kNoNode);
  EXPECT_EQ(this->find(this->root, kC), kNoNode);
  EXPECT_EQ(this->find(a, kB), kNoNode);
}

TYPED_TEST(AnyPrefixTree, TellsTheSameTokensUnderOtherParentsApart) {
  const NodeId a = this->insert(this->root, kA);
  const NodeId b = this->insert(this->root, kB);
  const NodeId below_a = this->insert(a, kC);
  const NodeId below_b = this->insert(b, kC);
  const NodeId other_salt = this->tree.add_root(1, "s");
  const NodeId salted = this->insert(other_salt, kA);
  EXPECT_EQ(this->find(a, kC), below_a);
  EXPECT_EQ(this->find(b, kC), below_b);
  EXPECT_EQ(this->find(other_salt, kA), salted);
  EXPECT_EQ(this->tree[salted].salt, 1u);
  EXPECT_EQ(this->tree[below_b].salt, 0u);
  EXPECT_NE(this->tree[salted].key, this->tree[a].key);
}

TYPED_TEST(AnyPrefixTree, PrunesAPathAsFarAsNothingHangsOnIt) {
  const NodeId a = this->insert(this->root, kA);
  const NodeId b = this->insert(a, kB);
  const NodeId c = this->insert(b, kC);
  this->tree.set_block(a, 7);
  this->tree.add_cursor(c);
  EXPECT_EQ(this->tree.prune(c), kNoNode);  // a sequence is there
  EXPECT_EQ(this->tree.size(), 4u);
  this->tree.drop_cursor(c);
  EXPECT_EQ(this->tree.prune(c), a);  // it has a block, and has lost its last child
  EXPECT_EQ(this->tree.size(), 2u);
  EXPECT_EQ(this->find(a, kB), kNoNode);
  this->tree.set_block(a, kNoBlock);
  EXPECT_EQ(this->tree.prune(a), this->root);
  EXPECT_EQ(this->find(this->root, kA), kNoNode);
}

TYPED_TEST(AnyPrefixTree, KeepsSiblingsWhenOneInTheMiddleGoes) {
  const NodeId a = this->insert(this->root, kA);
  const NodeId b = this->insert(this->root, kB);
  const NodeId c = this->insert(this->root, kC);
  EXPECT_EQ(this->tree.prune(b), kNoNode);
  EXPECT_EQ(this->find(this->root, kA), a);
  EXPECT_EQ(this->find(this->root, kC), c);
  EXPECT_EQ(this->tree[c].next_sibling, a);
  EXPECT_EQ(this->tree[a].prev_sibling, c);
}

TYPED_TEST(AnyPrefixTree, PutsTheChildThatWasUsedLastInFront) {
  const NodeId a = this->insert(this->root, kA);
  const NodeId b = this->insert(this->root, kB);
  const NodeId c = this->insert(this->root, kC);
  EXPECT_EQ(this->tree[this->root].first_child, c);
  this->tree.touch(a);
  this->tree.touch(a);
  std::vector<NodeId> order;
  for (NodeId id = this->tree[this->root].first_child; id != kNoNode;
       id = this->tree[id].next_sibling) {
    order.push_back(id);
  }
  EXPECT_EQ(order, (std::vector{a, c, b}));
}

TYPED_TEST(AnyPrefixTree, FindsTheLongestCommonStartAmongChildrenThatCanBeCopied) {
  const NodeId a = this->insert(this->root, kA);
  const NodeId b = this->insert(this->root, kB, "image");
  this->insert(this->root, kC);
  this->tree.set_block(b, 1);
  std::size_t agree = 99;
  const Block wanted{1, 2, 3, 6};
  const auto longest = [&](std::size_t limit, std::size_t most) {
    return this->tree.longest_common_start(this->root, wanted.data(), limit, most, agree);
  };
  EXPECT_EQ(longest(4, 16), kNoNode);  // one has no block, one an image, one another start
  EXPECT_EQ(agree, 0u);
  this->tree.set_block(a, 0);
  EXPECT_EQ(longest(4, 16), a);
  EXPECT_EQ(agree, 3u);
  EXPECT_EQ(longest(2, 16), a);
  EXPECT_EQ(agree, 2u);
  EXPECT_EQ(longest(4, 2), kNoNode);  // it is the third: bounded
}

TYPED_TEST(AnyPrefixTree, GrowsBeyondTheNodesThatWereExpected) {
  std::vector<NodeId> nodes;
  for (TokenId i = 0; i < 500; ++i) nodes.push_back(this->insert(this->root, {i, 0, 0, i}));
  for (TokenId i = 0; i < 500; ++i) {
    ASSERT_EQ(this->find(this->root, {i, 0, 0, i}), nodes[static_cast<std::size_t>(i)]);
  }
  for (const NodeId id : nodes) this->tree.prune(id);
  EXPECT_EQ(this->tree.size(), 1u);
}

TEST(PrefixTreeKeys, AreTheSameForTheSamePrefixWhateverTheHashKey) {
  using Tree = PrefixTree<detail::MultilinearHash>;
  Tree one(4, 8, detail::MultilinearHash(detail::HashKey{1, 1}));
  Tree other(4, 8, detail::MultilinearHash(detail::HashKey{2, 2}));
  const NodeId a = one.insert(one.insert(one.add_root(0, "s"), kA.data(), {}), kB.data(), "x");
  const NodeId b =
      other.insert(other.insert(other.add_root(5, "s"), kA.data(), {}), kB.data(), "x");
  EXPECT_EQ(one[a].key, other[b].key);
  EXPECT_EQ(Tree::next_key(one[one[a].parent].key, kB, "x"), one[a].key);
}

}  // namespace
