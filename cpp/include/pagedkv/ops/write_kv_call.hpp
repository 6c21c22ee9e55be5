#pragma once

// What one call of write_kv, or of mla_write, writes: plain data, and its checks.

#include <cstdint>
#include <string>
#include <vector>

#include "pagedkv/core/errors.hpp"
#include "pagedkv/ops/checks.hpp"
#include "pagedkv/ops/overlap.hpp"
#include "pagedkv/ops/views.hpp"

namespace pagedkv::inline v0_1 {

/// The arguments of `write_kv`.
struct WriteKvCall {
  RowsView k;  ///< `[num_tokens, num_kv_heads, head_dim]`: a plain float, or the cache's dtype
  RowsView v;  ///< `[num_tokens, num_kv_heads, v_head_dim]`
  CacheView k_cache;
  CacheView v_cache;  ///< blocks, heads and slots as in `k_cache`
  ScaleView k_scale;  ///< of quantised caches; those of one number a slot are written
  ScaleView v_scale;
  const std::int64_t* slot_mapping = nullptr;  ///< `[num_tokens]`; `kNoSlot`: the token is skipped
};

/// The arguments of `mla_write`. All have one head.
struct MlaWriteCall {
  RowsView ckv;         ///< `[num_tokens, 1, kv_lora_rank]`
  RowsView kpe;         ///< `[num_tokens, 1, rope_dim]`
  CacheView ckv_cache;  ///< `[num_blocks, 1, block_size, kv_lora_rank]`
  CacheView
      kpe_cache;  ///< `[num_blocks, 1, block_size, rope_dim]`; may interleave with `ckv_cache`
  ScaleView ckv_scale;
  ScaleView kpe_scale;
  const std::int64_t* slot_mapping = nullptr;  ///< `[num_tokens]`; `kNoSlot`: the token is skipped
};

/// The same as a call of `write_kv`.
[[nodiscard]] inline WriteKvCall as_write_kv(const MlaWriteCall& call) noexcept {
  return {call.ckv,       call.kpe,       call.ckv_cache,   call.kpe_cache,
          call.ckv_scale, call.kpe_scale, call.slot_mapping};
}

namespace detail_check_write {

inline void check_dtypes(const char* where, const char* name, DType from, const CacheView& cache,
                         const ScaleView& scale) {
  const auto pair = [&] {
    return std::string(name) + " of " + std::string(dtype_name(from)) + " for a cache of " +
           std::string(dtype_name(cache.dtype));
  };
  const bool known = is_plain_float(cache.dtype) || is_quantized(cache.dtype);
  if (!known || (from != cache.dtype && !is_plain_float(from))) {
    detail::throw_shape(where, pair() +
                                   "; expected float64, float32, float16, bfloat16, or the dtype "
                                   "of the cache");
  }
  if (!is_quantized(cache.dtype) && !scale.trivial()) {
    detail::throw_shape(where, std::string(name) + " with a scale for a cache of " +
                                   std::string(dtype_name(cache.dtype)) +
                                   "; expected scales only where the cache is quantised");
  }
  if (scale.per_token() && scale.data == nullptr) {
    detail::throw_shape(where,
                        std::string(name) + " with one scale a slot, no data; expected data");
  }
  if (scale.per_token() && from == cache.dtype) {
    detail::throw_shape(where, pair() +
                                   " with one scale a slot; expected floats, of which these scales "
                                   "are computed");
  }
}

/// What every write checks of its caches.
inline void check_caches(const char* where, const CacheView& k, const CacheView& v,
                         const std::int64_t* slots, std::int64_t num_tokens) {
  detail_checks::check_cache(where, "k_cache", k);
  detail_checks::check_cache(where, "v_cache", v);
  detail_checks::check_pair(where, k, v);
  if (slots == nullptr && num_tokens != 0) {
    detail::throw_shape(where, "no slot_mapping; expected one slot a token");
  }
}

inline void check_slots(const char* where, const CacheView& cache, const std::int64_t* slots,
                        std::int64_t num_tokens) {
  detail_checks::check_indices(where, "slot", slots, num_tokens, kNoSlot,
                               cache.num_blocks * cache.block_size);
}

}  // namespace detail_check_write

/// Checks everything but the slots, which another device may hold.
/// @param where  the function that errors name.
/// @throws ShapeError for shapes, dtypes or scales that do not go together, and for memory that is
///         shared.
inline void check_write_kv_arrays(const char* where, const WriteKvCall& call) {
  using namespace detail_check_write;
  check_caches(where, call.k_cache, call.v_cache, call.slot_mapping, call.k.num_tokens);
  detail_checks::check_rows(where, "k", call.k, call.k.num_tokens, call.k_cache);
  detail_checks::check_rows(where, "v", call.v, call.k.num_tokens, call.v_cache);
  check_dtypes(where, "k", call.k.dtype, call.k_cache, call.k_scale);
  check_dtypes(where, "v", call.v.dtype, call.v_cache, call.v_scale);
  const MemoryRegion k_scale(call.k_scale, call.k_cache), v_scale(call.v_scale, call.v_cache);
  std::vector<detail_overlap::Named> written{{MemoryRegion(call.k_cache), "k_cache"},
                                             {MemoryRegion(call.v_cache), "v_cache"}};
  std::vector<detail_overlap::Named> read{{MemoryRegion(call.k), "k"}, {MemoryRegion(call.v), "v"}};
  (call.k_scale.per_token() ? written : read).push_back({k_scale, "k_scale"});
  (call.v_scale.per_token() ? written : read).push_back({v_scale, "v_scale"});
  detail_overlap::check(where, written, read);
}

/// `check_write_kv_arrays`, and the slots.
/// @throws InvalidSlotError for a slot outside the cache.
inline void check_write_kv(const char* where, const WriteKvCall& call) {
  check_write_kv_arrays(where, call);
  detail_check_write::check_slots(where, call.k_cache, call.slot_mapping, call.k.num_tokens);
}

}  // namespace pagedkv::inline v0_1
