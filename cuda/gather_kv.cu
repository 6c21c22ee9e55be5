#include <algorithm>
#include <cstdint>

#include "cuda/error_word.hpp"
#include "cuda/host.hpp"
#include "cuda/kernels/gather_rows.cuh"
#include "cuda/launch.hpp"
#include "cuda/operations.hpp"

namespace pagedkv::cuda {

void gather_kv(const GatherKvCall& call, const Stream& stream, const char* where) {
  check_gather_kv_arrays(where, call, call.k.num_tokens);
  expect_supported(where, "k_cache", call.k_cache.dtype);
  expect_supported(where, "v_cache", call.v_cache.dtype);
  expect_supported(where, "k", call.k.dtype);
  expect_supported(where, "v", call.v.dtype);
  if (call.num_seqs == 0) return;
  if (call.block_tables == nullptr && call.max_blocks != 0) {
    pagedkv::detail::throw_shape(where, "no block_tables; expected a row a sequence");
  }
  const CurrentDevice current(where, stream.device);
  const bool wide = loads_wide(call.k, kWide) && loads_wide(call.k_cache, kWide) &&
                    loads_wide(call.v, kWide) && loads_wide(call.v_cache, kWide);
  const int width = wide ? kWide : 1;
  GatherParams params;
  params.sides[0] = {call.k_cache, call.k_scale, call.k,
                     RowThreads::for_vectors(call.k.head_dim / width)};
  params.sides[1] = {call.v_cache, call.v_scale, call.v,
                     RowThreads::for_vectors(call.v.head_dim / width)};
  params.block_tables = call.block_tables;
  params.block_table_stride = call.block_table_stride;
  params.max_blocks = call.max_blocks;
  params.seq_lens = call.seq_lens;
  params.num_seqs = call.num_seqs;
  params.num_rows = call.k.num_tokens;
  params.heads = Divider(call.k.num_heads);
  params.block_size = Divider(call.k_cache.block_size);
  params.errors = error_word(stream, where);

  // As many blocks as run at a time, each with rows enough that summing lengths costs little.
  constexpr std::int64_t least = 16;
  const std::int64_t most = blocks_at_a_time(where, stream.device, kBlockThreads);
  params.block_rows = std::max(least, (params.num_rows + most - 1) / most);
  const std::int64_t blocks =
      std::max<std::int64_t>(1, (params.num_rows + params.block_rows - 1) / params.block_rows);
  constexpr std::size_t shared_bytes =
      (kGatherSeqs + 1 + kBlockThreads / 32) * sizeof(std::int64_t);
  launch(where, wide ? &gather_rows<kWide> : &gather_rows<1>, {static_cast<unsigned>(blocks), 2},
         kBlockThreads, shared_bytes, stream.handle, params);
}

}  // namespace pagedkv::cuda
