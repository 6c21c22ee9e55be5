#pragma once

// How a call of attention is cut into pieces. Plain data: the same for each instruction set, made
// once a call, read by every thread.

#include <cstddef>
#include <cstdint>

#include "pagedkv/ops/attention_call.hpp"

namespace pagedkv::inline v0_1::cpu {

/// Bytes of the partial results of so many rows, a multiple of 64: for each row its sums of values,
/// what they are relative to, and the sum of its weights.
[[nodiscard]] inline std::size_t partial_bytes(const AttentionCall& call,
                                               std::int64_t num_rows) noexcept {
  const std::size_t element = call.k_cache.dtype == DType::float64 ? 8 : 4;
  const auto values = static_cast<std::size_t>(num_rows * (call.v_cache.head_dim + 2));
  return (values * element + 63) / 64 * 64;
}

/// Some of the queries of one sequence, for each head of keys and values, and what they see. A row
/// is a query of one head: row r is query token r / group_size, head r % group_size of the group.
struct AttentionSpan {
  std::int64_t seq = 0;
  std::int64_t first_row = 0;
  std::int64_t num_rows = 0;
  /// Visible to some of them: tokens [0, sinks) and [begin, end).
  std::int64_t sinks = 0;
  std::int64_t begin = 0;
  std::int64_t end = 0;
  /// Its pieces are the tokens of [i * piece, (i + 1) * piece) for i in
  /// [first_piece, first_piece + num_pieces), the sinks going with the first.
  std::int64_t piece = 0;
  std::int64_t first_piece = 0;
  std::int64_t num_pieces = 0;
  std::int64_t first_item = 0;  ///< items before this span
  std::int64_t partials = 0;    ///< bytes of partial results before this span's
};

/// One piece of one span for one head of keys and values: what a thread does at a time.
struct AttentionItem {
  const AttentionSpan* span = nullptr;
  std::int64_t kv_head = 0;
  std::int64_t piece = 0;        ///< 0 to num_pieces - 1
  std::byte* partial = nullptr;  ///< where its part goes; null: to the result, it is all there is
};

}  // namespace pagedkv::inline v0_1::cpu
