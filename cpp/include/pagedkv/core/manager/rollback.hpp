#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "pagedkv/core/manager/block_store.hpp"
#include "pagedkv/core/manager/sequence.hpp"

namespace pagedkv::inline v0_1::detail {

/// How far back a sequence can go: a state only to a checkpoint, a window only where it is still
/// held or can be had again from the index.
template <class Hash>
class Rollback {
 public:
  explicit Rollback(const BlockStore<Hash>& store) : store_(store) {}

  /// The longest length up to `num_tokens` that every group can go back to.
  [[nodiscard]] std::size_t reachable(const Sequence& s, std::size_t num_tokens) const {
    std::size_t length = num_tokens;
    for (std::size_t before = length + 1; length != 0 && length != before;) {
      before = length;
      for (std::size_t g = 0; g < s.groups.size(); ++g) {
        const auto& spec = store_.specs()[g];
        if (spec.kind == GroupKind::ssm) length = last_checkpoint(s, g, length);
        if (spec.kind == GroupKind::sliding_window && !has_window(s, g, length)) length = 0;
      }
    }
    return length;
  }

  [[nodiscard]] std::size_t last_checkpoint(const Sequence& s, std::size_t g,
                                            std::size_t length) const {
    const auto& group = s.groups[g];
    const auto& spec = store_.specs()[g];
    std::size_t depth = group.indexed;
    for (NodeId node = group.cursor; depth != 0; node = store_.tree(g)[node].parent, --depth) {
      if (depth * spec.block_size <= length && store_.tree(g)[node].block != kNoBlock) break;
    }
    return depth * spec.block_size;
  }

  /// Whether the window before `length` is held, or can be had again from the index.
  [[nodiscard]] bool has_window(const Sequence& s, std::size_t g, std::size_t length) const {
    const auto& group = s.groups[g];
    const auto& spec = store_.specs()[g];
    const std::size_t from = spec.block_of(spec.first_visible(length));
    const std::size_t to = std::min(group.live_from, group.blocks.size());
    for (std::size_t i = std::max(from, spec.sink_blocks()); i < to; ++i) {
      if (i * spec.block_size >= length) break;
      if (group.blocks[i] == kNoBlock && block_on_path(s, g, i) == kNoBlock) return false;
    }
    return true;
  }

  [[nodiscard]] NodeId node_on_path(const Sequence& s, std::size_t g, std::size_t depth) const {
    const auto& group = s.groups[g];
    if (depth >= group.indexed) return kNoNode;
    NodeId node = group.cursor;
    for (std::size_t d = group.indexed - 1; d > depth; --d) node = store_.tree(g)[node].parent;
    return node;
  }
  [[nodiscard]] std::int32_t block_on_path(const Sequence& s, std::size_t g,
                                           std::size_t depth) const {
    const NodeId node = node_on_path(s, g, depth);
    return node == kNoNode ? kNoBlock : store_.tree(g)[node].block;
  }

 private:
  const BlockStore<Hash>& store_;
};

}  // namespace pagedkv::inline v0_1::detail
