#pragma once

// What the attention kernels are told: plain numbers and device addresses, passed by value.

#include <cstddef>
#include <cstdint>

#include "cuda/error_word.hpp"
#include "pagedkv/core/dtype.hpp"

namespace pagedkv::cuda::attention {

/// A sequence of as many rows has few: one tensor-core tile.
inline constexpr int kFewRows = 16;

/// `[num_tokens, num_heads, ...]`, strides in bytes.
struct Rows {
  std::byte* data = nullptr;
  std::int64_t token_stride = 0;
  std::int64_t head_stride = 0;
};

/// `[num_blocks, num_heads, block_size, ...]` in either layout, strides in bytes.
struct Cache {
  const std::byte* data = nullptr;
  std::int64_t block_stride = 0;
  std::int64_t head_stride = 0;
  std::int64_t token_stride = 0;
};

/// Factors by block, head and slot, strides in elements; null where one number serves all, which is
/// then part of `Params::score_scale` or `Params::value_scale`.
struct Factors {
  const float* data = nullptr;
  std::int64_t block_stride = 0;
  std::int64_t head_stride = 0;
  std::int64_t slot_stride = 0;
};

struct Params {
  Rows q;       ///< `[num_tokens, num_q_heads, head_dim]`
  Rows q_rope;  ///< MLA: the second part of the queries
  Rows out;     ///< `[num_tokens, num_q_heads, v_head_dim]`
  float* lse = nullptr;
  Cache k;
  Cache v;       ///< unused by MLA, whose values are the first part of the keys
  Cache k_rope;  ///< MLA: the second part of the keys
  Factors k_factors;
  Factors v_factors;
  DType q_dtype = DType::float32;
  DType cache_dtype = DType::float32;

  int head_dim = 0;  ///< multiples of 8
  int rope_dim = 0;
  int v_head_dim = 0;
  int num_kv_heads = 1;
  int group = 1;  ///< query heads a head of keys and values
  int block_size = 1;
  int block_shift = -1;  ///< log2 of block_size, -1 where it is no power of two
  int num_blocks = 0;
  /// Width of the copies from the caches: 16 or 8 bytes, where all rows are so aligned;
  /// otherwise 1.
  int copy_bytes = 1;
  bool aligned_rows = false;  ///< four elements of q, and of out, may be moved at a time

  const std::int32_t* block_tables = nullptr;  ///< `[num_seqs, max_blocks]`
  std::int64_t block_table_stride = 0;
  const std::int32_t* seq_lens = nullptr;
  const std::int32_t* query_start_loc = nullptr;  ///< null: one token each
  int num_seqs = 0;
  int num_tokens = 0;
  int max_length = 0;  ///< tokens that a row of the block table has blocks for

  /// Scores in units of log2: `acc * score_scale`, or `cap * tanh(acc * score_scale)`.
  float score_scale = 1;
  float cap = 0;          ///< 0: none
  float value_scale = 1;  ///< of the result
  bool causal = true;
  int window = 0;  ///< 0: all
  int sink_tokens = 0;
  const float* sink_logits = nullptr;
  const float* alibi_slopes = nullptr;
  const std::uint8_t* tree_mask = nullptr;
  std::int64_t tree_mask_stride = 0;

  // How the work is shared out: see schedule.cuh.
  int fewest_rows = 1;   ///< sequences with fewer rows (new tokens * group), or with more, are
  int most_rows = 0;     ///< not this launch's
  int least_share = 1;   ///< of a thread block, in rounds
  int piece_rounds = 0;  ///< batch invariant: least rounds of a piece; 0: pieces as the card wants
  int most_pieces = 1;   ///< batch invariant: of one unit
  float* partials = nullptr;     ///< slots of `slot_floats`
  std::int64_t slot_floats = 0;  ///< rows of a tile * v_head_dim, then 2 for each row
  unsigned* arrivals = nullptr;  ///< for each slot, 0 between launches
  ErrorWord* errors = nullptr;
};

}  // namespace pagedkv::cuda::attention
