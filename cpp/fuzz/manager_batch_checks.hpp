#pragma once

// What a batch must say of its sequences, worked out anew from their tables.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "manager_model.hpp"

namespace pagedkv_fuzz {

/// A row of a batch: a sequence whose lengths are those after the call, and its new tokens.
struct Row {
  const ModelSequence* sequence;
  std::size_t count;

  [[nodiscard]] std::size_t begin() const { return sequence->scheduled - count; }
};

/// Tokens that each row shows: a partial hit is in the table only once it is copied.
template <class Manager>
std::vector<std::size_t> shown_lengths(const Manager& manager, const std::vector<Row>& rows) {
  const auto& groups = manager.options().groups;
  std::vector<std::size_t> lengths;
  for (const Row& row : rows) {
    lengths.push_back(row.sequence->scheduled);
    for (std::size_t g = 0; g < groups.size(); ++g) {
      if (row.count != 0 || groups[g].kind == pagedkv::GroupKind::ssm) continue;
      const std::size_t in_table = manager.block_ids(row.sequence->id, g).size();
      lengths.back() = std::min(lengths.back(), in_table * groups[g].block_size);
    }
  }
  return lengths;
}

inline void check_lengths(const pagedkv::Batch& batch, const std::vector<Row>& rows,
                          const std::vector<std::size_t>& lengths, std::size_t pad_to) {
  PAGEDKV_FUZZ_CHECK(batch.num_seqs == std::max(rows.size(), pad_to));
  std::size_t at = 0, longest = 0, longest_query = 0;
  PAGEDKV_FUZZ_CHECK(batch.query_start_loc[0] == 0);
  for (std::size_t i = 0; i < batch.num_seqs; ++i) {
    const std::size_t length = i < rows.size() ? lengths[i] : 0;
    const std::size_t count = i < rows.size() ? rows[i].count : 0;
    for (std::size_t p = length - count; p < length; ++p) {
      PAGEDKV_FUZZ_CHECK(batch.positions[at++] == static_cast<std::int32_t>(p));
    }
    PAGEDKV_FUZZ_CHECK(batch.seq_lens[i] == static_cast<std::int32_t>(length));
    PAGEDKV_FUZZ_CHECK(batch.query_start_loc[i + 1] == static_cast<std::int32_t>(at));
    longest = std::max(longest, length);
    longest_query = std::max(longest_query, count);
  }
  PAGEDKV_FUZZ_CHECK(batch.num_new_tokens == at);
  PAGEDKV_FUZZ_CHECK(batch.num_token_rows ==
                     (pad_to > rows.size() ? std::max(at, batch.num_seqs) : at));
  PAGEDKV_FUZZ_CHECK(batch.max_seq_len == longest && batch.max_query_len == longest_query);
}

/// One row of an attention group: `blocks` is its table, with -1 in holes and maybe room behind.
inline void check_table(const pagedkv::Batch& batch, std::size_t g, std::size_t i,
                        std::size_t block_size, std::size_t length,
                        std::vector<std::int32_t> blocks) {
  const auto& part = batch[g];
  const std::size_t total = (length + block_size - 1) / block_size;
  blocks.resize(std::min(blocks.size(), total));
  const auto table =
      part.block_tables.subspan(i * batch.max_blocks_per_seq(), batch.max_blocks_per_seq());
  std::vector<std::int32_t> live;
  std::size_t behind_hole = 0;
  for (std::size_t b = 0; b < table.size(); ++b) {
    const std::int32_t block = b < blocks.size() ? blocks[b] : -1;
    PAGEDKV_FUZZ_CHECK(table[b] == (block == -1 ? batch.padding() : block));
    if (block != -1) live.push_back(block);
    if (b < blocks.size() && block == -1) behind_hole = b + 1;
  }
  const auto begin = static_cast<std::size_t>(part.kv_indptr[i]);
  const auto end = static_cast<std::size_t>(part.kv_indptr[i + 1]);
  PAGEDKV_FUZZ_CHECK(i != 0 || begin == 0);
  PAGEDKV_FUZZ_CHECK(end - begin == live.size());
  PAGEDKV_FUZZ_CHECK(std::ranges::equal(part.kv_indices.subspan(begin, end - begin), live));
  PAGEDKV_FUZZ_CHECK(part.kv_start[i] == static_cast<std::int32_t>(behind_hole * block_size));
  PAGEDKV_FUZZ_CHECK(blocks.size() == total);
  const std::size_t last = length == 0 ? 0 : length - (total - 1) * block_size;
  PAGEDKV_FUZZ_CHECK(part.kv_last_page_len[i] == static_cast<std::int32_t>(last));
}

/// Every array of the batch, but for what the slots hold.
template <class Manager>
void check_batch(const Manager& manager, const pagedkv::Batch& batch, const std::vector<Row>& rows,
                 std::size_t pad_to) {
  const auto lengths = shown_lengths(manager, rows);
  check_lengths(batch, rows, lengths, pad_to);
  const auto& groups = manager.options().groups;
  for (std::size_t g = 0; g < groups.size(); ++g) {
    if (groups[g].kind == pagedkv::GroupKind::ssm) continue;
    for (std::size_t i = 0; i < batch.num_seqs; ++i) {
      if (i >= rows.size()) {
        check_table(batch, g, i, groups[g].block_size, 0, {});
        continue;
      }
      check_table(batch, g, i, groups[g].block_size, lengths[i],
                  manager.block_ids(rows[i].sequence->id, g));
    }
    for (std::size_t t = batch.num_new_tokens; t < batch.num_seqs; ++t) {
      PAGEDKV_FUZZ_CHECK(batch[g].slot_mapping[t] == -1);
    }
  }
}

}  // namespace pagedkv_fuzz
