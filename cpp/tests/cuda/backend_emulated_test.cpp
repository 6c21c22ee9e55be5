// What the emulation can tell of CudaBackend and a device cannot: each allocation and each byte
// that is copied.

#include <gtest/gtest.h>

#include <cstddef>
#include <utility>

#include "cpp/tests/emulation/cuda/cuda_runtime_api.h"
#include "cuda/backend.hpp"
#include "pagedkv/core/paged_seq_state.hpp"

namespace {

using namespace pagedkv;

TEST(CudaBackendEmulated, GivesItsBuffersBack) {
  auto& allocations = simt::Allocations::all();
  const std::size_t before = allocations.count();
  {
    auto buffer = CudaBackend::allocate({}, DType::float16, 5);
    const auto moved = std::move(buffer);
    auto other = CudaBackend::allocate({}, DType::float16, 5);
    EXPECT_EQ(allocations.count(), before + 2);
    other = CudaBackend::allocate({}, DType::float16, 6);
    EXPECT_EQ(allocations.count(), before + 2);
  }
  EXPECT_EQ(allocations.count(), before);
}

TEST(CudaBackendEmulated, ASequencesTableIsWrittenOnlyWhereItChanged) {
  cuda::Stream stream;
  BlockAllocator blocks(16);
  PagedSeqState<CudaBackend> state(4, 6);
  const auto written = [&](auto&& work) {
    const std::size_t before = simt::copied_bytes();
    work();
    return simt::copied_bytes() - before;
  };
  EXPECT_EQ(written([&] { state.ensure_capacity(stream, blocks, 8); }), 8u);
  EXPECT_EQ(written([&] { state.ensure_capacity(stream, blocks, 20); }), 12u);
  EXPECT_EQ(written([&] { state.ensure_capacity(stream, blocks, 20); }), 0u);
  state.set_len(17);
  EXPECT_EQ(written([&] { state.sync_context_len(stream); }), 4u);
  EXPECT_EQ(written([&] { state.sync_context_len(stream); }), 0u);
}

}  // namespace
