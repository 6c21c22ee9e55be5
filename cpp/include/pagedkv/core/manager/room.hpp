#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <span>

#include "pagedkv/core/manager/block_store.hpp"
#include "pagedkv/core/manager/call_checks.hpp"
#include "pagedkv/core/manager/commit_forecast.hpp"
#include "pagedkv/core/manager/options.hpp"
#include "pagedkv/core/manager/sequence.hpp"
#include "pagedkv/core/manager/sequence_blocks.hpp"

namespace pagedkv::inline v0_1::detail {

/// Whether there are blocks for what a call asks for; changes nothing.
template <class Hash>
class Room {
  using Demand = typename SequenceBlocks<Hash>::Demand;

 public:
  Room(BlockStore<Hash>& store, SequenceBlocks<Hash>& blocks, const ManagerOptions& options)
      : store_(store),
        blocks_(blocks),
        forecast_(store, blocks.pending_copies(), options.prefix_caching),
        watermark_(static_cast<std::size_t>(
            std::ceil(options.watermark * static_cast<double>(store.capacity())))) {}

  /// How many of these sequences, from the front, can be given their tokens.
  [[nodiscard]] std::size_t fit(std::span<Sequence* const> sequences,
                                std::span<const std::int32_t> counts) {
    std::size_t needed = 0, reserve = 0;
    Demand demand(blocks_);
    for (std::size_t i = 0; i < sequences.size(); ++i) {
      const Sequence& s = *sequences[i];
      const std::size_t blocks = demand.next(s, static_cast<std::size_t>(counts[i]));
      needed += blocks;
      if (blocks != 0) reserve = std::max(reserve, reserve_for(s.committed));
      if (needed + reserve > store_.available()) return i;
    }
    return sequences.size();
  }

  /// What a batch must have room for.
  struct Sizes {
    std::size_t tokens = 0;       // new ones of all sequences
    std::size_t most_blocks = 0;  // of one table
  };
  /// Checks that each sequence can be given `counts[i]` tokens. With tokens to append, one is
  /// committed and appended first, and what that gives back and holds counts.
  /// @throws PoolExhaustedError; CapacityError for a sequence that would be too long.
  Sizes expect(const char* where, std::span<Sequence* const> sequences,
               std::span<const std::size_t> counts, std::size_t lookahead,
               std::span<const TokenId> appended) {
    Sizes sizes;
    std::size_t needed = 0, most_held = 0, reserve = 0;
    std::optional<Demand> demand(blocks_);
    for (std::size_t i = 0; i < sequences.size(); ++i) {
      const Sequence& s = *sequences[i];
      sizes.tokens += counts[i];
      if (s.quiet != 0 && !appended.empty()) {
        sizes.most_blocks = std::max(sizes.most_blocks, s.table_length);
        continue;
      }
      const std::size_t more = counts[i] + lookahead;
      if (more > kMaxTokens - s.scheduled) throw_too_long(where, s, more);
      const std::size_t blocks = demand->next(s, more);
      needed += blocks;
      if (!appended.empty()) most_held += forecast_.most_held_by_commit(s);
      if (blocks != 0) reserve = std::max(reserve, reserve_for(s.committed + !appended.empty()));
      sizes.most_blocks = std::max(sizes.most_blocks, blocks_.table_length(s, more));
    }
    demand.reset();
    std::size_t available = store_.available();
    if (needed + most_held + reserve > available && !appended.empty()) {
      const auto after = forecast_.after_commit(sequences, appended, [&] {
        std::size_t blocks = 0;
        Demand then(blocks_);
        for (const Sequence* s : sequences) blocks += then.next(*s, 1);
        return blocks;
      });
      needed = after.needed;
      (after.change < 0 ? needed : available) += static_cast<std::size_t>(std::abs(after.change));
    }
    if (needed + reserve > available) {
      throw_exhausted(where, needed, available - std::min(available, reserve));
    }
    return sizes;
  }

 private:
  /// Blocks that must stay free beside what a sequence of that committed length takes.
  [[nodiscard]] std::size_t reserve_for(std::size_t committed) const noexcept {
    return committed == 0 ? watermark_ : 0;
  }

  BlockStore<Hash>& store_;
  SequenceBlocks<Hash>& blocks_;
  CommitForecast<Hash> forecast_;
  std::size_t watermark_;
};

}  // namespace pagedkv::inline v0_1::detail
