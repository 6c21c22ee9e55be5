#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include "pagedkv/core/manager/batch.hpp"
#include "pagedkv/core/manager/block_store.hpp"
#include "pagedkv/core/manager/pending_copies.hpp"
#include "pagedkv/core/manager/prefix_match.hpp"
#include "pagedkv/core/manager/rollback.hpp"
#include "pagedkv/core/manager/sequence.hpp"
#include "pagedkv/core/manager/sequence_index.hpp"

namespace pagedkv::inline v0_1::detail {

/// What a sequence holds and how that changes: the blocks of its groups, its lengths and, with
/// them, its place in the prefix index. Callers have checked arguments and room; nothing here fails
/// half-way.
template <class Hash>
class SequenceBlocks {
 public:
  SequenceBlocks(BlockStore<Hash>& store, bool caching)
      : store_(store), rollback_(store), index_(store, caching) {}

  // --- room for new tokens ---

  /// Blocks that `grow` would take for the sequences of one batch. They are asked for in the order
  /// of the batch, because the last one that has a block left does not copy it.
  class Demand {
   public:
    explicit Demand(SequenceBlocks& blocks) noexcept : blocks_(blocks) {}
    Demand(const Demand&) = delete;
    Demand& operator=(const Demand&) = delete;
    ~Demand() {
      for (const BlockId b : blocks_.planned_) blocks_.pending_.drop(b);
      blocks_.planned_.clear();
    }

    /// Blocks for `num_tokens` more tokens of the next sequence.
    [[nodiscard]] std::size_t next(const Sequence& s, std::size_t num_tokens) {
      std::size_t blocks = 0;
      for (std::size_t g = 0; g < s.groups.size(); ++g) {
        const auto& spec = blocks_.store_.specs()[g];
        const auto& group = s.groups[g];
        if (spec.kind == GroupKind::ssm) {
          if (num_tokens == 0 || group.state_slot != kNoBlock) continue;
          if (blocks_.can_take_over(group)) continue;
          ++blocks;
          if (group.state_source != kNoBlock) plan_copy(group.state_source);
          continue;
        }
        const std::size_t total = spec.blocks_for(s.scheduled + num_tokens);
        if (total > group.blocks.size()) blocks += total - group.blocks.size();
        if (num_tokens != 0 && blocks_.copies_tail(s, spec, group)) {
          ++blocks;
          plan_copy(group.blocks[spec.block_of(s.scheduled)]);
        }
      }
      return blocks;
    }

   private:
    void plan_copy(std::int32_t source) {
      blocks_.planned_.push_back(static_cast<BlockId>(source));
      blocks_.pending_.add(static_cast<BlockId>(source));
    }

    SequenceBlocks& blocks_;
  };

  /// Entries of the longest table after `num_tokens` more tokens.
  [[nodiscard]] std::size_t table_length(const Sequence& s, std::size_t num_tokens) const noexcept {
    std::size_t longest = 0;
    for (const auto& spec : store_.specs()) {
      if (spec.kind == GroupKind::ssm) continue;
      longest = std::max(longest, spec.blocks_for(s.scheduled + num_tokens));
    }
    return longest;
  }

  /// Memory for what `grow` notes of so many sequences, beside that of each.
  void reserve(std::size_t num_sequences, Batch& batch) {
    for (std::size_t g = 0; g < store_.specs().size(); ++g) {
      reserve_more(batch[g].copies, num_sequences);
    }
    pending_.reserve(num_sequences * store_.specs().size());
  }
  /// Memory for what `grow` by `more` tokens notes of `s`, also when something is committed before.
  void reserve(Sequence& s, std::size_t more) {
    if (more == 0) return;
    std::size_t copies = 0;
    for (std::size_t g = 0; g < s.groups.size(); ++g) {
      const auto& spec = store_.specs()[g];
      auto& group = s.groups[g];
      if (spec.kind == GroupKind::ssm) {
        ++copies;
        continue;
      }
      const std::size_t total = spec.blocks_for(s.scheduled + more);
      if (total > group.blocks.size()) reserve_more(group.blocks, total - group.blocks.size());
      copies += group.partial_source != kNoBlock || copies_tail(s, spec, group);
    }
    reserve_more(s.copy_sources, copies);
  }

