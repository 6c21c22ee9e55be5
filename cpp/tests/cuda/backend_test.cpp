// CUDA as a device: buffers, ranges, rectangles, copies, and the types of the core on top of it.

#include "cuda/backend.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <numeric>
#include <span>
#include <vector>

#include "cpp/tests/expect_error.hpp"
#include "pagedkv/core/kv_cache.hpp"
#include "pagedkv/core/paged_seq_state.hpp"

namespace {

using namespace pagedkv;
using pagedkv_test::expect_error;
using Ints = std::vector<std::int32_t>;

class CudaDevice : public testing::Test {
 protected:
  CudaDevice() { cudaStreamCreate(&stream.handle); }
  ~CudaDevice() override { cudaStreamDestroy(stream.handle); }

  Ints all(const cuda::Buffer& buffer) {
    Ints values(buffer.size());
    CudaBackend::read(stream, buffer, 0, values);
    return values;
  }

  cuda::Stream stream;
};

TEST_F(CudaDevice, AllocatesFilledBuffers) {
  const auto buffer = CudaBackend::allocate({}, DType::int32, 3, std::byte{0xff});
  EXPECT_EQ(buffer.bytes(), 12u);
  EXPECT_EQ(all(buffer), (Ints{-1, -1, -1}));
  auto other = CudaBackend::allocate({}, DType::float16, 5);
  const auto moved = std::move(other);
  EXPECT_EQ(moved.size(), 5u);
  EXPECT_EQ(CudaBackend::allocate({}, DType::int4, 0).data(), nullptr);
}

TEST_F(CudaDevice, ErrorsCarryTheTextOfCuda) {
  const auto too_much = std::size_t{1} << 50;
  const auto error = expect_error<cuda::CudaError>(
      [&] { (void)CudaBackend::allocate({}, DType::int8, too_much); }, "cuda.Buffer",
      "cudaMalloc says \"out of memory\" (cudaErrorMemoryAllocation)", "success");
  EXPECT_EQ(error.code(), cudaErrorMemoryAllocation);
  EXPECT_EQ(cudaGetLastError(), cudaSuccess) << "what was told is not told again";
  expect_error<cuda::CudaError>([&] { (void)CudaBackend::allocate({7}, DType::int8, 1); },
                                "cuda.Buffer", "invalid device ordinal", "success");
  EXPECT_THROW((void)CudaBackend::allocate({}, DType::float64, static_cast<std::size_t>(-1)),
               ShapeError);
}

TEST_F(CudaDevice, WritesReadsAndCopiesRanges) {
  auto buffer = CudaBackend::allocate({}, DType::int32, 8);
  Ints values(8);
  std::iota(values.begin(), values.end(), 0);
  CudaBackend::write(stream, buffer, 0, values);
  CudaBackend::write(stream, buffer, 6, Ints{60, 70});
  EXPECT_EQ(all(buffer), (Ints{0, 1, 2, 3, 4, 5, 60, 70}));
  auto other = CudaBackend::allocate({}, DType::int32, 4);
  CudaBackend::copy(stream, other, 1, buffer, 5, 3);
  EXPECT_EQ(all(other), (Ints{0, 5, 60, 70}));
  CudaBackend::copy(stream, buffer, 1, buffer, 0, 5);
  EXPECT_EQ(all(buffer), (Ints{0, 0, 1, 2, 3, 4, 60, 70})) << "ranges that overlap";
  CudaBackend::copy(stream, buffer, 8, buffer, 0, 0);
  expect_error<ShapeError>([&] { CudaBackend::write(stream, buffer, 7, values); },
                           "CudaBackend.write", "elements 7 to 7 + 8", "inside the buffer's 8");
  expect_error<ShapeError>([&] { CudaBackend::copy(stream, other, 2, buffer, 0, 3); },
                           "CudaBackend.copy", "elements 2 to 2 + 3", "inside the buffer's 4");
  auto floats = CudaBackend::allocate({}, DType::float32, 8);
  EXPECT_THROW(CudaBackend::write(stream, floats, 0, values), ShapeError);
  EXPECT_THROW(CudaBackend::copy(stream, floats, 0, buffer, 0, 1), ShapeError);
}

TEST_F(CudaDevice, MovesRectangles) {
  auto buffer = CudaBackend::allocate({}, DType::int8, 20, std::byte{9});
  const std::vector<std::byte> host{std::byte{1}, std::byte{2}, std::byte{0},
                                    std::byte{3}, std::byte{4}, std::byte{0}};
  const RowCopy rows{2, 2, 3, 10, 3};
  CudaBackend::write_rows(stream, buffer, rows, host.data());
  std::vector<std::byte> back(6);
  CudaBackend::read_rows(stream, buffer, rows, back.data());
  EXPECT_EQ(back, host);
  EXPECT_THROW(CudaBackend::read_rows(stream, buffer, {3, 2, 3, 10, 3}, back.data()), ShapeError);
}

TEST_F(CudaDevice, ASequencesTableFollowsItsBlocks) {
  BlockAllocator blocks(16);
  PagedSeqState<CudaBackend> state(4, 6);
  EXPECT_EQ(all(state.block_table_buf()), Ints(6, -1));
  state.ensure_capacity(stream, blocks, 8);
  state.ensure_capacity(stream, blocks, 20);
  state.set_len(17);
  state.sync_context_len(stream);
  EXPECT_EQ(all(state.block_table_buf()), (Ints{0, 1, 2, 3, 4, -1}));
  EXPECT_EQ(all(state.context_lens_buf()), Ints{17});
  state.release(stream, blocks);
  EXPECT_EQ(all(state.block_table_buf()), Ints(6, -1));
  EXPECT_EQ(all(state.context_lens_buf()), Ints{0});
}

template <class T>
std::vector<T> counting(std::size_t count) {
  std::vector<T> values(count);
  for (std::size_t i = 0; i < count; ++i) values[i] = static_cast<T>(i % 251);
  return values;
}

TEST_F(CudaDevice, CachesHoldWhatIsAppended) {
  constexpr std::size_t heads = 2, dim = 4, tokens = 7;
  const auto k = counting<float>(tokens * heads * dim);
  auto v = k;
  for (float& x : v) x = -x;
  const auto allocator = std::make_shared<BlockAllocator>(8);
  auto contiguous = KvCache<CudaBackend>::contiguous(10, heads, dim);
  auto paged = KvCache<CudaBackend>::paged(8, heads, dim, 4, 4, allocator);
  auto shared = paged.share();
  for (auto* cache : {&contiguous, &paged, &shared}) {
    const auto half = std::size_t{3} * heads * dim;
    cache->append(std::span<const float>(k).first(half), std::span<const float>(v).first(half));
    cache->append(std::span<const float>(k).subspan(half), std::span<const float>(v).subspan(half));
  }
  for (const auto* cache : {&contiguous, &paged, &shared}) {
    std::vector<float> dense_k(k.size()), dense_v(v.size());
    cache->to_dense(std::span(dense_k), std::span(dense_v));
    EXPECT_EQ(dense_k, k);
    EXPECT_EQ(dense_v, v);
  }
  EXPECT_EQ(all(*shared.context_lens()), Ints{7});
  EXPECT_EQ(all(*shared.block_table()), (Ints{2, 3, -1, -1}));
}

}  // namespace
