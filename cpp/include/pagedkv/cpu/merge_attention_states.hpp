#pragma once

// Two attentions of the same queries over different tokens become one over all of them.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "pagedkv/core/errors.hpp"
#include "pagedkv/cpu/checks.hpp"
#include "pagedkv/cpu/kernels.hpp"
#include "pagedkv/cpu/overlap.hpp"
#include "pagedkv/cpu/row_copies.hpp"
#include "pagedkv/cpu/row_kernels.hpp"
#include "pagedkv/cpu/thread_pool.hpp"
#include "pagedkv/cpu/views.hpp"

namespace pagedkv::inline v0_1::cpu {

/// `[num_tokens, num_heads]` logarithms of sums of exponentials. Strides in elements.
struct LseView {
  float* data = nullptr;
  std::int64_t token_stride = 0;
  std::int64_t head_stride = 1;

  [[nodiscard]] float& at(std::int64_t token, std::int64_t head) const noexcept {
    return data[token * token_stride + head * head_stride];
  }
  friend bool operator==(const LseView&, const LseView&) = default;
};

/// The arguments of `merge_attention_states`.
struct MergeStatesCall {
  RowsView o_a;  ///< `[num_tokens, num_q_heads, v_head_dim]`, a plain float
  LseView lse_a;
  RowsView o_b;
  LseView lse_b;
  RowsView o;   ///< dtype of the others; may be `o_a` or `o_b`
  LseView lse;  ///< may be `lse_a` or `lse_b`; no data: not wanted
};

namespace detail_merge_states {

inline bool same_rows(const RowsView& a, const RowsView& b) noexcept {
  return a.data == b.data && a.token_stride == b.token_stride && a.head_stride == b.head_stride;
}

inline MemoryRegion region(const LseView& lse, const RowsView& rows) noexcept {
  return {
      lse.data,
      lse.data == nullptr ? 0 : 4,
      {{{rows.num_tokens, lse.token_stride * 4}, {rows.num_heads, lse.head_stride * 4}, {1, 0}}}};
}

inline void check(const MergeStatesCall& call, const char* where) {
  const RowsView& o = call.o;
  if (!is_plain_float(o.dtype)) {
    detail::throw_shape(where, "results of " + std::string(dtype_name(o.dtype)) +
                                   "; expected float64, float32, float16 or bfloat16");
  }
  const bool wanted = o.num_tokens * o.num_heads * o.head_dim != 0;
  for (const RowsView* part : {&call.o_a, &call.o_b}) {
    if (part->num_tokens != o.num_tokens || part->num_heads != o.num_heads ||
        part->head_dim != o.head_dim || part->dtype != o.dtype) {
      detail::throw_shape(where, "a part " + detail_checks::shape_text(*part) + " for a result " +
                                     detail_checks::shape_text(o) + "; expected the same of both");
    }
    if (wanted && (part->data == nullptr || o.data == nullptr)) {
      detail::throw_shape(where, "results without data; expected data");
    }
  }
  if (wanted && (call.lse_a.data == nullptr || call.lse_b.data == nullptr)) {
    detail::throw_shape(where, "a part without its LSE; expected one a token and head");
  }
  std::vector<detail_overlap::Named> read;
  const MemoryRegion o_a(call.o_a), o_b(call.o_b);
  if (!same_rows(o, call.o_a)) read.push_back({o_a, "o_a"});
  if (!same_rows(o, call.o_b)) read.push_back({o_b, "o_b"});
  const MemoryRegion lse_a = region(call.lse_a, o), lse_b = region(call.lse_b, o);
  detail_overlap::check(where, {{MemoryRegion(o), "o"}, {region(call.lse, o), "lse"}}, read);
  detail_overlap::check(where, {{MemoryRegion(o), "o"}}, {{lse_a, "lse_a"}, {lse_b, "lse_b"}});
  read = {{o_a, "o_a"}, {o_b, "o_b"}};
  if (call.lse != call.lse_a) read.push_back({lse_a, "lse_a"});
  if (call.lse != call.lse_b) read.push_back({lse_b, "lse_b"});
  detail_overlap::check(where, {{region(call.lse, o), "lse"}}, read);
}

}  // namespace detail_merge_states

/// Each row of the result is (e^lse_a * o_a + e^lse_b * o_b) / (e^lse_a + e^lse_b). A part whose
/// LSE is -inf saw nothing: its row is not read, and may hold anything; where both are, the result
/// is zeros with LSE -inf. O(bytes).
/// @param where  the function that errors name.
/// @throws ShapeError for shapes or dtypes that do not go together, and for memory that is shared
/// in
///         part. Nothing was written.
template <Executor E>
void merge_attention_states(const MergeStatesCall& call, E& executor, const Kernels& kernels,
                            const char* where = "cpu.merge_attention_states") {
  detail_merge_states::check(call, where);
  const std::int64_t heads = call.o.num_heads;
  const auto bytes = 3 * heads * static_cast<std::int64_t>(call.o.row_bytes());
  if (bytes == 0) return;
  constexpr double nothing = -std::numeric_limits<double>::infinity();
  in_pieces(executor, call.o.num_tokens, bytes, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin * heads; i < end * heads; ++i) {
      const std::int64_t token = i / heads, head = i % heads;
      const double a = call.lse_a.at(token, head), b = call.lse_b.at(token, head);
      // A NaN is taken over, whichever side it is on.
      const double highest = a > b || a != a ? a : b;
      double sum = 0, weight_a = 0, weight_b = 0;
      if (highest != nothing) {
        weight_a = a == nothing ? 0 : std::exp(a - highest);
        weight_b = b == nothing ? 0 : std::exp(b - highest);
        sum = weight_a + weight_b;
      }
      const double factor = sum == 0 ? 0 : 1 / sum;
      kernels.rows.merge(call.o.dtype, a == nothing ? nullptr : call.o_a.row(token, head),
                         weight_a * factor, b == nothing ? nullptr : call.o_b.row(token, head),
                         weight_b * factor, call.o.row(token, head), call.o.head_dim);
      if (call.lse.data != nullptr) {
        call.lse.at(token, head) =
            static_cast<float>(highest == nothing ? nothing : highest + std::log(sum));
      }
    }
  });
}

}  // namespace pagedkv::inline v0_1::cpu
