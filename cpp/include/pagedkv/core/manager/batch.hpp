#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "pagedkv/core/block_table.hpp"
#include "pagedkv/core/errors.hpp"
#include "pagedkv/core/manager/call_guard.hpp"
#include "pagedkv/core/manager/sequence.hpp"
#include "pagedkv/detail/checked_math.hpp"
#include "pagedkv/detail/storage.hpp"

namespace pagedkv::inline v0_1 {

/// A block copy to do before the step writes: block `src` to block `dst`, all layers of the group.
struct BlockCopy {
  std::int32_t src;
  std::int32_t dst;
  friend bool operator==(const BlockCopy&, const BlockCopy&) = default;
};

/// Keys and values of slot `from` move to slot `to`.
struct SlotMove {
  std::int64_t from;
  std::int64_t to;
  friend bool operator==(const SlotMove&, const SlotMove&) = default;
};

/// One group's metadata of a batch, in arrays that kernels take as they are. Strides never change,
/// so that a captured graph may hold the addresses. int32 unless said.
struct GroupBatch {
  std::span<std::int32_t> block_tables;  ///< `[max_seqs, max_blocks_per_seq]`, padded
  std::span<std::int64_t> slot_mapping;  ///< `[max_tokens]`
  std::span<std::int32_t> kv_indptr;     ///< `[max_seqs + 1]`
  std::span<std::int32_t> kv_indices;    ///< `[max_seqs * max_blocks_per_seq]`, live blocks alone
  std::span<std::int32_t> kv_last_page_len;  ///< `[max_seqs]`
  std::span<std::int32_t> kv_start;          ///< `[max_seqs]` first token behind holes of the table
  std::span<std::int32_t> state_slots;       ///< `[max_seqs]` ssm: where the state is
  std::vector<BlockCopy> copies;             ///< to do before the step writes
};

/// The metadata of one step: arrays for every sequence, and for every group. The memory is the
/// batch's own or the caller's; a batch that is filled again only has written what changed.
class Batch : public std::enable_shared_from_this<Batch> {
 public:
  /// Bytes that `Batch` needs from its caller.
  [[nodiscard]] static std::size_t bytes_needed(std::size_t num_groups, std::size_t max_seqs,
                                                std::size_t max_tokens,
                                                std::size_t max_blocks_per_seq) {
    std::size_t bytes = 0;
    [[maybe_unused]] const Layout layout(num_groups, max_seqs, max_tokens, max_blocks_per_seq,
                                         [&](std::size_t n) {
                                           bytes += n;
                                           return static_cast<std::byte*>(nullptr);
                                         });
    return bytes;
  }

  /// @param buffer  zeroed memory of at least `bytes_needed`, 64-byte aligned; empty: its own.
  /// @throws ShapeError for a buffer that is too small or badly aligned; std::bad_alloc.
  Batch(std::size_t num_groups, std::size_t max_seqs, std::size_t max_tokens,
        std::size_t max_blocks_per_seq, std::int32_t padding, std::span<std::byte> buffer = {})
      : max_seqs_(max_seqs),
        max_tokens_(max_tokens),
        max_blocks_(max_blocks_per_seq),
        padding_(padding),
        groups_(num_groups),
        rows_(num_groups * max_seqs) {
    const std::size_t needed = bytes_needed(num_groups, max_seqs, max_tokens, max_blocks_per_seq);
    if (buffer.empty()) {
      own_ = detail::Storage(needed);
      buffer = {own_.data(), own_.size()};
    }
    if (buffer.size() < needed ||
        reinterpret_cast<std::uintptr_t>(buffer.data()) % detail::kCacheLine != 0) {
      detail::throw_shape("Batch", "a buffer of " + std::to_string(buffer.size()) +
                                       " bytes; expected " + std::to_string(needed) +
                                       ", 64-byte aligned");
    }
    std::byte* at = buffer.data();
    Layout layout(num_groups, max_seqs, max_tokens, max_blocks_per_seq, [&](std::size_t n) {
      std::byte* here = at;
      at += n;
      return here;
    });
    seq_lens = layout.seq_lens;
    query_start_loc = layout.query_start_loc;
    positions = layout.positions;
    for (std::size_t g = 0; g < num_groups; ++g) groups_[g] = std::move(layout.groups[g]);
    for (auto& group : groups_) std::ranges::fill(group.block_tables, padding_);
  }