  /// Blocks for `num_tokens` more tokens, `lookahead` of which are room alone. Block copies that
  /// must be done before the tokens are written go to `batch`.
  void grow(Sequence& s, std::size_t num_tokens, std::size_t lookahead, Batch& batch) {
    const std::size_t more = num_tokens + lookahead;
    if (more != 0) {
      for (std::size_t g = 0; g < s.groups.size(); ++g) {
        const auto& spec = store_.specs()[g];
        if (spec.kind == GroupKind::ssm) {
          grow_state(s, s.groups[g], batch[g].copies);
        } else {
          grow_table(s, spec, s.groups[g], more, batch[g].copies);
        }
      }
    }
    s.scheduled += num_tokens;
  }

  /// Counts the decode steps that will need no block, complete none and leave none.
  void foresee_quiet(Sequence& s) const noexcept {
    s.quiet = 0;
    s.table_length = table_length(s, 0);
    std::size_t quiet = s.copy_sources.empty() ? std::numeric_limits<std::size_t>::max() : 0;
    for (std::size_t g = 0; g < s.groups.size(); ++g) {
      const auto& spec = store_.specs()[g];
      const auto& group = s.groups[g];
      if (spec.kind != GroupKind::full_attention) return;
      if (!group.tail_is_own) return;
      const std::size_t offset = spec.offset_of(s.scheduled);
      quiet = std::min(quiet, offset == 0 ? 0 : spec.block_size - offset);
      if (index_.stores(s)) {
        const std::size_t indexable = std::min(s.committed, s.known());
        quiet = std::min(quiet, index_.indexes_at(s, g) - indexable - 1);
      }
    }
    s.quiet = quiet;
  }

  /// Sources of copies that are not committed yet.
  [[nodiscard]] PendingCopies& pending_copies() noexcept { return pending_; }
  [[nodiscard]] const PendingCopies& pending_copies() const noexcept { return pending_; }

  // --- tokens written, tokens known ---

  void commit(Sequence& s, std::size_t num_tokens) {
    s.committed += num_tokens;
    if (num_tokens != 0 && !s.copy_sources.empty()) drop_copy_sources(s);
    index_.index_full(s);
    for (std::size_t g = 0; g < s.groups.size(); ++g) {
      if (store_.specs()[g].kind == GroupKind::sliding_window) leave_window(s, g);
    }
  }

  /// Token ids have become known.
  void tokens_known(Sequence& s) { index_.index_full(s); }

  /// The first `path.size()` tokens behind the committed ones become those that `path` names: slots
  /// to move, in order, go to `moves` of each group. What was scheduled behind them is given back.
  void accept(Sequence& s, std::span<const std::int32_t> path,
              std::vector<std::vector<SlotMove>>& moves) {
    for (std::size_t g = 0; g < s.groups.size(); ++g) {
      const auto& spec = store_.specs()[g];
      const auto slot = [&](std::size_t position) {
        return spec.slot(s.groups[g].blocks[spec.block_of(position)], position);
      };
      for (std::size_t i = 0; i < path.size(); ++i) {
        const auto from = static_cast<std::size_t>(path[i]);
        if (from != i) moves[g].push_back({slot(s.committed + from), slot(s.committed + i)});
      }
    }
    const std::size_t length = s.committed + path.size();
    if (length < s.scheduled) {
      for (std::size_t g = 0; g < s.groups.size(); ++g) {
        const bool own = s.groups[g].tail_is_own;
        cut(s, g, length);
        s.groups[g].tail_is_own = own;
      }
      s.scheduled = length;
      ++s.table_version;
    }
    commit(s, path.size());
  }

