#pragma once

// What one call of attention computes: plain data, the same for each device.

#include <cstddef>
#include <cstdint>

#include "pagedkv/detail/macros.hpp"
#include "pagedkv/ops/views.hpp"

namespace pagedkv::inline v0_1 {

/// Largest head_dim of queries, keys and values; MLA's keys may have a second part of as many.
inline constexpr std::int64_t kMaxHeadDim = 512;

/// The arguments of `paged_attention`, and of `mla_decode`, whose keys are in two parts.
struct AttentionCall {
  RowsView q;            ///< `[num_tokens, num_q_heads, head_dim]`
  RowsView out;          ///< `[num_tokens, num_q_heads, v_head_dim]`, dtype of q
  float* lse = nullptr;  ///< `[num_tokens, num_q_heads]`, natural logarithm; null: not wanted
  CacheView k_cache;     ///< `num_kv_heads` divides `num_q_heads`
  CacheView v_cache;
  ScaleView k_scale;
  ScaleView v_scale;
  RowsView q_rope;  ///< MLA: the second part of the queries, `head_dim` 0 where there is none
  CacheView k_rope_cache;  ///< MLA: the second part of the keys

  const std::int32_t* block_tables = nullptr;  ///< `[num_seqs, max_blocks]`
  std::int64_t block_table_stride = 0;         ///< in elements
  std::int64_t max_blocks = 0;
  const std::int32_t* seq_lens = nullptr;         ///< `[num_seqs]`, the new tokens counted
  const std::int32_t* query_start_loc = nullptr;  ///< `[num_seqs + 1]`; null: one token each
  std::int64_t num_seqs = 0;

  double scale = 1;  ///< of the products
  bool causal = true;
  std::int64_t window = 0;                  ///< tokens a query sees, itself counted; 0: all
  std::int64_t sink_tokens = 0;             ///< first tokens that a window does not hide
  const float* sink_logits = nullptr;       ///< `[num_q_heads]`: join the softmax with no value
  float softcap = 0;                        ///< cap * tanh(score / cap); 0: none
  const float* alibi_slopes = nullptr;      ///< `[num_q_heads]`: slope * (j - i) is added
  const std::uint8_t* tree_mask = nullptr;  ///< `[num_tokens, max_query_len]` among the new tokens
  std::int64_t tree_mask_stride = 0;        ///< in elements
  bool exact = false;                       ///< float products, not those of integers or bfloat16

  [[nodiscard]] std::int64_t first_query(std::int64_t seq) const noexcept {
    return query_start_loc == nullptr ? seq : query_start_loc[seq];
  }
  [[nodiscard]] std::int64_t query_len(std::int64_t seq) const noexcept {
    return query_start_loc == nullptr ? 1 : query_start_loc[seq + 1] - query_start_loc[seq];
  }
  /// Query heads that share a head of keys and values.
  [[nodiscard]] PAGEDKV_INLINE std::int64_t group_size() const noexcept {
    return q.num_heads / k_cache.num_heads;
  }
};

}  // namespace pagedkv::inline v0_1
