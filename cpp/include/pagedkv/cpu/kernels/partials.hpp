#pragma once

// The result of one row from its sums, and from the sums of several pieces of its tokens.

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "pagedkv/cpu/attention_span.hpp"
#include "pagedkv/cpu/kernels/rows.hpp"

namespace pagedkv::inline v0_1::cpu::PAGEDKV_ISA_NAMESPACE {

/// Partial results of the rows of one item: `[num_rows][width]` sums of values, `[num_rows]`
/// references, `[num_rows]` sums of weights.
template <class T>
struct Partial {
  T* values;
  T* reference;
  T* sum;

  Partial(std::byte* memory, std::int64_t num_rows, std::int64_t width) noexcept
      : values(reinterpret_cast<T*>(memory)),
        reference(values + num_rows * width),
        sum(reference + num_rows) {}
};

/// Writes row `row` of a span to the result.
/// @param values     `[v_head_dim]` sums of weighted values, in order; changed.
/// @param reference  what the weights are relative to; -inf where nothing was seen.
/// @param sum        of the weights.
template <class T>
inline void finish_row(const AttentionCall& call, const AttentionSpan& span, std::int64_t kv_head,
                       std::int64_t row, T* values, T reference, T sum) noexcept {
  constexpr T nothing = -std::numeric_limits<T>::infinity();
  const std::int64_t group = call.group_size();
  const std::int64_t token = call.first_query(span.seq) + (span.first_row + row) / group;
  const std::int64_t head = kv_head * group + (span.first_row + row) % group;
  const std::int64_t size = call.out.head_dim;
  T factor = sum > 0 || sum != sum ? 1 / sum : T(0);
  T lse = reference + std::log(sum);
  if (reference == nothing) lse = sum == sum ? nothing : sum;
  if (call.sink_logits != nullptr) {
    const T sink = static_cast<T>(call.sink_logits[head]);
    const T highest = lse > sink ? lse : sink;
    if (highest != nothing) {
      const T joined = highest + std::log(std::exp(lse - highest) + std::exp(sink - highest));
      factor *= std::exp(lse - joined);
      lse = joined;
    }
  }
  for (std::int64_t i = 0; i < size; ++i) values[i] *= factor;
  write_result(call.out.dtype, call.out.row(token, head), values, size);
  if (call.lse != nullptr) call.lse[token * call.q.num_heads + head] = static_cast<float>(lse);
}

}  // namespace pagedkv::inline v0_1::cpu::PAGEDKV_ISA_NAMESPACE
