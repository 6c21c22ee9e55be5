// Metal as a device: buffers, ranges, rectangles, copies, and the types of the core on top of it.

#include "metal/backend.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

#include "cpp/tests/expect_error.hpp"
#include "cpp/tests/metal/test_queue.hpp"
#include "pagedkv/core/kv_cache.hpp"
#include "pagedkv/core/paged_seq_state.hpp"

namespace {

using namespace pagedkv;
using pagedkv_test::expect_error;
using pagedkv_test::TestQueue;
using Ints = std::vector<std::int32_t>;

class MetalDevice : public testing::Test {
 protected:
  Ints all(const metal::Buffer& buffer) {
    Ints values(buffer.size());
    MetalBackend::read(context, buffer, 0, values);
    return values;
  }

  TestQueue queue;
  metal::Context context{&queue};
};

TEST_F(MetalDevice, AllocatesFilledBuffers) {
  const auto buffer = MetalBackend::allocate({}, DType::int32, 3, std::byte{0xff});
  EXPECT_EQ(buffer.bytes(), 12U);
  EXPECT_EQ(all(buffer), (Ints{-1, -1, -1}));
  auto other = MetalBackend::allocate({}, DType::float16, 5);
  auto moved = std::move(other);
  EXPECT_EQ(moved.size(), 5U);
  EXPECT_EQ(moved.dtype(), DType::float16);
  EXPECT_EQ(MetalBackend::allocate({}, DType::int4, 0).bytes(), 0U);
  EXPECT_THROW((void)MetalBackend::allocate({}, DType::float64, static_cast<std::size_t>(-1)),
               ShapeError);
}

TEST_F(MetalDevice, WritesReadsAndCopiesRanges) {
  auto buffer = MetalBackend::allocate({}, DType::int32, 8);
  Ints values(8);
  std::iota(values.begin(), values.end(), 0);
  MetalBackend::write(context, buffer, 0, values);
  MetalBackend::write(context, buffer, 6, Ints{60, 70});
  EXPECT_EQ(queue.waits, 0U) << "writes go on the queue";
  EXPECT_EQ(queue.commits, 2U);
  EXPECT_EQ(all(buffer), (Ints{0, 1, 2, 3, 4, 5, 60, 70}));
  auto other = MetalBackend::allocate({}, DType::int32, 4);
  MetalBackend::copy(context, other, 1, buffer, 5, 3);
  EXPECT_EQ(all(other), (Ints{0, 5, 60, 70}));
  MetalBackend::copy(context, buffer, 1, buffer, 0, 5);
  EXPECT_EQ(all(buffer), (Ints{0, 0, 1, 2, 3, 4, 60, 70})) << "ranges that overlap";
  MetalBackend::copy(context, buffer, 8, buffer, 0, 0);
  expect_error<ShapeError>([&] { MetalBackend::write(context, buffer, 7, values); },
                           "MetalBackend.write", "elements 7 to 7 + 8", "inside the buffer's 8");
  expect_error<ShapeError>([&] { MetalBackend::copy(context, other, 2, buffer, 0, 3); },
                           "MetalBackend.copy", "elements 2 to 2 + 3", "inside the buffer's 4");
  auto floats = MetalBackend::allocate({}, DType::float32, 8);
  EXPECT_THROW(MetalBackend::write(context, floats, 0, values), ShapeError);
  EXPECT_THROW(MetalBackend::copy(context, floats, 0, buffer, 0, 1), ShapeError);
}

TEST_F(MetalDevice, MovesRectangles) {
  auto buffer = MetalBackend::allocate({}, DType::int8, 20, std::byte{9});
  const std::vector<std::byte> host{std::byte{1}, std::byte{2}, std::byte{0},
                                    std::byte{3}, std::byte{4}, std::byte{0}};
  const RowCopy rows{2, 2, 3, 10, 3};
  MetalBackend::write_rows(context, buffer, rows, host.data());
  std::vector<std::byte> back(6);
  MetalBackend::read_rows(context, buffer, rows, back.data());
  EXPECT_EQ(back, host);
  EXPECT_EQ(buffer.data()[5], std::byte{9});
  EXPECT_THROW(MetalBackend::read_rows(context, buffer, {3, 2, 3, 10, 3}, back.data()), ShapeError);
}

TEST_F(MetalDevice, ASequencesTableIsWrittenOnlyWhereItChanged) {
  BlockAllocator blocks(16);
  PagedSeqState<MetalBackend> state(4, 6);
  EXPECT_EQ(all(state.block_table_buf()), Ints(6, -1));
  const auto written = [&](auto&& work) {
    queue.dispatched.clear();
    work();
    std::size_t bytes = 0;
    for (const auto& dispatch : queue.dispatched) bytes += dispatch.arguments[1].host_bytes;
    return bytes;
  };
  EXPECT_EQ(written([&] { state.ensure_capacity(context, blocks, 8); }), 8U);
  EXPECT_EQ(written([&] { state.ensure_capacity(context, blocks, 20); }), 12U);
  EXPECT_EQ(written([&] { state.ensure_capacity(context, blocks, 20); }), 0U);
  state.set_len(17);
  EXPECT_EQ(written([&] { state.sync_context_len(context); }), 4U);
  EXPECT_EQ(written([&] { state.sync_context_len(context); }), 0U);
  EXPECT_EQ(all(state.block_table_buf()), (Ints{0, 1, 2, 3, 4, -1}));
  EXPECT_EQ(all(state.context_lens_buf()), Ints{17});
  state.release(context, blocks);
  EXPECT_EQ(all(state.block_table_buf()), Ints(6, -1));
}

TEST_F(MetalDevice, CachesHoldWhatIsAppended) {
  constexpr std::size_t heads = 2, dim = 4, tokens = 7;
  std::vector<float> k(tokens * heads * dim);
  std::iota(k.begin(), k.end(), 1.0F);
  auto v = k;
  for (float& x : v) x = -x;
  const auto allocator = std::make_shared<BlockAllocator>(8);
  auto contiguous = KvCache<MetalBackend>::contiguous(10, heads, dim);
  auto paged = KvCache<MetalBackend>::paged(8, heads, dim, 4, 4, allocator);
  for (auto* cache : {&contiguous, &paged}) {
    const auto half = std::size_t{3} * heads * dim;
    cache->append(std::span<const float>(k).first(half), std::span<const float>(v).first(half));
    cache->append(std::span<const float>(k).subspan(half), std::span<const float>(v).subspan(half));
    std::vector<float> dense_k(k.size()), dense_v(v.size());
    cache->to_dense(std::span(dense_k), std::span(dense_v));
    EXPECT_EQ(dense_k, k);
    EXPECT_EQ(dense_v, v);
  }
}

}  // namespace
