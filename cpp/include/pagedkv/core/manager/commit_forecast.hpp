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
  /// that becomes a checkpoint and goes on in a copy, a block of the index that is held because the
  /// same one was computed again.
  [[nodiscard]] std::size_t most_held_by_commit(const Sequence& s) const noexcept {
    std::size_t blocks = 0;
    if (!caching_ || !s.store) return blocks;
    for (std::size_t g = 0; g < s.groups.size(); ++g) {
      const auto& spec = store_.specs()[g];
      const std::size_t indexable = std::min(s.committed, s.known()) + 1;
      if (spec.kind == GroupKind::full_attention) {
        blocks += spec.offset_of(indexable) == 0;
      } else if (spec.kind == GroupKind::ssm) {
        blocks += indexable % spec.checkpoint_interval == 0;
      }
    }
    return blocks;
  }

  struct AfterCommit {
    std::ptrdiff_t change;  // of the number of available blocks, less what states take
    std::size_t needed;     // blocks for one more token each
  };
  /// What holds when these sequences have committed one token each and appended `tokens[i]`;
  /// exactly. `needed()` is asked while blocks are held as they will be then. O(sequences): for when
  /// it is tight.
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
    for (std::size_t i = 0; i < sequences.size(); ++i) {
      const Sequence& s = *sequences[i];
      for (const BlockId b : s.copy_sources) {
        add(static_cast<std::int32_t>(b), false);
        pending_.drop(b);
      }
      for (std::size_t g = 0; g < s.groups.size(); ++g) {
        switch (store_.specs()[g].kind) {
          case GroupKind::full_attention: {
            const std::int32_t held = indexed_next(s, g, tokens[i]);
            if (held != kNoBlock && held != s.groups[g].blocks[s.groups[g].indexed]) {
              add(held, true);
            }
            break;
          }
          case GroupKind::sliding_window:
            for_each_leaving(store_.specs()[g], s.groups[g], s.committed + 1,
                             [&](const std::int32_t& b) { add(b, false); });
            break;
          case GroupKind::ssm: after.change -= becomes_checkpoint(s, g, tokens[i]); break;
        }
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
  /// The node that one more committed and appended token would lead to, or kNoNode.
  [[nodiscard]] NodeId next_node(const Sequence& s, std::size_t g, TokenId appended) {
    const auto& group = s.groups[g];
    const std::size_t block_size = store_.specs()[g].block_size;
    const std::size_t first = group.indexed * block_size;
    block_.assign(s.tokens.begin() + static_cast<std::ptrdiff_t>(first), s.tokens.end());
    block_.push_back(appended);
    return store_.tree(g).find(group.cursor, block_.data(),
                               extras_key(s.extras, first, first + block_size));
  }
  /// Whether that token completes a block of the index.
  [[nodiscard]] bool completes_block(const Sequence& s, std::size_t g) const noexcept {
    return caching_ && s.store &&
           (s.groups[g].indexed + 1) * store_.specs()[g].block_size ==
               std::min(s.committed, s.known()) + 1;
  }
  [[nodiscard]] std::int32_t indexed_next(const Sequence& s, std::size_t g, TokenId appended) {
    if (!completes_block(s, g)) return kNoBlock;
    const NodeId node = next_node(s, g, appended);
    return node == kNoNode ? kNoBlock : store_.tree(g)[node].block;
  }
  [[nodiscard]] bool becomes_checkpoint(const Sequence& s, std::size_t g, TokenId appended) {
    const std::size_t committed = s.committed + 1;
    return s.groups[g].state_slot != kNoBlock && committed == s.scheduled &&
           committed % store_.specs()[g].checkpoint_interval == 0 && completes_block(s, g) &&
           s.known() + 1 >= committed && indexed_next(s, g, appended) == kNoBlock;
  }

  BlockStore<Hash>& store_;
  PendingCopies& pending_;
  bool caching_;
  std::vector<TokenId> block_;
};

}  // namespace pagedkv::inline v0_1::detail