  /// Starts or resumes a sequence that holds nothing at its salt's root.
  void enter_index(Sequence& s) { index_.enter(s); }
  /// Takes over what `match` found for a sequence that holds nothing.
  void take_hit(Sequence& s, const PrefixMatch<Hash>& match) { index_.take_hit(s, match); }
  /// Leaves the index in all groups: of a sequence that holds no blocks any more.
  void leave_index(Sequence& s) {
    for (std::size_t g = 0; g < s.groups.size(); ++g) {
      auto& shadows = s.groups[g].shadows;
      for (; !shadows.empty(); shadows.pop_back()) store_.unref(shadows.back().block, s.ttl);
      index_.leave(s, g);
    }
  }

  /// Translates ids after a compaction.
  static void translate(Sequence& s, std::span<const BlockId> now_at) {
    const auto translate_entry = [&](std::int32_t& b) {
      if (b != kNoBlock) b = static_cast<std::int32_t>(now_at[static_cast<std::size_t>(b)]);
    };
    for (BlockId& b : s.copy_sources) b = now_at[b];
    for (auto& group : s.groups) {
      std::ranges::for_each(group.blocks, translate_entry);
      for (auto& shadow : group.shadows) shadow.block = now_at[shadow.block];
      translate_entry(group.partial_source);
      translate_entry(group.state_slot);
      translate_entry(group.state_source);
    }
    ++s.table_version;
  }

  // --- giving back ---

  /// Back to at most `num_tokens` tokens; returns the length that was reached.
  std::size_t truncate(Sequence& s, std::size_t num_tokens) {
    s.tokens.resize(std::min(s.known(), num_tokens));
    s.index_again_at = 0;
    if (num_tokens >= s.scheduled) return s.scheduled;
    // What was to be copied belongs to a step that is given up or has been issued.
    drop_copy_sources(s);
    const std::size_t reached = rollback_.reachable(s, num_tokens);
    for (std::size_t g = 0; g < s.groups.size(); ++g) cut(s, g, reached);
    s.scheduled = reached;
    s.committed = std::min(s.committed, reached);
    ++s.table_version;
    return reached;
  }

  /// Gives everything back, of each group the tail before the head.
  void release(Sequence& s) {
    drop_copy_sources(s);
    for (std::size_t g = 0; g < s.groups.size(); ++g) {
      auto& group = s.groups[g];
      for (const std::int32_t b : {group.partial_source, group.state_slot, group.state_source}) {
        if (b != kNoBlock) store_.unref(static_cast<BlockId>(b), s.ttl);
      }
      drop_table_from(group, 0, 0, s.ttl);
      index_.leave(s, g);
      group.clear();
    }
    s.scheduled = s.committed = 0;
    ++s.table_version;
  }

  /// States stay as they are; the sequence goes on in copies of those that others hold by then.
  void freeze_states(Sequence& s) const noexcept {
    for (auto& group : s.groups) {
      if (group.state_slot != kNoBlock) std::swap(group.state_slot, group.state_source);
    }
  }

  /// Memory for what `fork` notes of `to`.
  static void reserve_fork(const Sequence& from, Sequence& to) {
    for (std::size_t g = 0; g < from.groups.size(); ++g) {
      to.groups[g].blocks.reserve(from.groups[g].blocks.size());
      to.groups[g].shadows.reserve(from.groups[g].shadows.size());
    }
  }

