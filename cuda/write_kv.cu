#include <cstdint>

#include "cuda/error_word.hpp"
#include "cuda/kernels/write_rows.cuh"
#include "cuda/launch.hpp"
#include "cuda/operations.hpp"
#include "cuda/write_sides.hpp"

namespace pagedkv::cuda {
namespace {

using Kernel = void (*)(const WriteParams);

/// A side, and the kernel that does it.
struct Plan {
  WriteSide side;
  Kernel kernel;
};

Kernel copying(int bytes) {
  switch (bytes) {
    case 16: return &copy_rows_to_slots<16>;
    case 8: return &copy_rows_to_slots<8>;
    case 4: return &copy_rows_to_slots<4>;
    case 2: return &copy_rows_to_slots<2>;
    default: return &copy_rows_to_slots<1>;
  }
}

Plan plan(const RowsView& rows, const CacheView& cache, const ScaleView& scale) {
  if (rows.dtype == cache.dtype) {
    const int bytes = copied_bytes(rows, cache);
    return {write_side(rows, cache, scale, static_cast<std::int64_t>(cache.row_bytes()) / bytes),
            copying(bytes)};
  }
  const int width = converted_width(rows, cache);
  return {write_side(rows, cache, scale, cache.head_dim / width),
          width == 1 ? &convert_rows_to_slots<1> : &convert_rows_to_slots<kWide>};
}

}  // namespace

void write_kv(const WriteKvCall& call, const Stream& stream, const char* where) {
  check_write_kv_arrays(where, call);
  expect_supported(where, "k", call.k.dtype);
  expect_supported(where, "v", call.v.dtype);
  expect_supported(where, "k_cache", call.k_cache.dtype);
  expect_supported(where, "v_cache", call.v_cache.dtype);
  const std::int64_t rows = call.k.num_tokens * call.k.num_heads;
  if (rows == 0) return;
  const CurrentDevice current(where, stream.device);
  const Plan k = plan(call.k, call.k_cache, call.k_scale);
  const Plan v = plan(call.v, call.v_cache, call.v_scale);
  WriteParams params;
  params.slot_mapping = call.slot_mapping;
  params.num_slots = call.k_cache.num_blocks * call.k_cache.block_size;
  params.heads = Divider(call.k.num_heads);
  params.block_size = Divider(call.k_cache.block_size);
  params.errors = error_word(stream, where);

  const auto put = [&](Kernel kernel, unsigned sides) {
    std::int64_t blocks = 1;
    for (unsigned i = 0; i < sides; ++i) {
      const std::int64_t each = params.sides[i].threads.rows_per_block();
      blocks = std::max(blocks, (rows + each - 1) / each);
    }
    launch(where, kernel, {grid_for(where, stream.device, kBlockThreads, blocks), sides},
           kBlockThreads, 0, stream.handle, params);
  };
  params.sides[0] = k.side;
  if (k.kernel == v.kernel) {
    params.sides[1] = v.side;
    return put(k.kernel, 2);
  }
  put(k.kernel, 1);
  params.sides[0] = v.side;
  put(v.kernel, 1);
}

}  // namespace pagedkv::cuda
