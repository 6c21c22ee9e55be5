#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "pagedkv/core/manager/options.hpp"
#include "pagedkv/core/manager/prefix_tree.hpp"
#include "pagedkv/detail/sha256.hpp"

namespace pagedkv::inline v0_1::detail {

/// What entered and left the prefix index, named by content, so that another process with the same
/// prompts computes the same names. Hashes are only computed when events are on.
///
/// A hash is SHA-256 over fields, each written as its tag (one byte), its length (u64,
/// little-endian) and its bytes. Of a salt: 's' the salt. Of a block: 'p' the parent's hash (32
/// bytes), 't' the tokens (int32, little-endian), and 'x' the extras where there are some.
class EventLog {
 public:
  using Digest = Sha256::Digest;

  EventLog(bool on, std::size_t num_groups) : on_(on), hashes_(num_groups) {}

  template <class Tree>
  void stored(std::size_t g, const Tree& tree, NodeId node, std::string_view salt) {
    if (!on_) return;
    const Digest parent = hash_of(g, tree, tree[node].parent, salt);
    const Digest hash = block_hash(parent, tree.tokens(node), tree.extras(node));
    auto& known = hashes_[g];
    if (known.size() <= static_cast<std::size_t>(node))
      known.resize(static_cast<std::size_t>(node) + 1);
    known[static_cast<std::size_t>(node)] = {parent, hash};
    push(CacheEvent::Kind::stored, g, tree, node);
  }

  /// `node` still has its block.
  template <class Tree>
  void removed(std::size_t g, const Tree& tree, NodeId node) {
    if (on_) push(CacheEvent::Kind::removed, g, tree, node);
  }

  [[nodiscard]] std::vector<CacheEvent> take() { return std::exchange(events_, {}); }

  static Digest salt_hash(std::string_view salt) {
    Sha256 sha;
    field(sha, 's', {reinterpret_cast<const std::uint8_t*>(salt.data()), salt.size()});
    return sha.finish();
  }

  static Digest block_hash(const Digest& parent, std::span<const TokenId> tokens,
                           std::string_view extras) {
    Sha256 sha;
    field(sha, 'p', parent);
    std::vector<std::uint8_t> bytes;
    for (const TokenId token : tokens) {
      for (int shift = 0; shift < 32; shift += 8) {
        bytes.push_back(static_cast<std::uint8_t>(static_cast<std::uint32_t>(token) >> shift));
      }
    }
    field(sha, 't', bytes);
    if (!extras.empty()) {
      field(sha, 'x', {reinterpret_cast<const std::uint8_t*>(extras.data()), extras.size()});
    }
    return sha.finish();
  }

 private:
  struct Known {
    Digest parent;
    Digest hash;
  };

  static void field(Sha256& sha, char tag, std::span<const std::uint8_t> bytes) {
    std::array<std::uint8_t, 9> head{static_cast<std::uint8_t>(tag)};
    for (std::size_t i = 0; i < 8; ++i) {
      head[i + 1] = static_cast<std::uint8_t>(std::uint64_t{bytes.size()} >> (8 * i));
    }
    sha.update(head);
    sha.update(bytes);
  }

  /// Hash of the prefix that ends at `node`. Only nodes with a block have theirs kept.
  template <class Tree>
  Digest hash_of(std::size_t g, const Tree& tree, NodeId node, std::string_view salt) const {
    if (tree[node].parent == kNoNode) return salt_hash(salt);
    if (tree[node].block != kNoBlock) return hashes_[g][static_cast<std::size_t>(node)].hash;
    return block_hash(hash_of(g, tree, tree[node].parent, salt), tree.tokens(node),
                      tree.extras(node));
  }

  template <class Tree>
  void push(CacheEvent::Kind kind, std::size_t g, const Tree& tree, NodeId node) {
    const Known& known = hashes_[g][static_cast<std::size_t>(node)];
    const auto tokens = tree.tokens(node);
    events_.push_back({kind,
                       static_cast<std::uint32_t>(g),
                       known.hash,
                       known.parent,
                       {tokens.begin(), tokens.end()}});
  }

  bool on_;
  std::vector<std::vector<Known>> hashes_;  // [groups][nodes]
  std::vector<CacheEvent> events_;
};

}  // namespace pagedkv::inline v0_1::detail
