#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "pagedkv/core/block_table.hpp"
#include "pagedkv/detail/grow_array.hpp"
#include "pagedkv/detail/keyed_hash.hpp"

namespace pagedkv::inline v0_1 {

using TokenId = std::int32_t;
/// Index of a node of a prefix tree.
using NodeId = std::int32_t;
inline constexpr NodeId kNoNode = -1;

/// The prefix index of one group: a tree whose nodes are full blocks of tokens, so that a path from
/// a root is a prefix. A root is a salt: nothing is shared across roots. A node is found through
/// its parent's most recent child or a keyed hash of (parent, tokens, extras), and is accepted only
/// when all three are equal: a collision costs time, never a wrong hit. Only nodes that have or had
/// siblings are hashed: most blocks follow each other in chains.
///
/// A node may be without a block: its block was evicted or given back while what hangs below is
/// still of use. It disappears when nothing hangs on it: no block, no child, no cursor of a
/// sequence.
template <class Hash>
class PrefixTree {
 public:
  /// A block of tokens behind those of its parent; a root stands for a salt.
  struct Node {
    NodeId parent;
    NodeId first_child;  // the most recently used one
    NodeId next_sibling;
    NodeId prev_sibling;
    NodeId next_in_bucket;
    std::int32_t block;       // kNoBlock, or the physical block that holds these tokens
    std::uint32_t cursors;    // sequences whose path ends here
    std::uint32_t key;        // 32-bit hash of the whole prefix, stable over eviction
    std::uint32_t salt : 30;  // number of the root's salt
    std::uint32_t has_extras : 1;
    std::uint32_t hashed : 1;  // in a bucket; an only child is found without
  };

  /// @param block_size  tokens a node.
  /// @param expected    nodes to reserve room for.
  PrefixTree(std::size_t block_size, std::size_t expected, Hash hash)
      : hash_(hash),
        block_size_(block_size),
        nodes_(expected),
        tokens_(expected * block_size),
        buckets_(std::bit_ceil(std::max<std::size_t>(expected / 2, 16)), kNoNode) {}

  [[nodiscard]] const Node& operator[](NodeId id) const noexcept { return nodes_[index(id)]; }
  [[nodiscard]] std::span<const TokenId> tokens(NodeId id) const noexcept {
    return {&tokens_[index(id) * block_size_], block_size_};
  }
  [[nodiscard]] std::string_view extras(NodeId id) const {
    if (!nodes_[index(id)].has_extras) return {};
    return extras_.at(id);
  }
  /// Nodes that exist, roots included.
  [[nodiscard]] std::size_t size() const noexcept { return used_ - num_free_; }

  /// Room for so many more nodes: they are made without an allocation then, but for extras.
  void reserve(std::size_t more) {
    if (more <= num_free_) return;
    const std::size_t most = used_ + more - num_free_;
    nodes_.ensure(most);
    tokens_.ensure(most * block_size_);
  }

  /// A root for a salt; it stays until `remove_root`.
  NodeId add_root(std::uint32_t salt, std::string_view salt_bytes) {
    reserve(1);
    const NodeId id = take_node();
    const auto key = detail::MultilinearHash().bytes(salt_bytes.data(), salt_bytes.size());
    node(id) = {.parent = kNoNode,
                .first_child = kNoNode,
                .next_sibling = kNoNode,
                .prev_sibling = kNoNode,
                .next_in_bucket = kNoNode,
                .block = kNoBlock,
                .cursors = 0,
                .key = static_cast<std::uint32_t>(key),
                .salt = salt & 0x3fffffff,
                .has_extras = 0,
                .hashed = 0};
    return id;
  }
  void remove_root(NodeId id) noexcept { give_back(id); }

  /// The child of `parent` that holds exactly these tokens and extras, or kNoNode. O(1) expected.
  [[nodiscard]] NodeId find(NodeId parent, const TokenId* tokens, std::string_view extras) const {
    const NodeId recent = nodes_[index(parent)].first_child;
    if (recent == kNoNode) return kNoNode;
    if (matches(recent, tokens, extras)) return recent;
    if (nodes_[index(recent)].next_sibling == kNoNode) return kNoNode;
    for (NodeId id = buckets_[bucket(parent, tokens, extras)]; id != kNoNode;
         id = nodes_[index(id)].next_in_bucket) {
      if (nodes_[index(id)].parent == parent && matches(id, tokens, extras)) return id;
    }
    return kNoNode;
  }

