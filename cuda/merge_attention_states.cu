#include <cstdint>

#include "cuda/host.hpp"
#include "cuda/kernels/merge_states.cuh"
#include "cuda/launch.hpp"
#include "cuda/operations.hpp"

namespace pagedkv::cuda {

void merge_attention_states(const MergeStatesCall& call, const Stream& stream, const char* where) {
  check_merge_states(where, call);
  expect_supported(where, "o", call.o.dtype);
  const std::int64_t rows = call.o.num_tokens * call.o.num_heads;
  if (rows * call.o.head_dim == 0) return;
  const CurrentDevice current(where, stream.device);
  const bool wide =
      loads_wide(call.o, kWide) && loads_wide(call.o_a, kWide) && loads_wide(call.o_b, kWide);
  MergeParams params{call, Divider(call.o.num_heads),
                     RowThreads::for_vectors(call.o.head_dim / (wide ? kWide : 1))};
  const std::int64_t each = params.threads.rows_per_block();
  launch(where, wide ? &merge_states<kWide> : &merge_states<1>,
         grid_for(where, stream.device, kBlockThreads, (rows + each - 1) / each), kBlockThreads, 0,
         stream.handle, params);
}

}  // namespace pagedkv::cuda