  /// Lets `to` share all that `from` has committed.
  void fork(Sequence& from, Sequence& to) {
    freeze_states(from);  // they go on changing in place, so both continue from copies
    to.scheduled = to.committed = from.committed;
    for (std::size_t g = 0; g < from.groups.size(); ++g) {
      auto& source = from.groups[g];
      auto& target = to.groups[g];
      const auto& spec = store_.specs()[g];
      if (spec.kind == GroupKind::ssm) {
        target.state_source = source.state_source;
        if (target.state_source != kNoBlock) store_.ref(static_cast<BlockId>(target.state_source));
      } else {
        const std::size_t shared = std::min(spec.blocks_for(from.committed), source.blocks.size());
        target.blocks.assign(source.blocks.begin(),
                             source.blocks.begin() + static_cast<std::ptrdiff_t>(shared));
        for (const std::int32_t b : target.blocks) {
          if (b != kNoBlock) store_.ref(static_cast<BlockId>(b));
        }
        target.partial_source = source.partial_source;
        if (target.partial_source != kNoBlock) {
          store_.ref(static_cast<BlockId>(target.partial_source));
        }
        source.tail_is_own = false;
      }
      target.live_from = source.live_from;
      target.indexed = source.indexed;
      target.shadows = source.shadows;
      for (const auto& shadow : target.shadows) store_.ref(shadow.block);
      target.cursor = source.cursor;
      if (target.cursor != kNoNode) store_.add_cursor(g, target.cursor);
    }
  }

  /// The copies out of these blocks have been done or are given up.
  void drop_copy_sources(Sequence& s) {
    for (const BlockId b : s.copy_sources) {
      pending_.drop(b);
      store_.unref(b);
    }
    s.copy_sources.clear();
  }

 private:
  [[nodiscard]] bool can_take_over(const SequenceGroup& group) const noexcept {
    return group.state_source != kNoBlock && is_own(group.state_source);
  }

  /// Held by nobody else, copies out of it aside, and in no index: may be written.
  [[nodiscard]] bool is_own(std::int32_t block) const noexcept {
    const auto b = static_cast<BlockId>(block);
    if (store_.is_indexed(b)) return false;
    return store_.refs(b) == 1 || store_.refs(b) - pending_.count(b) == 1;
  }

  /// The next token goes into a block that somebody else relies on.
  [[nodiscard]] bool copies_tail(const Sequence& s, const GroupSpec& spec,
                                 const SequenceGroup& group) const noexcept {
    if (spec.offset_of(s.scheduled) == 0 || group.tail_is_own) return false;
    const std::size_t tail = spec.block_of(s.scheduled);
    return tail < group.blocks.size() && !is_own(group.blocks[tail]);
  }

  void grow_table(Sequence& s, const GroupSpec& spec, SequenceGroup& group, std::size_t more,
                  std::vector<BlockCopy>& copies) {
    const auto copy_into_new = [&](std::int32_t source) {
      const auto block = static_cast<std::int32_t>(store_.take());
      copy_out_of(s, source, block, copies);
      return block;
    };
    if (group.partial_source != kNoBlock) {
      group.blocks.push_back(copy_into_new(group.partial_source));
      group.partial_source = kNoBlock;
    } else if (copies_tail(s, spec, group)) {
      auto& tail = group.blocks[spec.block_of(s.scheduled)];
      tail = copy_into_new(tail);
      ++s.table_version;
    }
    group.tail_is_own = true;
    const std::size_t total = spec.blocks_for(s.scheduled + more);
    while (group.blocks.size() < total) {
      group.blocks.push_back(static_cast<std::int32_t>(store_.take()));
    }
  }

  void grow_state(Sequence& s, SequenceGroup& group, std::vector<BlockCopy>& copies) {
    if (group.state_slot != kNoBlock) return;
    if (can_take_over(group)) {
      std::swap(group.state_slot, group.state_source);
      return;
    }
    group.state_slot = static_cast<std::int32_t>(store_.take());
    if (group.state_source == kNoBlock) return;
    copy_out_of(s, group.state_source, group.state_slot, copies);
    group.state_source = kNoBlock;
  }