  /// Follows `num_blocks` blocks of tokens without extras from `node` on, as far as they are there;
  /// the nodes go to `path`. O(blocks): most recent children cost a comparison each.
  void follow(NodeId node, const TokenId* tokens, std::size_t num_blocks,
              std::vector<NodeId>& path) const {
    path.resize(num_blocks);
    std::size_t depth = 0;
    for (; depth < num_blocks; ++depth, tokens += block_size_) {
      const NodeId recent = nodes_[index(node)].first_child;
      if (recent == kNoNode) break;
      node = matches(recent, tokens) ? recent : find(node, tokens, {});
      if (node == kNoNode) break;
      path[depth] = node;
    }
    path.resize(depth);
  }

  /// A new child of `parent`, without a block, as its most recent one. `find` gave kNoNode before.
  NodeId insert(NodeId parent, const TokenId* tokens, std::string_view extras) {
    reserve(1);
    if (!extras.empty()) extras_.emplace(next_node(), extras);
    const NodeId id = take_node();
    std::copy_n(tokens, block_size_, &tokens_[index(id) * block_size_]);
    Node& up = node(parent);
    node(id) = {.parent = parent,
                .first_child = kNoNode,
                .next_sibling = up.first_child,
                .prev_sibling = kNoNode,
                .next_in_bucket = kNoNode,
                .block = kNoBlock,
                .cursors = 0,
                .key = next_key(up.key, {tokens, block_size_}, extras),
                .salt = up.salt,
                .has_extras = !extras.empty(),
                .hashed = 0};
    if (up.first_child != kNoNode) {
      if (!node(up.first_child).hashed) enter_bucket(up.first_child);
      enter_bucket(id);
      node(up.first_child).prev_sibling = id;
    }
    up.first_child = id;
    return id;
  }

  /// Makes `id` the most recent child of its parent. O(1).
  void touch(NodeId id) noexcept {
    Node& n = node(id);
    if (n.prev_sibling == kNoNode) return;
    Node& up = node(n.parent);
    node(n.prev_sibling).next_sibling = n.next_sibling;
    if (n.next_sibling != kNoNode) node(n.next_sibling).prev_sibling = n.prev_sibling;
    n.prev_sibling = kNoNode;
    n.next_sibling = up.first_child;
    node(up.first_child).prev_sibling = id;
    up.first_child = id;
  }

  void set_block(NodeId id, std::int32_t block) noexcept { node(id).block = block; }
  void add_cursor(NodeId id) noexcept { ++node(id).cursors; }
  void drop_cursor(NodeId id) noexcept { --node(id).cursors; }

  /// Removes `id` if nothing hangs on it, and then its parent likewise. Returns the first ancestor
  /// that stays and lost its last child, or kNoNode.
  NodeId prune(NodeId id) {
    NodeId orphaned = kNoNode;
    while (true) {
      const Node& n = nodes_[index(id)];
      if (n.parent == kNoNode || n.block != kNoBlock || n.first_child != kNoNode ||
          n.cursors != 0) {
        return orphaned;
      }
      const NodeId parent = n.parent;
      unlink(id);
      orphaned = nodes_[index(parent)].first_child == kNoNode ? parent : kNoNode;
      id = parent;
    }
  }

  /// The child of `parent` whose first tokens agree longest with `tokens[0, limit)`, among its
  /// `most` most recent ones with a block and without extras; the length goes to `agree`.
  NodeId longest_common_start(NodeId parent, const TokenId* tokens, std::size_t limit,
                              std::size_t most, std::size_t& agree) const noexcept {
    NodeId best = kNoNode;
    agree = 0;
    NodeId id = nodes_[index(parent)].first_child;
    for (std::size_t tried = 0; id != kNoNode && tried < most; ++tried) {
      const Node& n = nodes_[index(id)];
      if (n.block != kNoBlock && !n.has_extras) {
        const TokenId* held = &tokens_[index(id) * block_size_];
        const auto common =
            static_cast<std::size_t>(std::mismatch(tokens, tokens + limit, held).first - tokens);
        if (common > agree) {
          agree = common;
          best = id;
        }
      }
      id = n.next_sibling;
    }
    return best;
  }

  /// Key of a child: what `Node::key` of it is or would be. Not keyed, so that it is the same in
  /// every process and decisions may depend on it; a collision costs a hint.
  [[nodiscard]] static std::uint32_t next_key(std::uint32_t parent_key,
                                              std::span<const TokenId> tokens,
                                              std::string_view extras) noexcept {
    static const detail::MultilinearHash stable;
    std::uint64_t extra = 0;
    for (const char c : extras) extra = 31 * extra + static_cast<unsigned char>(c);
    const std::uint64_t mixed = stable(parent_key, tokens, extra);
    return static_cast<std::uint32_t>(mixed >> 32);
  }

