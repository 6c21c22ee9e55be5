#include <algorithm>
#include <cstdint>

#include "cuda/error_word.hpp"
#include "cuda/kernels/rope_rows.cuh"
#include "cuda/launch.hpp"
#include "cuda/operations.hpp"
#include "cuda/write_sides.hpp"

namespace pagedkv::cuda {
namespace {

/// Elements that a thread has side by side in the rows that are rotated.
int rotated_width(const RopeWriteKvCall& call, bool queries) {
  bool wide = loads_wide(call.k, kWide) && loads_wide(call.k_cache, kWide);
  if (queries) wide = wide && loads_wide(call.q, kWide) && loads_wide(call.q_out, kWide);
  for (const RowsView* weight : {&call.q_norm_weight, &call.k_norm_weight}) {
    if (weight->data != nullptr) wide = wide && loads_wide(*weight, kWide);
  }
  // Both halves begin and end with a chunk, and so do their angles.
  const std::int64_t half = call.rotary_dim / 2;
  if (!call.interleaved) {
    wide = wide && half % kWide == 0 &&
           common_alignment({address(call.cos_sin_cache), call.cos_sin_stride * 4}) == 16;
  }
  return wide ? kWide : 1;
}

RopeSide rope_side(const RowsView& rows, const RowsView& weight, int width) {
  return {rows, weight, Divider(rows.num_heads), RowThreads::for_vectors(rows.head_dim / width)};
}

}  // namespace

void rope_write_kv(const RopeWriteKvCall& call, const Stream& stream, const char* where) {
  check_rope_write_kv_arrays(where, call);
  const bool queries = call.q.data != nullptr && call.q.num_heads != 0;
  expect_supported(where, "k", call.k.dtype);
  expect_supported(where, "v", call.v.dtype);
  expect_supported(where, "k_cache", call.k_cache.dtype);
  expect_supported(where, "v_cache", call.v_cache.dtype);
  if (queries) {
    expect_supported(where, "q", call.q.dtype);
    expect_supported(where, "q_out", call.q_out.dtype);
  }
  expect_supported(where, "q_norm_weight", call.q_norm_weight.dtype);
  expect_supported(where, "k_norm_weight", call.k_norm_weight.dtype);
  const std::int64_t num_tokens = call.k.num_tokens;
  if (num_tokens == 0) return;

  const CurrentDevice current(where, stream.device);
  const int width = rotated_width(call, queries);
  const int v_width = converted_width(call.v, call.v_cache);
  RopeParams params;
  params.k = rope_side(call.k, call.k_norm_weight, width);
  if (queries) params.q = rope_side(call.q, call.q_norm_weight, width);
  params.q_out = call.q_out;
  params.write.sides[0] = write_side(call.k, call.k_cache, call.k_scale, 1);
  params.write.sides[1] = write_side(call.v, call.v_cache, call.v_scale, call.v.head_dim / v_width);
  params.write.slot_mapping = call.slot_mapping;
  params.write.num_slots = call.k_cache.num_blocks * call.k_cache.block_size;
  params.write.heads = Divider(call.k.num_heads);
  params.write.block_size = Divider(call.k_cache.block_size);
  params.write.errors = error_word(stream, where);
  params.positions = call.positions;
  params.positions_int32 = call.positions_int32;
  params.cos_sin_cache = call.cos_sin_cache;
  params.cos_sin_stride = call.cos_sin_stride;
  params.max_position = call.max_position;
  params.head_dim = static_cast<int>(call.k.head_dim);
  params.rotary_dim = static_cast<int>(call.rotary_dim);
  params.interleaved = call.interleaved;
  params.norm_eps = static_cast<float>(call.norm_eps);

  const auto blocks = [&](const RowsView& rows, const RowThreads& threads) {
    const std::int64_t each = threads.rows_per_block();
    return (rows.num_tokens * rows.num_heads + each - 1) / each;
  };
  std::int64_t most =
      std::max(blocks(call.k, params.k.threads), blocks(call.v, params.write.sides[1].threads));
  if (queries) most = std::max(most, blocks(call.q, params.q.threads));
  const auto kernel =
      width == 1 ? (v_width == 1 ? &rope_and_write<1, 1> : &rope_and_write<1, kWide>)
                 : (v_width == 1 ? &rope_and_write<kWide, 1> : &rope_and_write<kWide, kWide>);
  launch(where, kernel, {grid_for(where, stream.device, kBlockThreads, most), queries ? 3U : 2U},
         kBlockThreads, 0, stream.handle, params);
}

}  // namespace pagedkv::cuda
