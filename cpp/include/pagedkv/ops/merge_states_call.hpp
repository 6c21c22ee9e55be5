#pragma once

// Which two attentions become one: plain data, and its checks.

#include <cstdint>
#include <string>
#include <vector>

#include "pagedkv/core/errors.hpp"
#include "pagedkv/ops/checks.hpp"
#include "pagedkv/ops/overlap.hpp"
#include "pagedkv/ops/views.hpp"

namespace pagedkv::inline v0_1 {

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

namespace detail_check_merge {

inline bool same_rows(const RowsView& a, const RowsView& b) noexcept {
  return a.data == b.data && a.token_stride == b.token_stride && a.head_stride == b.head_stride;
}

inline MemoryRegion region(const LseView& lse, const RowsView& rows) noexcept {
  return {
      lse.data,
      lse.data == nullptr ? 0 : 4,
      {{{rows.num_tokens, lse.token_stride * 4}, {rows.num_heads, lse.head_stride * 4}, {1, 0}}}};
}

}  // namespace detail_check_merge

/// @param where  the function that errors name.
/// @throws ShapeError for shapes or dtypes that do not go together, and for memory that is shared
/// in
///         part.
inline void check_merge_states(const char* where, const MergeStatesCall& call) {
  using namespace detail_check_merge;
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

}  // namespace pagedkv::inline v0_1
