#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "pagedkv/core/manager/block_store.hpp"
#include "pagedkv/core/manager/pending_copies.hpp"
#include "pagedkv/core/manager/prefix_match.hpp"
#include "pagedkv/core/manager/sequence.hpp"

namespace pagedkv::inline v0_1::detail {

/// What committing one token of each sequence, with one appended, would do to the number of
/// available blocks: so that a step can refuse before it changes anything.
template <class Hash>
class CommitForecast {
 public:
  CommitForecast(BlockStore<Hash>& store, PendingCopies& pending, bool caching)
      : store_(store), pending_(pending), caching_(caching) {}

  /// The most by which committing one token can lower what is available beyond `needed`: a state
  /// that becomes a checkpoint and goes on in a copy, blocks of the index that are held because the
  /// same ones were computed again.
  [[nodiscard]] std::size_t most_held_by_commit(const Sequence& s) const noexcept {
    std::size_t blocks = 0;
    const std::size_t limit = std::min(s.committed, s.known()) + 1;
    if (!caching_ || !s.store || limit < s.index_again_at) return blocks;
    for (std::size_t g = 0; g < s.groups.size(); ++g) {
      const auto& spec = store_.specs()[g];
      if (spec.kind == GroupKind::full_attention) {
        blocks += spec.block_of(limit) - s.groups[g].indexed;
      } else if (spec.kind == GroupKind::ssm) {
        blocks += limit % spec.checkpoint_interval == 0;
      }
    }
    return blocks;
  }

  struct AfterCommit {
    std::ptrdiff_t change;  // of the number of available blocks, less what states take
    std::size_t needed;     // blocks for one more token each
  };
  /// What holds when these sequences have committed one token each and appended `tokens[i]`. Exact,
  /// but for salts with a maximum: what they keep out or evict is counted as if it were held.
  /// `needed()` is asked while blocks are held as they will be then. O(sequences): for when it is
  /// tight.
  template <class Needed>
  [[nodiscard]] AfterCommit after_commit(std::span<Sequence* const> sequences,
                                         std::span<const TokenId> tokens, Needed needed) {
    std::unordered_map<BlockId, std::uint32_t> before;
    const auto add = [&](std::int32_t block, bool hold) {
      const auto b = static_cast<BlockId>(block);
      before.emplace(b, store_.refs(b));
      store_.change_count(b, hold ? 1 : -1);
    };
    AfterCommit after{0, 0};
    replaced_.clear();
    for (std::size_t i = 0; i < sequences.size(); ++i) {
      const Sequence& s = *sequences[i];
      for (const BlockId b : s.copy_sources) {
        add(static_cast<std::int32_t>(b), false);
        pending_.drop(b);
      }
      for (std::size_t g = 0; g < s.groups.size(); ++g) {
        const auto& spec = store_.specs()[g];
        if (spec.kind == GroupKind::sliding_window) {
          for_each_leaving(spec, s.groups[g], s.committed + 1,
                           [&](const std::int32_t& b) { add(b, false); });
        }
      }
    }
    for (std::size_t i = 0; i < sequences.size(); ++i) {
      const Sequence& s = *sequences[i];
      for (std::size_t g = 0; g < s.groups.size(); ++g) {
        const bool is_new = walk(s, g, tokens[i], [&](std::int32_t held) { add(held, true); });
        // What a full salt evicts may be the very checkpoint that was found.
        const bool is_limited = store_.salts()[s.salt].max_blocks.has_value();
        after.change -= (is_new || is_limited) && becomes_checkpoint(s, g);
      }
    }
    after.needed = needed();
    for (const Sequence* s : sequences) {
      for (const BlockId b : s->copy_sources) pending_.add(b);
    }
    for (const auto& [b, refs] : before) {
      after.change += (store_.refs(b) == 0) - (refs == 0);
      store_.change_count(b, static_cast<std::int32_t>(refs - store_.refs(b)));
    }
    return after;
  }

 private:
  /// Follows the path of `s` through what one more committed and appended token completes. Of a
  /// group of full attention, blocks of others that it will hold go to `hold`. Returns whether the
  /// path ends without a block.
  template <class Hold>
  bool walk(const Sequence& s, std::size_t g, TokenId appended, Hold hold) {
    const auto& spec = store_.specs()[g];
    const auto& group = s.groups[g];
    const std::size_t limit = std::min(s.committed, s.known()) + 1;
    if (!caching_ || !s.store || limit < s.index_again_at) return false;
    NodeId node = group.cursor;
    bool has_shadows = !group.shadows.empty();
    for (std::size_t d = group.indexed; (d + 1) * spec.block_size <= limit; ++d) {
      const std::size_t first = d * spec.block_size, last = first + spec.block_size;
      const auto begin = s.tokens.begin() + static_cast<std::ptrdiff_t>(first);
      block_.assign(begin,
                    s.tokens.begin() + static_cast<std::ptrdiff_t>(std::min(last, s.known())));
      if (last > s.known()) block_.push_back(appended);
      node = store_.tree(g).find(node, block_.data(), extras_key(s.extras, first, last));
      if (node == kNoNode) return true;  // and neither is there what would follow
      const std::int32_t held = store_.tree(g)[node].block;
      if (spec.kind != GroupKind::full_attention || held == group.blocks[d]) continue;
      const auto theirs = static_cast<BlockId>(held), own = static_cast<BlockId>(group.blocks[d]);
      if (store_.refs(theirs) == 0 && !was_replaced(theirs)) {
        // Nobody uses it: the sequence's own takes its place, where it may.
        if (!store_.is_indexed(own) && (!has_shadows || store_.refs(own) == 1)) {
          replaced_.push_back(theirs);
          continue;
        }
      }
      // In place of one that was replaced, another of these sequences' is held, which it holds too.
      if (!was_replaced(theirs)) hold(held);
      has_shadows = true;
    }
    return store_.tree(g)[node].block == kNoBlock;
  }
  [[nodiscard]] bool was_replaced(BlockId b) const noexcept {
    return std::ranges::find(replaced_, b) != replaced_.end();
  }
  /// Whether the state is a checkpoint once its path is complete.
  [[nodiscard]] bool becomes_checkpoint(const Sequence& s, std::size_t g) const noexcept {
    const auto& spec = store_.specs()[g];
    const std::size_t committed = s.committed + 1;
    return spec.kind == GroupKind::ssm && s.groups[g].state_slot != kNoBlock &&
           committed == s.scheduled && committed % spec.checkpoint_interval == 0 &&
           s.known() + 1 >= committed;
  }

  BlockStore<Hash>& store_;
  PendingCopies& pending_;
  bool caching_;
  std::vector<TokenId> block_;
  std::vector<BlockId> replaced_;  // entries in whose place one of these sequences' comes
};

}  // namespace pagedkv::inline v0_1::detail