  /// The hold of `s` on `source` becomes that of a copy out of it.
  void copy_out_of(Sequence& s, std::int32_t source, std::int32_t block,
                   std::vector<BlockCopy>& copies) {
    copies.push_back({source, block});
    s.copy_sources.push_back(static_cast<BlockId>(source));
    pending_.add(static_cast<BlockId>(source));
  }
  void leave_window(Sequence& s, std::size_t g) {
    const auto& spec = store_.specs()[g];
    auto& group = s.groups[g];
    bool changed = false;
    for_each_leaving(spec, group, s.committed, [&](std::int32_t& block) {
      store_.unref(static_cast<BlockId>(block), s.ttl);
      block = kNoBlock;
      changed = true;
    });
    group.live_from =
        std::max(group.live_from,
                 std::min(spec.block_of(spec.first_visible(s.committed)), group.blocks.size()));
    if (changed) ++s.table_version;
  }

  /// Cuts one group back to `length`.
  void cut(Sequence& s, std::size_t g, std::size_t length) {
    auto& group = s.groups[g];
    const auto& spec = store_.specs()[g];
    const std::size_t full = spec.block_of(length);
    if (spec.kind == GroupKind::ssm) {
      const std::int32_t source = full == 0 ? kNoBlock : rollback_.block_on_path(s, g, full - 1);
      if (source != kNoBlock) {
        store_.hit(g, rollback_.node_on_path(s, g, full - 1), static_cast<BlockId>(source),
                   s.priority);
      }
      for (const std::int32_t b : {group.state_slot, group.state_source}) {
        if (b != kNoBlock) store_.unref(static_cast<BlockId>(b));
      }
      group.state_slot = kNoBlock;
      group.state_source = source;
    } else {
      if (group.partial_source != kNoBlock && length <= group.blocks.size() * spec.block_size) {
        store_.unref(static_cast<BlockId>(group.partial_source));
        group.partial_source = kNoBlock;
      }
      drop_table_from(group, spec.blocks_for(length), full, s.ttl);
      if (spec.kind == GroupKind::sliding_window) reenter_window(s, g, length);
      group.tail_is_own = false;
    }
    index_.shorten(s, g, full);
  }

  void reenter_window(Sequence& s, std::size_t g, std::size_t length) {
    auto& group = s.groups[g];
    const auto& spec = store_.specs()[g];
    const std::size_t from = spec.block_of(spec.first_visible(length));
    if (from >= group.live_from) return;
    for (std::size_t i = std::max(from, spec.sink_blocks()); i < group.blocks.size(); ++i) {
      if (group.blocks[i] != kNoBlock) continue;
      const NodeId node = rollback_.node_on_path(s, g, i);
      group.blocks[i] = store_.tree(g)[node].block;
      store_.hit(g, node, static_cast<BlockId>(group.blocks[i]), s.priority);
    }
    group.live_from = from;
  }

  /// Gives back table entries from `first` on and shadows from depth `first_shadow` on, deepest
  /// first.
  void drop_table_from(SequenceGroup& group, std::size_t first, std::size_t first_shadow,
                       std::uint32_t ttl) {
    if (first == 0 && group.shadows.empty()) {
      store_.unref_backwards(group.blocks, ttl);
      group.blocks.clear();
      group.live_from = 0;
      return;
    }
    for (std::size_t i = std::max(group.blocks.size(), group.indexed); i-- > 0;) {
      if (!group.shadows.empty() && group.shadows.back().depth == i && i >= first_shadow) {
        store_.unref(group.shadows.back().block, ttl);
        group.shadows.pop_back();
      }
      if (i < first || i >= group.blocks.size()) {
        if (i < first && i < first_shadow) break;
        continue;
      }
      if (group.blocks[i] != kNoBlock) store_.unref(static_cast<BlockId>(group.blocks[i]), ttl);
    }
    if (group.blocks.size() > first) group.blocks.resize(first);
    group.live_from = std::min(group.live_from, first);
  }

  BlockStore<Hash>& store_;
  Rollback<Hash> rollback_;
  SequenceIndex<Hash> index_;
  PendingCopies pending_;
  std::vector<BlockId> planned_;  // sources of copies that a demand has counted
};

}  // namespace pagedkv::inline v0_1::detail
