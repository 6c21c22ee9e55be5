// Every public constructor and factory survives each of its allocations failing, with nothing
// leaked.

#include <gtest/gtest.h>

#include <memory>
#include <new>
#include <vector>

#include "out_of_memory.hpp"
#include "pagedkv/pagedkv.hpp"

namespace {

using namespace pagedkv;
using pagedkv_test::expect_survives_out_of_memory;
using Cache = KvCache<CpuBackend>;

constexpr SsmStateSpec kSpec{2, 1, 2, 3, 2, 3, DType::float32};

TEST(OutOfMemory, BlockAllocator) {
  expect_survives_out_of_memory([] { return BlockAllocator(8); });
}

TEST(OutOfMemory, BlockPool) {
  expect_survives_out_of_memory([] { return BlockPool(2, 4, 1, 2, 8); });
}

TEST(OutOfMemory, BlockTable) {
  expect_survives_out_of_memory([] { return BlockTable(3, 16); });
}

TEST(OutOfMemory, CopyOfABlockTable) {
  BlockTable table(3, 16);
  for (std::size_t layer = 0; layer < 3; ++layer) table.append_block(layer, 1);
  expect_survives_out_of_memory([&] { return BlockTable(table); });
}

TEST(OutOfMemory, PagedSeqState) {
  expect_survives_out_of_memory([] { return PagedSeqState<CpuBackend>(16, 8); });
}

TEST(OutOfMemory, ContiguousKvCache) {
  expect_survives_out_of_memory([] { return Cache::contiguous(8, 2, 4); });
}

TEST(OutOfMemory, PagedKvCacheLayout) {
  auto alloc = std::make_shared<BlockAllocator>(8);
  expect_survives_out_of_memory([&] { return Cache::paged(8, 2, 4, 16, 8, alloc); });
  EXPECT_EQ(alloc.use_count(), 1);
}

TEST(OutOfMemory, SharingOfAKvCache) {
  auto alloc = std::make_shared<BlockAllocator>(8);
  const auto cache = Cache::paged(8, 2, 4, 16, 8, alloc);
  expect_survives_out_of_memory([&] { return cache.share(); });
  EXPECT_EQ(alloc.use_count(), 2);
}

TEST(OutOfMemory, PagedKvCache) {
  expect_survives_out_of_memory([] { return PagedKvCache(64, 4); });
}

TEST(OutOfMemory, CopyOfAPagedKvCache) {
  PagedKvCache cache(64, 4);
  cache.append(std::vector<double>(4));
  expect_survives_out_of_memory([&] { return PagedKvCache(cache); });
}

TEST(OutOfMemory, AsTensorOfAPagedKvCache) {
  PagedKvCache cache(64, 4);
  cache.append(std::vector<double>(4));
  expect_survives_out_of_memory([&] { return cache.as_tensor(); });
}

TEST(OutOfMemory, KvCachePool) {
  expect_survives_out_of_memory([] { return KvCachePool(16, 4); });
}

TEST(OutOfMemory, SsmStatePool) {
  expect_survives_out_of_memory([] { return SsmStatePool(4, kSpec); });
}

TEST(OutOfMemory, SequencePoolOfPages) {
  expect_survives_out_of_memory([] { return SequencePool::kv(16, 4); });
}

TEST(OutOfMemory, SequencePoolOfSlots) {
  expect_survives_out_of_memory([] { return SequencePool::ssm(4, kSpec); });
}

TEST(OutOfMemory, SsmSnapshot) {
  expect_survives_out_of_memory([] { return SsmSnapshot(kSpec); });
}

TEST(OutOfMemory, SnapshotOfASlot) {
  SsmStatePool pool(1, kSpec);
  const auto slot = *pool.slot(pool.alloc(1));
  expect_survives_out_of_memory([&] { return slot.snapshot(); });
}

TEST(OutOfMemory, SnapshotToBytesAndBack) {
  const SsmSnapshot snapshot(kSpec);
  expect_survives_out_of_memory([&] { return snapshot.to_bytes(); });
  const auto bytes = snapshot.to_bytes();
  expect_survives_out_of_memory([&] { return SsmSnapshot::from_bytes(bytes); });
  expect_survives_out_of_memory([&] { return SsmSnapshot(snapshot); });
}

TEST(OutOfMemory, CpuBuffer) {
  expect_survives_out_of_memory([] { return cpu::Buffer(DType::float16, 8); });
}

TEST(OutOfMemory, IsaFound) {
  expect_survives_out_of_memory([] { return cpu::isa_found(); });
}

TEST(OutOfMemory, SizesThatNoMachineHasAreABadAlloc) {
  const std::size_t huge = detail::kMaxSize / 16;
  EXPECT_THROW(detail::Storage{detail::kMaxSize}, std::bad_alloc);
  EXPECT_THROW(detail::Storage{detail::kMaxSize - 63}, std::bad_alloc);
  EXPECT_THROW(BlockPool(1, huge, 1, 1, 1), std::bad_alloc);
  EXPECT_THROW(BlockTable(detail::kMaxSize / sizeof(std::vector<BlockId>), 1), std::bad_alloc);
  EXPECT_THROW((PagedSeqState<CpuBackend>(1, huge)), std::bad_alloc);
  EXPECT_THROW((void)Cache::contiguous(huge, 1, 1), std::bad_alloc);
  EXPECT_THROW(PagedKvCache(1, huge / 16), std::bad_alloc);
  EXPECT_THROW(KvCachePool(huge, 1), std::bad_alloc);
  EXPECT_THROW(SsmStatePool(1, {1, 1, 1, huge, huge, 2, DType::float32}), std::bad_alloc);
  EXPECT_THROW(SsmSnapshot({1, 1, 1, huge, huge, 2, DType::float32}), std::bad_alloc);
}

}  // namespace