  [[nodiscard]] GroupBatch& operator[](std::size_t group) { return groups_[group]; }
  [[nodiscard]] const GroupBatch& operator[](std::size_t group) const { return groups_[group]; }
  [[nodiscard]] std::size_t num_groups() const noexcept { return groups_.size(); }
  [[nodiscard]] std::size_t max_seqs() const noexcept { return max_seqs_; }
  [[nodiscard]] std::size_t max_tokens() const noexcept { return max_tokens_; }
  [[nodiscard]] std::size_t max_blocks_per_seq() const noexcept { return max_blocks_; }
  [[nodiscard]] std::int32_t padding() const noexcept { return padding_; }

  /// @throws CapacityError when something is larger than the batch, or it is not of so many groups.
  void expect_room(const char* where, std::size_t num_groups, std::size_t num_seqs_to_fill,
                   std::size_t num_tokens, std::size_t num_blocks) const {
    if (num_groups == groups_.size() && num_seqs_to_fill <= max_seqs_ &&
        num_tokens <= max_tokens_ && num_blocks <= max_blocks_) {
      return;
    }
    detail::throw_capacity(
        where, std::to_string(num_seqs_to_fill) + " sequences, " + std::to_string(num_tokens) +
                   " new tokens, " + std::to_string(num_blocks) + " blocks a sequence, " +
                   std::to_string(num_groups) + " groups; expected at most " +
                   std::to_string(max_seqs_) + ", " + std::to_string(max_tokens_) + ", " +
                   std::to_string(max_blocks_) + ", " + std::to_string(groups_.size()) +
                   ", the batch's own");
  }

  std::span<std::int32_t> seq_lens;         // [max_seqs] tokens held, the new ones counted
  std::span<std::int32_t> query_start_loc;  // [max_seqs + 1] prefix sums of new tokens
  std::span<std::int32_t> positions;        // [max_tokens] position of each new token
  std::size_t num_seqs = 0;                 // rows filled, padding rows counted
  std::size_t num_new_tokens = 0;
  std::size_t num_token_rows = 0;  // of positions and slots: at least num_seqs if rows are padding
  std::size_t max_query_len = 0;
  std::size_t max_seq_len = 0;

  /// What row `i` of group `g` holds from the last time: only what differs is written.
  struct Row {
    std::uint64_t incarnation = 0;  // 0: nothing but padding
    std::uint64_t table_version = 0;
    std::size_t entries = 0;     // of the table, padding not counted
    std::size_t live_begin = 0;  // where its live blocks stand in kv_indices
    std::size_t live = 0;        // how many there are
  };
  [[nodiscard]] Row& row(std::size_t g, std::size_t i) noexcept { return rows_[g * max_seqs_ + i]; }

  /// Lets one caller in, to fill it or to look at it, while the result lives.
  /// @throws Error while another one is inside.
  [[nodiscard]] detail::CallGuard::Hold hold(const char* where) { return exclusive_.hold(where); }
  /// To be called before it is filled: by another manager than the last time, rows hold nothing
  /// that can be known.
  void written_by(std::uint64_t manager) noexcept {
    if (filled_by_ == manager) return;
    for (Row& row : rows_) row.incarnation = 0;
    filled_by_ = manager;
  }

 private:
  struct Layout {
    template <class Take>
    Layout(std::size_t num_groups, std::size_t max_seqs, std::size_t max_tokens,
           std::size_t max_blocks, Take take) {
      const auto array = [&]<class T>(std::span<T>& out, std::size_t n) {
        constexpr const char* where = "Batch";
        const std::size_t bytes = detail::round_up(
            where, detail::checked_product(where, {n, sizeof(T)}), detail::kCacheLine);
        out = {reinterpret_cast<T*>(take(bytes)), n};
      };
      const std::size_t entries = detail::checked_product("Batch", {max_seqs, max_blocks});
      array(seq_lens, max_seqs);
      array(query_start_loc, max_seqs + 1);
      array(positions, max_tokens);
      groups.resize(num_groups);
      for (auto& g : groups) {
        array(g.block_tables, entries);
        array(g.slot_mapping, max_tokens);
        array(g.kv_indptr, max_seqs + 1);
        array(g.kv_indices, entries);
        array(g.kv_last_page_len, max_seqs);
        array(g.kv_start, max_seqs);
        array(g.state_slots, max_seqs);
      }
    }
    std::span<std::int32_t> seq_lens, query_start_loc, positions;
    std::vector<GroupBatch> groups;
  };

  std::size_t max_seqs_;
  std::size_t max_tokens_;
  std::size_t max_blocks_;
  std::int32_t padding_;
  detail::Storage own_;
  std::vector<GroupBatch> groups_;
  std::vector<Row> rows_;  // [num_groups, max_seqs]
  std::uint64_t filled_by_ = 0;
  detail::CallGuard exclusive_;
};

}  // namespace pagedkv::inline v0_1
