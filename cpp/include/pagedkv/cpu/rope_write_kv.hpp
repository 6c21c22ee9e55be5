#pragma once

// Queries and keys are normed and rotated, and keys and values written to their slots, in one pass.

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "pagedkv/core/errors.hpp"
#include "pagedkv/cpu/kernels.hpp"
#include "pagedkv/cpu/row_copies.hpp"
#include "pagedkv/cpu/row_kernels.hpp"
#include "pagedkv/cpu/thread_pool.hpp"
#include "pagedkv/cpu/write_kv.hpp"
#include "pagedkv/ops/rope_write_kv_call.hpp"
#include "pagedkv/ops/views.hpp"

namespace pagedkv::inline v0_1::cpu {

namespace detail_rope_write_kv {

/// Weights in the type that a kernel wants them in; none where there are none.
inline std::vector<std::byte> converted_weight(const RowsView& weight, DType rows,
                                               const Kernels& kernels) {
  const DType to = rows == DType::float64 ? DType::float64 : DType::float32;
  std::vector<std::byte> converted;
  if (weight.data == nullptr) return converted;
  converted.resize(static_cast<std::size_t>(weight.head_dim) * dtype_bits(to) / 8);
  kernels.rows.quantize(weight.dtype, to)(weight.data, converted.data(), weight.head_dim, 1);
  return converted;
}

}  // namespace detail_rope_write_kv

/// For each token: q and k are divided by the root of their mean square and multiplied by the
/// weights, where there are any; rotated by the angles of the token's position; then q goes to
/// `q_out`, k and v to the token's slot, as `write_kv` writes them. All in float32 (float64 for
/// float64), rounded once. O(bytes).
/// @param where  the function that errors name.
/// @throws InvalidSlotError for a slot outside the cache or a position outside `cos_sin_cache`;
///         ShapeError for shapes, dtypes or scales that do not go together, and for memory that is
///         shared; std::bad_alloc. Nothing was written.
template <Executor E>
void rope_write_kv(const RopeWriteKvCall& call, E& executor, const Kernels& kernels,
                   const char* where = "cpu.rope_write_kv") {
  using detail_rope_write_kv::converted_weight;
  check_rope_write_kv(where, call);
  const auto between = [](DType rows) {
    return rows == DType::float64 ? DType::float64 : DType::float32;
  };
  const DType q_between = between(call.q.dtype), k_between = between(call.k.dtype);
  const std::vector<std::byte> q_weight =
      converted_weight(call.q_norm_weight, call.q.dtype, kernels);
  const std::vector<std::byte> k_weight =
      converted_weight(call.k_norm_weight, call.k.dtype, kernels);
  const detail_write_kv::Writer v(call.v.dtype, call.v_cache, call.v_scale, kernels);
  const detail_write_kv::Writer k(k_between, call.k_cache, call.k_scale, kernels);
  const ConvertRow write_q = kernels.rows.quantize(q_between, call.q_out.dtype);
  const std::int64_t q_heads = call.q.data == nullptr ? 0 : call.q.num_heads;
  const std::int64_t bytes = detail_write_kv::token_bytes(call.k, call.k_cache) +
                             detail_write_kv::token_bytes(call.v, call.v_cache) +
                             2 * q_heads * static_cast<std::int64_t>(call.q.row_bytes());

  in_pieces(executor, call.k.num_tokens, bytes, [&](std::int64_t begin, std::int64_t end) {
    const RowTransfer transfer(0);  // what was computed is in the caches anyway
    alignas(64) std::byte rotated[static_cast<std::size_t>(kMaxHeadDim) * sizeof(double)];
    RopeRow row;
    row.head_dim = call.k.head_dim;
    row.rotary_dim = call.rotary_dim;
    row.interleaved = call.interleaved;
    row.norm_eps = call.norm_eps;
    for (std::int64_t token = begin; token < end; ++token) {
      const std::int64_t position =
          call.positions != nullptr ? call.positions[token] : call.positions_int32[token];
      if (call.rotary_dim != 0) {
        row.cos_sin = call.cos_sin_cache + position * call.cos_sin_stride;
      }
      row.dtype = call.q.dtype;
      row.norm_weight = q_weight.empty() ? nullptr : q_weight.data();
      for (std::int64_t head = 0; head < q_heads; ++head) {
        row.from = call.q.row(token, head);
        kernels.rows.rope(row, rotated);
        write_q(rotated, call.q_out.row(token, head), row.head_dim, 1);
      }
      const std::int64_t slot = call.slot_mapping[token];
      if (slot == kNoSlot) continue;
      const std::int64_t block = slot / call.k_cache.block_size;
      const std::int64_t offset = slot % call.k_cache.block_size;
      row.dtype = call.k.dtype;
      row.norm_weight = k_weight.empty() ? nullptr : k_weight.data();
      for (std::int64_t head = 0; head < call.k.num_heads; ++head) {
        row.from = call.k.row(token, head);
        kernels.rows.rope(row, rotated);
        k.write(rotated, block, head, offset, transfer);
      }
      v.write(call.v, token, 1, block, offset, transfer);
    }
  });
}

}  // namespace pagedkv::inline v0_1::cpu