  /// Bytes held, everything counted.
  [[nodiscard]] std::size_t memory_bytes() const noexcept {
    return used_ * (sizeof(Node) + block_size_ * sizeof(TokenId)) +
           buckets_.size() * sizeof(NodeId);
  }

 private:
  static std::size_t index(NodeId id) noexcept { return static_cast<std::size_t>(id); }
  [[nodiscard]] Node& node(NodeId id) noexcept { return nodes_[index(id)]; }

  // Nodes that are free are linked by `next_sibling`, the last one to go first.
  [[nodiscard]] NodeId next_node() const noexcept {
    return num_free_ != 0 ? first_free_ : static_cast<NodeId>(used_);
  }
  NodeId take_node() noexcept {
    const NodeId id = next_node();
    if (num_free_ != 0) {
      first_free_ = nodes_[index(id)].next_sibling;
      --num_free_;
    } else {
      ++used_;
    }
    return id;
  }
  void give_back(NodeId id) noexcept {
    node(id).next_sibling = first_free_;
    first_free_ = id;
    ++num_free_;
  }

  [[nodiscard]] bool matches(NodeId id, const TokenId* tokens, std::string_view extras) const {
    const Node& n = nodes_[index(id)];
    if (n.has_extras != !extras.empty()) return false;
    if (!same_tokens(&tokens_[index(id) * block_size_], tokens)) return false;
    return extras.empty() || extras_.at(id) == extras;
  }

  /// The same of a block without extras.
  [[nodiscard]] bool matches(NodeId id, const TokenId* tokens) const noexcept {
    return same_tokens(&tokens_[index(id) * block_size_], tokens) && !nodes_[index(id)].has_extras;
  }

// g++ 12 warns of shorter arrays that reach this with another block size.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Warray-bounds"
#endif
  [[nodiscard]] bool same_tokens(const TokenId* a, const TokenId* b) const noexcept {
    if (block_size_ == 16) {  // one cache line, without a call or a branch
      std::uint64_t differ = 0;
      for (std::size_t i = 0; i < block_size_; i += 2) {
        std::uint64_t x, y;
        std::memcpy(&x, a + i, sizeof x);
        std::memcpy(&y, b + i, sizeof y);
        differ |= x ^ y;
      }
      return differ == 0;
    }
    return std::memcmp(a, b, block_size_ * sizeof(TokenId)) == 0;
  }
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

  [[nodiscard]] std::size_t bucket(NodeId parent, const TokenId* tokens,
                                   std::string_view extras) const noexcept {
    const std::uint64_t extra = extras.empty() ? 0 : hash_.bytes(extras.data(), extras.size());
    return hash_(static_cast<std::uint64_t>(parent), {tokens, block_size_}, extra) >> 32 &
           (buckets_.size() - 1);
  }

  [[nodiscard]] NodeId& bucket_of(NodeId id) {
    return buckets_[bucket(node(id).parent, &tokens_[index(id) * block_size_], extras(id))];
  }
  void enter_bucket(NodeId id) {
    NodeId& head = bucket_of(id);
    node(id).next_in_bucket = head;
    node(id).hashed = 1;
    head = id;
  }

  void unlink(NodeId id) {
    Node& n = node(id);
    if (n.hashed) {
      NodeId* link = &bucket_of(id);
      while (*link != id) link = &node(*link).next_in_bucket;
      *link = n.next_in_bucket;
    }
    if (n.prev_sibling != kNoNode) {
      node(n.prev_sibling).next_sibling = n.next_sibling;
    } else {
      node(n.parent).first_child = n.next_sibling;
    }
    if (n.next_sibling != kNoNode) node(n.next_sibling).prev_sibling = n.prev_sibling;
    if (n.has_extras) extras_.erase(id);
    give_back(id);
  }

  Hash hash_;
  std::size_t block_size_;
  detail::GrowArray<Node> nodes_;
  detail::GrowArray<TokenId> tokens_;  // [nodes, block_size]
  std::size_t used_ = 0;
  std::size_t num_free_ = 0;
  NodeId first_free_ = kNoNode;
  std::vector<NodeId> buckets_;
  std::unordered_map<NodeId, std::string> extras_;  // of the few nodes that have some
};

}  // namespace pagedkv::inline v0_1
