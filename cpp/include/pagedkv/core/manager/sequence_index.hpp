#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <new>
#include <string>

#include "pagedkv/core/manager/block_store.hpp"
#include "pagedkv/core/manager/prefix_match.hpp"
#include "pagedkv/core/manager/sequence.hpp"

namespace pagedkv::inline v0_1::detail {

/// The place of sequences in the prefix index: of each group a path from the salt's root through
/// the blocks that are full, written and known.
template <class Hash>
class SequenceIndex {
 public:
  SequenceIndex(BlockStore<Hash>& store, bool caching) : store_(store), caching_(caching) {}

  /// Whether full blocks of `s` are entered at all.
  [[nodiscard]] bool stores(const Sequence& s) const noexcept { return caching_ && s.store; }

  /// Starts the path at the salt's root.
  void enter(Sequence& s) {
    if (!caching_) return;
    s.index_again_at = 0;
    for (std::size_t g = 0; g < s.groups.size(); ++g) {
      s.groups[g].cursor = store_.root(s.salt, g);
      store_.add_cursor(g, s.groups[g].cursor);
    }
  }

  /// Leaves the index; the path is empty then.
  void leave(Sequence& s, std::size_t g) {
    auto& group = s.groups[g];
    if (group.cursor != kNoNode) store_.drop_cursor(g, group.cursor);
    group.cursor = kNoNode;
    group.indexed = 0;
  }

  /// Cuts the path back to `num_blocks` blocks.
  void shorten(Sequence& s, std::size_t g, std::size_t num_blocks) {
    auto& group = s.groups[g];
    if (group.indexed <= num_blocks) return;
    NodeId node = group.cursor;
    for (; group.indexed > num_blocks; --group.indexed) node = store_.tree(g)[node].parent;
    move_cursor(group, g, node);
  }

  /// Enters blocks that are full, written and known. When one cannot enter, also for want of
  /// memory, it and what follows are tried again once there is a block more.
  void index_full(Sequence& s) {
    if (!stores(s)) return;
    const std::size_t limit = std::min(s.committed, s.known());
    if (limit < s.index_again_at) return;
    for (std::size_t g = 0; g < s.groups.size(); ++g) {
      const std::size_t block_size = store_.specs()[g].block_size;
      while ((s.groups[g].indexed + 1) * block_size <= limit) {
        if (!index_next(s, g)) {
          s.index_again_at = limit + block_size;
          return;
        }
      }
      if (store_.specs()[g].kind == GroupKind::ssm) keep_checkpoint(s, g);
    }
  }

  /// Tokens that must be written and known before `index_full` has something to do for group `g`.
  [[nodiscard]] std::size_t indexes_at(const Sequence& s, std::size_t g) const noexcept {
    return std::max(s.index_again_at, (s.groups[g].indexed + 1) * store_.specs()[g].block_size);
  }

  /// Takes over what `match` found for a sequence that holds nothing.
  void take_hit(Sequence& s, const PrefixMatch<Hash>& match) {
    for (std::size_t g = 0; g < s.groups.size(); ++g) {
      const auto& spec = store_.specs()[g];
      auto& group = s.groups[g];
      const auto path = match.path(g).first(spec.block_of(match.full_tokens()));
      if (spec.kind != GroupKind::ssm) group.blocks.reserve(path.size() + 1);
      const std::size_t visible = spec.block_of(spec.first_visible(match.full_tokens()));
      for (std::size_t d = 0; d < path.size(); ++d) {
        const std::int32_t block = store_.tree(g)[path[d]].block;
        const bool last = d + 1 == path.size();
        if (spec.kind == GroupKind::ssm) {
          if (!last) continue;
          group.state_source = block;
        } else if (d < visible && d >= spec.sink_blocks()) {
          group.blocks.push_back(kNoBlock);
          continue;
        } else {
          group.blocks.push_back(block);
        }
        store_.hit(g, path[d], static_cast<BlockId>(block), s.priority);
      }
      group.live_from = visible;
      group.indexed = path.size();
      if (!path.empty()) move_cursor(group, g, path.back());
      if (match.partial_tokens() != 0) {
        const NodeId node = match.partial_node(g);
        group.partial_source = store_.tree(g)[node].block;
        store_.hit(g, node, static_cast<BlockId>(group.partial_source), s.priority);
      }
    }
    s.cached = s.scheduled = s.committed = match.full_tokens() + match.partial_tokens();
    ++s.table_version;
  }

