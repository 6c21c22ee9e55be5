#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "pagedkv/core/manager/batch.hpp"
#include "pagedkv/core/manager/groups.hpp"
#include "pagedkv/core/manager/sequence.hpp"

namespace pagedkv::inline v0_1::detail {

/// Fills a batch with sequences whose blocks are there: row i is sequence i, with `counts[i]` new
/// tokens that end at its scheduled length. Rows that hold the same sequence as the last time get
/// what is new alone.
class BatchWriter {
 public:
  BatchWriter(Batch& batch, const std::vector<GroupSpec>& specs) : batch_(batch), specs_(specs) {}

  void write(std::span<Sequence* const> sequences, std::span<const std::size_t> counts,
             std::size_t pad_to) {
    rows_before_ = batch_.num_seqs;
    batch_.num_seqs = std::max(sequences.size(), pad_to);
    batch_.max_query_len = batch_.max_seq_len = 0;
    batch_.query_start_loc[0] = 0;
    for (std::size_t g = 0; g < specs_.size(); ++g) batch_[g].kv_indptr[0] = 0;
    std::size_t at = 0;
    for (std::size_t i = 0; i < sequences.size(); ++i) {
      write_row(i, *sequences[i], counts[i], at);
      at += counts[i];
    }
    batch_.num_new_tokens = at;
    for (std::size_t i = sequences.size(); i < batch_.num_seqs; ++i) pad_row(i);
    const std::size_t padded = std::max(at, std::min(batch_.num_seqs, batch_.max_tokens()));
    batch_.num_token_rows = pad_to > sequences.size() ? padded : at;
    for (std::size_t t = at; t < padded; ++t) {
      batch_.positions[t] = 0;
      for (std::size_t g = 0; g < specs_.size(); ++g) batch_[g].slot_mapping[t] = -1;
    }
  }

 private:
  static std::int32_t i32(std::size_t value) noexcept { return static_cast<std::int32_t>(value); }

  void write_row(std::size_t i, const Sequence& s, std::size_t count, std::size_t at) {
    const std::size_t end = count == 0 ? shown(s) : s.scheduled, first = end - count;
    for (std::size_t t = 0; t < count; ++t) batch_.positions[at + t] = i32(first + t);
    batch_.seq_lens[i] = i32(end);
    batch_.query_start_loc[i + 1] = i32(at + count);
    batch_.max_query_len = std::max(batch_.max_query_len, count);
    batch_.max_seq_len = std::max(batch_.max_seq_len, end);
    for (std::size_t g = 0; g < specs_.size(); ++g) {
      const auto& group = s.groups[g];
      if (specs_[g].kind == GroupKind::ssm) {
        batch_[g].state_slots[i] = group.state_slot;
        continue;
      }
      write_slots(specs_[g], group, first, end, batch_[g].slot_mapping.data() + at);
      write_table(g, i, s, group, end);
    }
  }

  /// Tokens of a row without new ones. Those of a partial hit that is still to be copied are in no
  /// table; with the first new token they come.
  [[nodiscard]] std::size_t shown(const Sequence& s) const noexcept {
    std::size_t tokens = s.scheduled;
    for (std::size_t g = 0; g < specs_.size(); ++g) {
      if (s.groups[g].partial_source == kNoBlock) continue;
      tokens = std::min(tokens, s.groups[g].blocks.size() * specs_[g].block_size);
    }
    return tokens;
  }

  static void write_slots(const GroupSpec& spec, const SequenceGroup& group, std::size_t first,
                          std::size_t end, std::int64_t* slots) {
    while (first < end) {
      const std::size_t block = spec.block_of(first);
      const std::size_t stop = std::min(end, (block + 1) * spec.block_size);
      std::int64_t slot = spec.slot(group.blocks[block], first);
      for (; first < stop; ++first) *slots++ = slot++;
    }
  }

  void write_table(std::size_t g, std::size_t i, const Sequence& s, const SequenceGroup& group,
                   std::size_t end) {
    GroupBatch& out = batch_[g];
    Batch::Row& row = batch_.row(g, i);
    const auto& spec = specs_[g];
    const auto begin = static_cast<std::size_t>(out.kv_indptr[i]);
    const std::size_t entries = spec.blocks_for(end);
    const bool same = row.incarnation == s.incarnation && row.table_version == s.table_version;
    // Rows that were not filled the last time may have had their live blocks overwritten then.
    if (!same || row.entries != entries || row.live_begin != begin || i >= rows_before_) {
      write_entries(out, i, group, row, same ? std::min(row.entries, entries) : 0, entries);
      row = {s.incarnation, s.table_version, entries, begin,
             write_live(out, spec, group, begin, entries)};
      const std::size_t sinks = std::min(spec.sink_blocks(), entries);
      const std::size_t live_from = std::clamp(group.live_from, sinks, entries);
      out.kv_start[i] = i32(live_from == sinks ? 0 : live_from * spec.block_size);
    }
    out.kv_indptr[i + 1] = i32(begin + row.live);
    out.kv_last_page_len[i] = entries == 0 ? 0 : i32(end - (entries - 1) * spec.block_size);
  }

  /// Table entries from `from` on, and padding where the row was longer.
  void write_entries(GroupBatch& out, std::size_t i, const SequenceGroup& group,
                     const Batch::Row& row, std::size_t from, std::size_t entries) const {
    std::int32_t* table = out.block_tables.data() + i * batch_.max_blocks_per_seq();
    for (std::size_t e = from; e < entries; ++e) {
      table[e] = group.blocks[e] == kNoBlock ? batch_.padding() : group.blocks[e];
    }
    if (row.entries > entries) {
      std::fill_n(table + entries, row.entries - entries, batch_.padding());
    }
  }

  /// The live blocks to `kv_indices` from `begin` on; returns how many there are.
  static std::size_t write_live(GroupBatch& out, const GroupSpec& spec, const SequenceGroup& group,
                                std::size_t begin, std::size_t entries) {
    const std::size_t sinks = std::min(spec.sink_blocks(), entries);
    const std::size_t live_from = std::clamp(group.live_from, sinks, entries);
    std::int32_t* live = std::copy_n(group.blocks.data(), sinks, out.kv_indices.data() + begin);
    std::copy(group.blocks.data() + live_from, group.blocks.data() + entries, live);
    return sinks + entries - live_from;
  }

  void pad_row(std::size_t i) {
    batch_.seq_lens[i] = 0;
    batch_.query_start_loc[i + 1] = batch_.query_start_loc[i];
    for (std::size_t g = 0; g < specs_.size(); ++g) {
      GroupBatch& out = batch_[g];
      Batch::Row& row = batch_.row(g, i);
      std::fill_n(out.block_tables.data() + i * batch_.max_blocks_per_seq(), row.entries,
                  batch_.padding());
      row = {};
      out.kv_indptr[i + 1] = out.kv_indptr[i];
      out.kv_last_page_len[i] = out.kv_start[i] = 0;
      out.state_slots[i] = batch_.padding();
    }
  }

  Batch& batch_;
  const std::vector<GroupSpec>& specs_;
  std::size_t rows_before_ = 0;
};

}  // namespace pagedkv::inline v0_1::detail
