#pragma once

// What the host tells a kernel in one block of plain data: the same text for Metal and for C++.
// Strides are in bytes unless told; addresses are buffers of their own.

#if !defined(__METAL_VERSION__)
#include <cstdint>
#endif

namespace pagedkv {
namespace metal {
namespace kernels {

#if !defined(__METAL_VERSION__)
using std::int64_t;
using std::uint32_t;
#endif

/// Element types, as the function constants name them.
enum ElementType : uint32_t { kFloat = 0, kHalf = 1, kBfloat = 2 };

/// Bits of the error word: what a kernel left out because it was out of range.
enum ErrorBits : uint32_t {
  kBadIndex = 1,  ///< a slot, a block id or a position
  kBadShape = 2,  ///< a length, or where queries begin
};

enum : uint32_t {
  kSimdWidth = 32,
  /// Pieces of a sequence begin at multiples of this, which tiles of tokens divide.
  kPieceTokens = 256,
  /// Sequences of so many new tokens at most are cut into pieces.
  kSplitQueries = 8,
  /// Sums of values that a simdgroup holds, 8 x 8 each.
  kMaxSums = 16,
  /// Parts of a query that a simdgroup holds, 8 x 8 each: MLA's 512 + 64 channels.
  kMaxQueryTiles = 72,
  /// Rows of a tile that one simdgroup turns into weights.
  kMaxRowsOfSimdgroup = 8,
};

/// Dense rows `[num_tokens, num_heads, head_dim]`.
struct Rows {
  int64_t token_stride;
  int64_t head_stride;
};

/// A cache `[num_blocks, num_heads, block_size, head_dim]` in either layout.
struct Cache {
  int64_t block_stride;
  int64_t head_stride;
  int64_t token_stride;
};

/// write_rows and gather_rows.
struct MoveParams {
  Rows rows;
  Cache cache;
  int64_t num_slots;
  int64_t block_table_stride;  ///< gather: in elements
  uint32_t num_tokens;
  uint32_t num_heads;
  uint32_t head_dim;
  uint32_t num_blocks;
  uint32_t num_seqs;  ///< gather
};

/// gather_starts.
struct StartsParams {
  int64_t num_rows;
  uint32_t num_seqs;
  uint32_t max_blocks;
};

/// rope_rows.
struct RopeParams {
  Rows rows;
  Rows to_rows;    ///< of queries
  Cache to_cache;  ///< of keys
  int64_t num_slots;
  int64_t max_position;
  int64_t cos_sin_stride;  ///< in elements
  uint32_t num_tokens;
  uint32_t num_heads;
  uint32_t head_dim;
  uint32_t rotary_dim;
  uint32_t positions_are_int32;
  uint32_t interleaved;
  uint32_t norm;         ///< whether there are weights
  uint32_t weight_type;  ///< ElementType
  float norm_eps;
};

/// copy_indexed.
struct CopyParams {
  Cache from;
  Cache to;
  int64_t from_end;  ///< blocks, or slots, of the source
  int64_t to_end;
  int64_t num_pairs;
  uint32_t pairs_of_thread;  ///< walked in order
  uint32_t num_heads;
  uint32_t slots;      ///< of an index: those of a block, or 1
  uint32_t row_units;  ///< units of kUnitBytes of a row
};

/// merge_states.
struct MergeParams {
  Rows a;
  Rows b;
  Rows to;
  Rows lse_a;  ///< strides of the LSE are in elements
  Rows lse_b;
  Rows lse;
  uint32_t num_tokens;
  uint32_t num_heads;
  uint32_t head_dim;
  uint32_t wants_lse;
};

/// attend and merge_pieces.
struct AttentionParams {
  Rows q;
  Rows q_rope;  ///< MLA
  Rows out;
  Cache k;
  Cache v;
  Cache k_rope;                ///< MLA
  int64_t block_table_stride;  ///< in elements
  int64_t tree_mask_stride;    ///< in elements
  uint32_t num_seqs;
  uint32_t num_tokens;
  uint32_t num_blocks;
  uint32_t max_blocks;
  uint32_t num_q_heads;
  uint32_t max_pieces;     ///< of one sequence
  uint32_t split_queries;  ///< rows of partial results of one sequence; 0: none is cut
  uint32_t window;         ///< 0: none
  uint32_t sink_tokens;
  uint32_t causal;
  uint32_t has_starts;  ///< query_start_loc; without it each sequence has one query
  uint32_t has_sink_logits;
  uint32_t has_slopes;
  uint32_t has_tree_mask;
  uint32_t wants_lse;
  float scale;        ///< of products, that of a tensor of keys counted
  float value_scale;  ///< of a tensor of values
  float softcap;      ///< 0: none
};

}  // namespace kernels
}  // namespace metal
}  // namespace pagedkv