 private:
  void move_cursor(SequenceGroup& group, std::size_t g, NodeId node) {
    store_.add_cursor(g, node);
    store_.drop_cursor(g, group.cursor);
    group.cursor = node;
  }

  /// Moves one block further on the path; false when that cannot be.
  bool index_next(Sequence& s, std::size_t g) {
    try {
      return try_index_next(s, g);
    } catch (const std::bad_alloc&) {
      return false;
    }
  }
  /// @throws std::bad_alloc before anything has changed.
  bool try_index_next(Sequence& s, std::size_t g) {
    auto& group = s.groups[g];
    auto& tree = store_.tree(g);
    const auto& spec = store_.specs()[g];
    const std::size_t first = group.indexed * spec.block_size;
    const std::string extras = extras_key(s.extras, first, first + spec.block_size);
    const TokenId* tokens = s.tokens.data() + first;
    const bool ssm = spec.kind == GroupKind::ssm;
    const std::int32_t own = ssm ? kNoBlock : group.blocks[group.indexed];

    NodeId node = tree.find(group.cursor, tokens, extras);
    if (node == kNoNode) {
      node = store_.insert(g, group.cursor, tokens, extras);
    } else {
      reserve_more(group.shadows, 1);
    }
    store_.add_cursor(g, node);  // first: what a full salt evicts below must not take it along
    const std::int32_t held = tree[node].block;
    if (held == kNoBlock && own != kNoBlock) {
      const auto b = static_cast<BlockId>(own);
      if (!may_enter(group, b) || !store_.attach(g, node, b, group.indexed, s.priority)) {
        store_.drop_cursor(g, node);
        return false;
      }
    } else if (held != own && spec.kind == GroupKind::full_attention) {
      // Somebody computed the same block first. While it is in use it stays the entry; it is held,
      // so that the path to what this sequence adds below cannot be evicted.
      const auto first_one = static_cast<BlockId>(held);
      if (store_.refs(first_one) == 0 && may_enter(group, static_cast<BlockId>(own))) {
        store_.replace(g, node, static_cast<BlockId>(own), s.priority);
      } else {
        store_.ref(first_one);
        store_.raise_priority(first_one, s.priority);
        group.shadows.push_back({group.indexed, first_one});
      }
    }
    store_.drop_cursor(g, group.cursor);
    group.cursor = node;
    ++group.indexed;
    return true;
  }

  /// Others that hold this block do not hold the shadows above it: below them it must stay out. So
  /// must one that is there under other tokens: a fork was told others for what both share.
  [[nodiscard]] bool may_enter(const SequenceGroup& group, BlockId b) const noexcept {
    return !store_.is_indexed(b) && (group.shadows.empty() || store_.refs(b) == 1);
  }

  /// Where a state ends on a checkpoint it becomes the index's, and the sequence goes on in a copy.
  void keep_checkpoint(Sequence& s, std::size_t g) {
    auto& group = s.groups[g];
    const auto& spec = store_.specs()[g];
    if (group.state_slot == kNoBlock || s.committed == 0 || s.scheduled != s.committed ||
        s.committed % spec.checkpoint_interval != 0 ||
        group.indexed * spec.block_size != s.committed ||
        store_.tree(g)[group.cursor].block != kNoBlock) {
      return;
    }
    if (store_.attach(g, group.cursor, static_cast<BlockId>(group.state_slot), group.indexed - 1,
                      s.priority)) {
      std::swap(group.state_source, group.state_slot);
    }
  }

  BlockStore<Hash>& store_;
  bool caching_;
};

}  // namespace pagedkv::inline v0_1::detail
