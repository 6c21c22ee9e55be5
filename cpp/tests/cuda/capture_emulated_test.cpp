// What a graph can capture: calls that neither wait nor allocate, once the stream is known.

#include <gtest/gtest.h>

#include <cstdint>
#include <random>
#include <vector>

#include "cpp/tests/cuda/device.hpp"
#include "cpp/tests/operations/ops_caches.hpp"

namespace {

using namespace pagedkv;
using namespace pagedkv_test;

using CudaCapture = OnCuda;

TEST_F(CudaCapture, OperationsThatMoveKeysAndValuesNeitherWaitNorAllocate) {
  std::mt19937_64 random(1);
  constexpr std::int64_t n = 5, heads = 2, dim = 16;
  TestRows k(DType::float16, n, heads, dim, Values::ordinary, random);
  TestRows v(DType::float16, n, heads, dim, Values::ordinary, random);
  TestRows out(DType::float16, n, heads, dim, Values::ordinary, random);
  TestCache k_cache(DType::float16, 3, heads, 4, dim, Layout::hnd, Values::ordinary, random);
  TestCache v_cache(DType::int8, 3, heads, 4, dim, Layout::hnd, Values::ordinary, random);
  const std::vector<std::int64_t> slots{0, 1, 2, 3, 4}, positions{4, 3, 2, 1, 0};
  const std::vector<float> angles(5 * dim);
  const std::vector<std::int32_t> table{2, 0}, lengths{5};
  const std::int64_t pair[] = {0, 1};
  std::vector<float> lse(n * heads);

  const auto all = [&] {
    cuda::write_kv({k.view, v.view, k_cache.view, v_cache.view, {}, {}, slots.data()}, stream_);
    RopeWriteKvCall rope;
    rope.q = k.view;
    rope.q_out = out.view;
    rope.k = rope.v = v.view;
    rope.k_cache = k_cache.view;
    rope.v_cache = v_cache.view;
    rope.slot_mapping = slots.data();
    rope.positions = positions.data();
    rope.cos_sin_cache = angles.data();
    rope.cos_sin_stride = rope.rotary_dim = dim;
    rope.max_position = 5;
    cuda::rope_write_kv(rope, stream_);
    GatherKvCall gather;
    gather.k_cache = k_cache.view;
    gather.v_cache = v_cache.view;
    gather.block_tables = table.data();
    gather.block_table_stride = gather.max_blocks = 2;
    gather.seq_lens = lengths.data();
    gather.num_seqs = 1;
    gather.k = k.view;
    gather.v = v.view;
    cuda::gather_kv(gather, stream_);
    const CacheView caches[] = {k_cache.view, v_cache.view};
    cuda::copy_blocks(caches, {pair, 1, true}, stream_);
    cuda::move_slots(caches, {pair, 1, false}, stream_);
    const LseView lses{lse.data(), heads, 1};
    cuda::merge_attention_states({k.view, lses, v.view, lses, out.view, {}}, stream_);
  };
  all();
  const std::size_t before = simt::Allocations::all().count();
  stream_.handle->capturing = true;
  EXPECT_NO_THROW(all());
  EXPECT_THROW(cuda::check(stream_), cuda::CudaError) << "this one waits";
  stream_.handle->capturing = false;
  EXPECT_EQ(simt::Allocations::all().count(), before);
}

}  // namespace
