#pragma once

// What one call of rope_write_kv rotates and writes: plain data, and its checks.

#include <cstdint>
#include <string>
#include <vector>

#include "pagedkv/core/errors.hpp"
#include "pagedkv/ops/attention_call.hpp"
#include "pagedkv/ops/checks.hpp"
#include "pagedkv/ops/overlap.hpp"
#include "pagedkv/ops/views.hpp"
#include "pagedkv/ops/write_kv_call.hpp"

namespace pagedkv::inline v0_1 {

/// The arguments of `rope_write_kv`.
struct RopeWriteKvCall {
  RowsView q;      ///< `[num_tokens, num_q_heads, head_dim]`, a plain float; no heads: no queries
  RowsView q_out;  ///< of q's shape, a plain float; may be `q`
  RowsView k;      ///< `[num_tokens, num_kv_heads, head_dim]`, a plain float
  RowsView v;  ///< `[num_tokens, num_kv_heads, v_head_dim]`: a plain float, or the cache's dtype
  CacheView k_cache;
  CacheView v_cache;  ///< blocks, heads and slots as in `k_cache`
  ScaleView k_scale;  ///< as in `write_kv`
  ScaleView v_scale;
  const std::int64_t* slot_mapping = nullptr;  ///< `[num_tokens]`; `kNoSlot`: only q is rotated

  const std::int64_t* positions = nullptr;        ///< `[num_tokens]`
  const std::int32_t* positions_int32 = nullptr;  ///< the same as int32; one of the two
  const float* cos_sin_cache = nullptr;  ///< `[max_position, rotary_dim]`: cosines, then sines
  std::int64_t cos_sin_stride = 0;       ///< in elements
  std::int64_t max_position = 0;
  std::int64_t rotary_dim = 0;  ///< even; the channels from there on are not rotated
  bool interleaved = false;     ///< pairs are (2i, 2i + 1); else (i, i + rotary_dim / 2)

