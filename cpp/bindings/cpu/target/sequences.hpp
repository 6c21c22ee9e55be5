#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "operands.hpp"
#include "pagedkv/core/errors.hpp"
#include "pagedkv/ops/attention_call.hpp"

namespace pagedkv::python::target {

/// The sequences of a call, in memory that no other thread changes while they are read.
class Sequences {
 public:
  Sequences(const Site& where, const AnyObject& block_tables, const AnyObject& seq_lens)
      : where_(where),
        lens_(Integers(where, "seq_lens", seq_lens, 1, "(num_seqs,)").values<std::int32_t>()),
        tables_(where, "block_tables", block_tables, 2, "(num_seqs, max_blocks)") {
    if (tables_.size() != num_seqs()) {
      pagedkv::detail::throw_shape(where, "block_tables of " + std::to_string(tables_.size()) +
                                              " rows; expected " + std::to_string(num_seqs()));
    }
  }

  /// @param query_start_loc  `[num_seqs + 1]`, or None.
  void start_at(const AnyObject& query_start_loc) {
    if (query_start_loc.is_none()) return;
    const Integers starts(where_, "query_start_loc", query_start_loc, 1, "(num_seqs + 1,)");
    if (starts.size() != num_seqs() + 1) {
      pagedkv::detail::throw_shape(where_, "query_start_loc of " + std::to_string(starts.size()) +
                                               " entries; expected " +
                                               std::to_string(num_seqs() + 1));
    }
    starts_ = starts.values<std::int32_t>();
  }

  [[nodiscard]] std::int64_t num_seqs() const noexcept {
    return static_cast<std::int64_t>(lens_.size());
  }
  /// Tokens of all sequences; lengths below 0, which the call will refuse, count nothing.
  [[nodiscard]] std::int64_t num_tokens() const noexcept {
    std::int64_t sum = 0;
    for (const std::int32_t length : lens_) sum += std::max(length, 0);
    return sum;
  }

  /// Columns that a tree mask must have: one for each new token of a sequence.
  [[nodiscard]] std::int64_t least_mask_width(const AttentionCall& call) const noexcept {
    std::int64_t most = 0;
    for (std::int64_t seq = 0; seq < call.num_seqs; ++seq) {
      most = std::max(most, call.query_len(seq));
    }
    return most;
  }

  /// Sets the tables and lengths of a call, whose caches are set. Only as much of each table as its
  /// sequence uses is copied.
  template <class Call>
  void bind(Call& call) {
    const std::int64_t size = std::max<std::int64_t>(call.k_cache.block_size, 1);
    const std::int64_t width = tables_.size(1);
    const auto used = [&](std::int32_t length) {
      return std::min(width, (std::max<std::int64_t>(length, 0) + size - 1) / size);
    };
    std::int64_t most = 0;
    for (const std::int32_t length : lens_) most = std::max(most, used(length));
    copied_.resize(lens_.size() * static_cast<std::size_t>(most));
    for (std::size_t seq = 0; seq < lens_.size(); ++seq) {
      tables_.copy(static_cast<std::int64_t>(seq), used(lens_[seq]),
                   copied_.data() + seq * static_cast<std::size_t>(most));
    }
    call.block_tables = copied_.data();
    call.block_table_stride = most;
    call.max_blocks = width;
    call.seq_lens = lens_.data();
    if constexpr (requires { call.query_start_loc; }) {
      call.query_start_loc = starts_.empty() ? nullptr : starts_.data();
    }
    call.num_seqs = num_seqs();
  }

 private:
  Site where_;
  std::vector<std::int32_t> lens_, starts_, copied_;
  Integers tables_;
};

}  // namespace pagedkv::python::target
