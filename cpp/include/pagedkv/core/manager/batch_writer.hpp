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
    const std::size_t n = sequences.size();
    batch_.num_seqs = std::max(n, pad_to);
    write_lengths(sequences, counts);
    for (std::size_t g = 0; g < specs_.size(); ++g) {
      if (specs_[g].kind == GroupKind::ssm) {
        write_states(g, sequences);
        continue;
      }
      write_slots(g, sequences, counts);
      write_tables(g, sequences);
    }
  }

 private:
  static std::int32_t i32(std::size_t value) noexcept { return static_cast<std::int32_t>(value); }

  void write_lengths(std::span<Sequence* const> sequences, std::span<const std::size_t> counts) {
    std::size_t at = 0, longest_query = 0, longest = 0;
    std::int32_t* positions = batch_.positions.data();
    batch_.query_start_loc[0] = 0;
    for (std::size_t i = 0; i < sequences.size(); ++i) {
      const std::size_t end = sequences[i]->scheduled, count = counts[i];
      for (std::size_t p = end - count; p < end; ++p) positions[at++] = i32(p);
      batch_.seq_lens[i] = i32(end);
      batch_.query_start_loc[i + 1] = i32(at);
      longest_query = std::max(longest_query, count);
      longest = std::max(longest, end);
    }
    for (std::size_t i = sequences.size(); i < batch_.num_seqs; ++i) {
      batch_.seq_lens[i] = 0;
      batch_.query_start_loc[i + 1] = i32(at);
    }
    batch_.num_new_tokens = at;
    batch_.max_query_len = longest_query;
    batch_.max_seq_len = longest;
  }

  void write_slots(std::size_t g, std::span<Sequence* const> sequences,
                   std::span<const std::size_t> counts) {
    const std::size_t block_size = specs_[g].block_size;
    std::int64_t* slots = batch_[g].slot_mapping.data();
    for (std::size_t i = 0; i < sequences.size(); ++i) {
      const auto& blocks = sequences[i]->groups[g].blocks;
      const std::size_t end = sequences[i]->scheduled;
      for (std::size_t p = end - counts[i]; p < end;) {
        const std::size_t stop = std::min(end, (p / block_size + 1) * block_size);
        auto slot = std::int64_t{blocks[p / block_size]} * static_cast<std::int64_t>(block_size) +
                    static_cast<std::int64_t>(p % block_size);
        for (; p < stop; ++p) *slots++ = slot++;
      }
    }
    // Padding rows have no new tokens; what is behind the last one says so too.
    const auto used = static_cast<std::size_t>(slots - batch_[g].slot_mapping.data());
    const std::size_t pad = std::min(batch_.num_seqs, batch_.max_tokens());
    if (used < pad) std::fill(slots, batch_[g].slot_mapping.data() + pad, std::int64_t{-1});
  }

  void write_tables(std::size_t g, std::span<Sequence* const> sequences) {
    GroupBatch& out = batch_[g];
    const std::size_t width = batch_.max_blocks_per_seq();
    const auto& spec = specs_[g];
    std::size_t live = 0;
    for (std::size_t i = 0; i < batch_.num_seqs; ++i) {
      auto& row = batch_.row(g, i);
      std::int32_t* table = out.block_tables.data() + i * width;
      if (i >= sequences.size()) {
        std::fill_n(table, row.entries, batch_.padding());
        row = {};
        set_live(out, i, live, live);
        out.kv_last_page_len[i] = 0;
        out.kv_start[i] = 0;
        continue;
      }
      const Sequence& s = *sequences[i];
      const auto& group = s.groups[g];
      const std::size_t entries = std::min(ceil_div(s.scheduled, spec.block_size),
                                           group.blocks.size());
      const bool same = row.incarnation == s.incarnation && row.table_version == s.table_version;
      const bool changed = !same || row.entries != entries;
      if (changed) {
        const std::size_t from = same ? std::min<std::size_t>(row.entries, entries) : 0;
        copy_entries(table, group.blocks, from, entries);
        if (row.entries > entries) {
          std::fill_n(table + entries, row.entries - entries, batch_.padding());
        }
        row = {s.incarnation, s.table_version, static_cast<std::uint32_t>(entries), 0};
      }
      const std::size_t sinks = std::min(spec.sink_blocks(), entries);
      const std::size_t live_from = std::clamp(group.live_from, sinks, entries);
      const std::size_t count = sinks + entries - live_from;
      if (changed || row.live_begin != live) {
        row.live_begin = live;
        std::copy_n(group.blocks.data(), sinks, out.kv_indices.data() + live);
        std::copy(group.blocks.data() + live_from, group.blocks.data() + entries,
                  out.kv_indices.data() + live + sinks);
      }
      set_live(out, i, live, live + count);
      live += count;
      out.kv_last_page_len[i] =
          entries == 0 ? 0 : i32(s.scheduled - (entries - 1) * spec.block_size);
      out.kv_start[i] = i32(live_from == sinks ? 0 : live_from * spec.block_size);
    }
  }

  static void set_live(GroupBatch& out, std::size_t i, std::size_t begin, std::size_t end) {
    out.kv_indptr[i] = i32(begin);
    out.kv_indptr[i + 1] = i32(end);
  }

  void copy_entries(std::int32_t* table, const std::vector<std::int32_t>& blocks, std::size_t from,
                    std::size_t to) const {
    for (std::size_t i = from; i < to; ++i) {
      table[i] = blocks[i] == kNoBlock ? batch_.padding() : blocks[i];
    }
  }

  void write_states(std::size_t g, std::span<Sequence* const> sequences) {
    for (std::size_t i = 0; i < batch_.num_seqs; ++i) {
      batch_[g].state_slots[i] =
          i < sequences.size() ? sequences[i]->groups[g].state_slot : batch_.padding();
    }
  }

  Batch& batch_;
  const std::vector<GroupSpec>& specs_;
};

}  // namespace pagedkv::inline v0_1::detail