  RowsView q_norm_weight;  ///< `[1, 1, head_dim]`, a plain float; no data: no norm
  RowsView k_norm_weight;
  double norm_eps = 1e-6;  ///< added to the mean of squares
};

namespace detail_check_rope {

inline void check_weight(const char* where, const char* name, const RowsView& weight,
                         std::int64_t head_dim) {
  if (weight.data == nullptr) return;
  if (weight.head_dim != head_dim || weight.num_tokens != 1 || weight.num_heads != 1 ||
      !is_plain_float(weight.dtype)) {
    detail::throw_shape(where, std::string(name) + " of " + std::to_string(weight.head_dim) +
                                   " elements of " + std::string(dtype_name(weight.dtype)) +
                                   "; expected " + std::to_string(head_dim) + " floats");
  }
}

inline bool in_place(const RowsView& a, const RowsView& b) noexcept {
  return a.data == b.data && a.dtype == b.dtype && a.token_stride == b.token_stride &&
         a.head_stride == b.head_stride;
}

inline void check_rotation(const char* where, const RopeWriteKvCall& call) {
  const std::int64_t head_dim = call.k.head_dim;
  if (call.rotary_dim < 0 || call.rotary_dim % 2 != 0 || call.rotary_dim > head_dim) {
    detail::throw_shape(where, "rotary_dim " + std::to_string(call.rotary_dim) +
                                   "; expected an even number up to head_dim " +
                                   std::to_string(head_dim));
  }
  if (head_dim > kMaxHeadDim) {
    detail::throw_shape(where, "head_dim " + std::to_string(head_dim) + "; expected at most " +
                                   std::to_string(kMaxHeadDim));
  }
  if (call.k.num_tokens == 0) return;
  if ((call.positions == nullptr) == (call.positions_int32 == nullptr)) {
    detail::throw_shape(where, std::string(call.positions == nullptr ? "no" : "two kinds of") +
                                   " positions; expected int64 or int32 ones");
  }
  if (call.cos_sin_cache == nullptr && call.rotary_dim != 0) {
    detail::throw_shape(where, "no cos_sin_cache; expected [max_position, rotary_dim]");
  }
}

inline void check_queries(const char* where, const RopeWriteKvCall& call) {
  const RowsView &q = call.q, &out = call.q_out;
  const bool shapes = q.num_tokens == call.k.num_tokens && q.head_dim == call.k.head_dim &&
                      out.num_tokens == q.num_tokens && out.num_heads == q.num_heads &&
                      out.head_dim == q.head_dim;
  if (!shapes || !is_plain_float(q.dtype) || !is_plain_float(out.dtype)) {
    using detail_checks::shape_text;
    detail::throw_shape(where, "q " + shape_text(q) + " and q_out " + shape_text(out) +
                                   "; expected floats of one shape, tokens and head_dim as in k " +
                                   shape_text(call.k));
  }
  if (q.num_tokens != 0 && (q.data == nullptr || out.data == nullptr)) {
    detail::throw_shape(where, "q or q_out without data; expected data");
  }
}

}  // namespace detail_check_rope

/// Checks everything but the slots and positions, which another device may hold.
/// @param where  the function that errors name.
/// @throws ShapeError for shapes, dtypes or scales that do not go together, and for memory that is
///         shared.
inline void check_rope_write_kv_arrays(const char* where, const RopeWriteKvCall& call) {
  using namespace detail_check_rope;
  detail_check_write::check_caches(where, call.k_cache, call.v_cache, call.slot_mapping,
                                   call.k.num_tokens);
  detail_checks::check_rows(where, "k", call.k, call.k.num_tokens, call.k_cache);
  detail_checks::check_rows(where, "v", call.v, call.k.num_tokens, call.v_cache);
  if (!is_plain_float(call.k.dtype)) {
    detail::throw_shape(where, "k of " + std::string(dtype_name(call.k.dtype)) +
                                   "; expected float64, float32, float16 or bfloat16");
  }
  // Rotated keys are floats, also where k has the dtype of the cache.
  const DType rotated = call.k_scale.per_token() ? DType::float32 : call.k.dtype;
  detail_check_write::check_dtypes(where, "k", rotated, call.k_cache, call.k_scale);
  detail_check_write::check_dtypes(where, "v", call.v.dtype, call.v_cache, call.v_scale);
  const bool queries = call.q.num_heads != 0 && call.q.data != nullptr;
  if (queries || call.q_out.data != nullptr) check_queries(where, call);
  check_rotation(where, call);
  check_weight(where, "q_norm_weight", call.q_norm_weight, call.k.head_dim);
  check_weight(where, "k_norm_weight", call.k_norm_weight, call.k.head_dim);

  std::vector<detail_overlap::Named> written{{MemoryRegion(call.k_cache), "k_cache"},
                                             {MemoryRegion(call.v_cache), "v_cache"}};
  std::vector<detail_overlap::Named> read{{MemoryRegion(call.k), "k"}, {MemoryRegion(call.v), "v"}};
  const MemoryRegion k_scale(call.k_scale, call.k_cache), v_scale(call.v_scale, call.v_cache);
  (call.k_scale.per_token() ? written : read).push_back({k_scale, "k_scale"});
  (call.v_scale.per_token() ? written : read).push_back({v_scale, "v_scale"});
  if (queries) {
    written.push_back({MemoryRegion(call.q_out), "q_out"});
    if (!in_place(call.q, call.q_out)) read.push_back({MemoryRegion(call.q), "q"});
  }
  const MemoryRegion angles(call.cos_sin_cache, call.rotary_dim * 4,
                            {{{call.max_position, call.cos_sin_stride * 4}, {1, 0}, {1, 0}}});
  if (call.cos_sin_cache != nullptr) read.push_back({angles, "cos_sin_cache"});
  detail_overlap::check(where, written, read);
}

/// `check_rope_write_kv_arrays`, and the slots and positions.
/// @throws InvalidSlotError for a slot outside the cache or a position outside `cos_sin_cache`.
inline void check_rope_write_kv(const char* where, const RopeWriteKvCall& call) {
  check_rope_write_kv_arrays(where, call);
  detail_check_write::check_slots(where, call.k_cache, call.slot_mapping, call.k.num_tokens);
  if (call.positions != nullptr) {
    detail_checks::check_indices(where, "position", call.positions, call.k.num_tokens, 0,
                                 call.max_position);
  } else {
    detail_checks::check_indices(where, "position", call.positions_int32, call.k.num_tokens, 0,
                                 call.max_position);
  }
}

}  // namespace pagedkv::inline v0_1
