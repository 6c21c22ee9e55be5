#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "pagedkv/core/manager/block_store.hpp"
#include "pagedkv/core/manager/options.hpp"
#include "pagedkv/core/manager/sequence.hpp"

namespace pagedkv::inline v0_1::detail {

/// What part of `extras` a block of tokens [first, last) must agree on; empty for none.
[[nodiscard]] inline std::string extras_key(const std::vector<Extra>& extras, std::size_t first,
                                            std::size_t last) {
  std::string key;
  for (const Extra& extra : extras) {
    if (extra.start >= last || extra.start + extra.length <= first) continue;
    // Positions are relative to the block, so that the key does not depend on what comes before.
    for (const std::uint64_t number :
         {std::uint64_t{extra.start} - first, std::uint64_t{extra.length},
          std::uint64_t{extra.digest.size()}}) {
      for (int shift = 0; shift < 64; shift += 8) key.push_back(static_cast<char>(number >> shift));
    }
    key += extra.digest;
  }
  return key;
}

/// Looks the start of a prompt up in every group and finds the longest that all can serve. Holds
/// nothing. Kept for reuse of its memory.
template <class Hash>
class PrefixMatch {
 public:
  /// Siblings that are tried for a common start of the next block.
  static constexpr std::size_t kMaxSiblings = 16;

  /// @param tokens  the prompt; at most all but its last token are matched.
  void find(const BlockStore<Hash>& store, std::uint32_t salt, std::span<const TokenId> tokens,
            const std::vector<Extra>& extras, bool partial_reuse) {
    const std::size_t limit = tokens.empty() ? 0 : tokens.size() - 1;
    const auto& specs = store.specs();
    paths_.resize(specs.size());
    for (std::size_t g = 0; g < specs.size(); ++g) walk(store, g, salt, tokens, limit, extras);

    full_ = limit;
    limiting_ = 0;
    for (std::size_t before = limit + 1; full_ != before;) {
      before = full_;
      for (std::size_t g = 0; g < specs.size(); ++g) {
        const std::size_t length = servable(store, g, full_);
        if (length < full_) {
          full_ = length;
          limiting_ = g;
        }
      }
    }
    partial_ = 0;
    if (partial_reuse) find_partial(store, salt, tokens, limit, extras);
  }

  /// Tokens in whole blocks.
  [[nodiscard]] std::size_t full_tokens() const noexcept { return full_; }
  /// Tokens of the next block that another block begins with; they are to be copied.
  [[nodiscard]] std::size_t partial_tokens() const noexcept { return partial_; }
  [[nodiscard]] NodeId partial_node(std::size_t g) const noexcept { return paths_[g].partial; }
  /// Nodes of the prompt's blocks, as far as they are known to the index.
  [[nodiscard]] std::span<const NodeId> path(std::size_t g) const noexcept {
    return paths_[g].nodes;
  }
  /// The group that kept the hit from being longer.
  [[nodiscard]] std::size_t limiting_group() const noexcept { return limiting_; }

 private:
  struct Path {
    std::vector<NodeId> nodes;
    NodeId partial = kNoNode;
  };

  void walk(const BlockStore<Hash>& store, std::size_t g, std::uint32_t salt,
            std::span<const TokenId> tokens, std::size_t limit, const std::vector<Extra>& extras) {
    const auto& tree = store.tree(g);
    const std::size_t block_size = store.specs()[g].block_size;
    auto& nodes = paths_[g].nodes;
    NodeId node = store.root(salt, g);
    if (extras.empty()) {
      tree.follow(node, tokens.data(), store.specs()[g].block_of(limit), nodes);
      return;
    }
    nodes.clear();
    for (std::size_t first = 0; first + block_size <= limit; first += block_size) {
      node = tree.find(node, tokens.data() + first, extras_key(extras, first, first + block_size));
      if (node == kNoNode) break;
      nodes.push_back(node);
    }
  }

  /// The longest length up to `limit` that group `g` alone can serve.
  [[nodiscard]] std::size_t servable(const BlockStore<Hash>& store, std::size_t g,
                                     std::size_t limit) const {
    const auto& spec = store.specs()[g];
    const auto& tree = store.tree(g);
    const auto& nodes = paths_[g].nodes;
    const auto present = [&](std::size_t d) { return tree[nodes[d]].block != kNoBlock; };
    std::size_t blocks = std::min(nodes.size(), spec.block_of(limit));
    if (spec.kind == GroupKind::ssm) {
      while (blocks != 0 && !present(blocks - 1)) --blocks;
    } else if (spec.kind == GroupKind::sliding_window) {
      blocks = servable_window(spec, blocks, present);
    }
    return blocks * spec.block_size;
  }

  template <class Present>
  static std::size_t servable_window(const GroupSpec& spec, std::size_t blocks, Present present) {
    // A hole among the sinks ends everything behind it.
    const std::size_t sinks = spec.sink_blocks();
    for (std::size_t d = 0; d < std::min(sinks, blocks); ++d) {
      if (!present(d)) blocks = d;
    }
    // From the end: the first length whose whole window is there.
    while (blocks != 0) {
      const std::size_t from =
          std::max(spec.block_of(spec.first_visible(blocks * spec.block_size)), sinks);
      std::size_t d = blocks;
      while (d > from && present(d - 1)) --d;
      if (d <= from) break;
      blocks = d - 1;  // block d - 1 is missing: no length in [d, blocks] has its window
    }
    return blocks;
  }

  void find_partial(const BlockStore<Hash>& store, std::uint32_t salt,
                    std::span<const TokenId> tokens, std::size_t limit,
                    const std::vector<Extra>& extras) {
    const auto& specs = store.specs();
    const std::size_t block_size = specs[0].block_size;
    for (const auto& spec : specs) {
      if (spec.kind != GroupKind::full_attention || spec.block_size != block_size) return;
    }
    const std::size_t most = std::min(limit - full_, block_size);
    if (most == 0 || !extras_key(extras, full_, full_ + block_size).empty()) return;
    std::size_t common = most;
    for (std::size_t g = 0; g < specs.size() && common != 0; ++g) {
      const std::size_t depth = full_ / block_size;
      const NodeId parent = depth == 0 ? store.root(salt, g) : paths_[g].nodes[depth - 1];
      std::size_t agree = 0;
      paths_[g].partial = store.tree(g).longest_common_start(parent, tokens.data() + full_, most,
                                                             kMaxSiblings, agree);
      common = std::min(common, agree);
    }
    partial_ = common;
  }

  std::vector<Path> paths_;
  std::size_t full_ = 0;
  std::size_t partial_ = 0;
  std::size_t limiting_ = 0;
};

}  // namespace pagedkv::inline v0_1::detail
