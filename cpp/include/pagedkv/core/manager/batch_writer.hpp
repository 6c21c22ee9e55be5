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
    const std::size_t at = write_lengths(sequences, counts);
    for (std::size_t g = 0; g < specs_.size(); ++g) {
      if (specs_[g].kind == GroupKind::ssm) {
        for (std::size_t i = 0; i < sequences.size(); ++i) {
          batch_[g].state_slots[i] = sequences[i]->groups[g].state_slot;
        }
        batch_[g].kv_indptr[0] = 0;
      } else {
        write_group(g, sequences, counts);
      }
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

  /// What all groups have in common; returns how many new tokens there are.
  std::size_t write_lengths(std::span<Sequence* const> sequences,
                            std::span<const std::size_t> counts) {
    std::int32_t* const positions = batch_.positions.data();
    std::size_t at = 0, most_new = 0, most = 0;
    batch_.query_start_loc[0] = 0;
    for (std::size_t i = 0; i < sequences.size(); ++i) {
      const std::size_t count = counts[i];
      const std::size_t end = count == 0 ? shown(*sequences[i]) : sequences[i]->scheduled;
      for (std::size_t t = 0; t < count; ++t) positions[at + t] = i32(end - count + t);
      at += count;
      batch_.seq_lens[i] = i32(end);
      batch_.query_start_loc[i + 1] = i32(at);
      most_new = std::max(most_new, count);
      most = std::max(most, end);
    }
    batch_.max_query_len = most_new;
    batch_.max_seq_len = most;
    return at;
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

  /// Slots, tables and their CSR form of a group of attention.
  void write_group(std::size_t g, std::span<Sequence* const> sequences,
                   std::span<const std::size_t> counts) {
    GroupBatch& out = batch_[g];
    const GroupSpec spec = specs_[g];
    std::int64_t* slots = out.slot_mapping.data();
    std::size_t begin = 0;  // of the row in kv_indices
    out.kv_indptr[0] = 0;
    for (std::size_t i = 0; i < sequences.size(); ++i) {
      const Sequence& s = *sequences[i];
      const auto& group = s.groups[g];
      const auto end = static_cast<std::size_t>(batch_.seq_lens[i]);
      const std::size_t entries = spec.blocks_for(end);
      Batch::Row& row = batch_.row(g, i);
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
      begin += row.live;
      out.kv_indptr[i + 1] = i32(begin);
      const std::size_t before_last = (entries - 1) * spec.block_size;
      out.kv_last_page_len[i] = entries == 0 ? 0 : i32(end - before_last);
      if (counts[i] == 1) {
        *slots++ = group.blocks[entries - 1] * static_cast<std::int64_t>(spec.block_size) +
                   static_cast<std::int64_t>(end - 1 - before_last);
      } else {
        slots = write_slots(spec, group, end - counts[i], end, slots);
      }
    }
  }

  static std::int64_t* write_slots(const GroupSpec& spec, const SequenceGroup& group,
                                   std::size_t first, std::size_t end, std::int64_t* slots) {
    while (first < end) {
      const std::size_t block = spec.block_of(first);
      const std::size_t stop = std::min(end, (block + 1) * spec.block_size);
      std::int64_t slot = spec.slot(group.blocks[block], first);
      for (; first < stop; ++first) *slots++ = slot++;
    }
    return slots;
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
