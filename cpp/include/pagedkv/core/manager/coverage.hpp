#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "pagedkv/core/manager/block_store.hpp"
#include "pagedkv/core/manager/rollback.hpp"
#include "pagedkv/core/manager/sequence.hpp"

namespace pagedkv::inline v0_1::detail {

/// Which blocks serve the first tokens of a sequence, for who holds them by lease or pin.
template <class Hash>
class Coverage {
 public:
  explicit Coverage(const BlockStore<Hash>& store) : store_(store), rollback_(store) {}

  /// Whether every group with states has one of exactly that length: where everything scheduled is
  /// committed, and at checkpoints.
  [[nodiscard]] bool has_states(const Sequence& s, std::size_t num_tokens) const {
    for (std::size_t g = 0; g < s.groups.size() && num_tokens != 0; ++g) {
      if (is_ssm(g) && state_at(s, g, num_tokens) == kNoBlock) return false;
    }
    return true;
  }

  /// Blocks of the first `num_tokens` tokens, the tail before the head: table entries, the source
  /// of a partial hit that is to be copied, states of that length.
  [[nodiscard]] std::vector<BlockId> blocks(const Sequence& s, std::size_t num_tokens) const {
    std::vector<BlockId> blocks;
    for (std::size_t g = 0; g < s.groups.size() && num_tokens != 0; ++g) {
      if (is_ssm(g)) {
        add(blocks, state_at(s, g, num_tokens));
      } else {
        add_table(blocks, s, g, num_tokens);
      }
    }
    return blocks;
  }

  /// Blocks that let others find what `s` has committed: of a group with states the latest
  /// checkpoint.
  [[nodiscard]] std::vector<BlockId> findable(const Sequence& s) const {
    std::vector<BlockId> blocks;
    for (std::size_t g = 0; g < s.groups.size() && s.committed != 0; ++g) {
      if (is_ssm(g)) {
        add(blocks, checkpoint_at(s, g, rollback_.last_checkpoint(s, g, s.committed)));
      } else {
        add_table(blocks, s, g, s.committed);
      }
    }
    return blocks;
  }

 private:
  [[nodiscard]] bool is_ssm(std::size_t g) const noexcept {
    return store_.specs()[g].kind == GroupKind::ssm;
  }

  static void add(std::vector<BlockId>& blocks, std::int32_t block) {
    if (block != kNoBlock) blocks.push_back(static_cast<BlockId>(block));
  }

  void add_table(std::vector<BlockId>& blocks, const Sequence& s, std::size_t g,
                 std::size_t num_tokens) const {
    const auto& group = s.groups[g];
    const std::size_t covered = store_.specs()[g].blocks_for(num_tokens);
    if (covered > group.blocks.size()) add(blocks, group.partial_source);
    auto shadow = group.shadows.rbegin();
    for (std::size_t i = std::min(covered, group.blocks.size()); i-- > 0;) {
      // What is above them in the index stays too.
      while (shadow != group.shadows.rend() && shadow->depth > i) ++shadow;
      if (shadow != group.shadows.rend() && shadow->depth == i) blocks.push_back(shadow->block);
      add(blocks, group.blocks[i]);
    }
  }

  [[nodiscard]] std::int32_t state_at(const Sequence& s, std::size_t g,
                                      std::size_t num_tokens) const {
    const auto& group = s.groups[g];
    if (num_tokens == s.committed && s.committed == s.scheduled) {
      return group.state_slot != kNoBlock ? group.state_slot : group.state_source;
    }
    return checkpoint_at(s, g, num_tokens);
  }
  [[nodiscard]] std::int32_t checkpoint_at(const Sequence& s, std::size_t g,
                                           std::size_t num_tokens) const {
    const auto& spec = store_.specs()[g];
    if (num_tokens == 0 || spec.offset_of(num_tokens) != 0) return kNoBlock;
    return rollback_.block_on_path(s, g, spec.block_of(num_tokens) - 1);
  }

  const BlockStore<Hash>& store_;
  Rollback<Hash> rollback_;
};

}  // namespace pagedkv::inline v0_1::detail
