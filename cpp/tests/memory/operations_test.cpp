// Every operation that allocates, or that builds the message of an error, survives each of its
// allocations failing: std::bad_alloc, nothing leaked, nothing changed.

#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "out_of_memory.hpp"
#include "pagedkv/pagedkv.hpp"

namespace {

using namespace pagedkv;
using pagedkv_test::expect_unchanged_when_out_of_memory;
using Cache = KvCache<CpuBackend>;
using Ids = std::vector<BlockId>;

constexpr SsmStateSpec kSpec{2, 1, 2, 3, 2, 3, DType::float32};

/// `call` as one that ends in an `E`: what fails on the way is the building of its message.
template <class E, class Call>
auto refused(Call call) {
  return [call](auto& object) {
    try {
      call(object);
    } catch (const E&) {
      return;
    }
    FAIL() << "it was not refused";
  };
}

BlockTable table() {
  BlockTable made(2, 4);
  for (const BlockId id : {7u, 8u, 9u, 10u}) made.append_block(0, id);  // a power of 2: full
  return made;
}
BlockTable same(const BlockTable& object) { return object; }

TEST(OutOfMemory, AppendBlock) {
  expect_unchanged_when_out_of_memory(
      table, [](BlockTable& object) { object.append_block(0, 11); }, same);
  expect_unchanged_when_out_of_memory(
      table, [](BlockTable& object) { object.append_block(1, 11); }, same);
}

TEST(OutOfMemory, TruncateOfABlockTable) {
  expect_unchanged_when_out_of_memory(
      table, [](BlockTable& object) { (void)object.truncate(0, 5); }, same);
}

TEST(OutOfMemory, RefusalsOfABlockTable) {
  expect_unchanged_when_out_of_memory(
      table, refused<InvalidSlotError>([](BlockTable& object) { object.append_block(2, 1); }),
      same);
  expect_unchanged_when_out_of_memory(
      table, refused<ShapeError>([](BlockTable& object) { object.write_array({}); }), same);
}

BlockAllocator allocator() {
  BlockAllocator made(6);
  Ids ids(5);
  made.allocate_n(ids);
  made.free(3);
  return made;
}
/// Counts of each id, and what is free.
std::pair<std::size_t, std::vector<std::uint32_t>> counts(const BlockAllocator& object) {
  std::vector<std::uint32_t> held;
  for (BlockId id = 0; id < object.capacity(); ++id) held.push_back(object.ref_count(id));
  return {object.free_count(), held};
}

TEST(OutOfMemory, RefusalsOfABlockAllocator) {
  const Ids good_and_bad{0, 1, 1, 3};
  expect_unchanged_when_out_of_memory(
      allocator,
      refused<InvalidSlotError>([&](BlockAllocator& object) { object.free(good_and_bad); }),
      counts);
  expect_unchanged_when_out_of_memory(
      allocator,
      refused<InvalidSlotError>([&](BlockAllocator& object) { object.acquire(good_and_bad); }),
      counts);
  expect_unchanged_when_out_of_memory(
      allocator, refused<InvalidSlotError>([](BlockAllocator& object) { object.free(6); }), counts);
  Ids three(3);
  expect_unchanged_when_out_of_memory(
      allocator,
      refused<PoolExhaustedError>([&](BlockAllocator& object) { object.allocate_n(three); }),
      counts);
}

/// A paged cache that holds 5 tokens in blocks of 4, and its allocator of 3 ids.
struct OneCache {
  std::shared_ptr<BlockAllocator> alloc = std::make_shared<BlockAllocator>(3);
  Cache cache = Cache::paged(3, 1, 1, 4, 4, alloc);
  cpu::Context ctx;

  OneCache() { append(5); }
  void append(std::size_t n) {
    const std::vector<float> tokens(n, 1.5f);
    cache.append<float>(tokens, tokens);
  }
};
std::unique_ptr<OneCache> one_cache() { return std::make_unique<OneCache>(); }
auto held(const std::unique_ptr<OneCache>& object) {
  return std::tuple(
      object->cache.len(), object->alloc->in_use(),
      Ids(object->cache.paged_block_indices().begin(), object->cache.paged_block_indices().end()));
}

TEST(OutOfMemory, RefusalsOfAKvCache) {
  expect_unchanged_when_out_of_memory(
      one_cache, refused<PoolExhaustedError>([](auto& object) { object->append(10); }), held);
  expect_unchanged_when_out_of_memory(
      one_cache, refused<CapacityError>([](auto& object) { object->append(12); }), held);
  expect_unchanged_when_out_of_memory(one_cache, refused<ShapeError>([](auto& object) {
                                        object->cache.append(object->ctx, {},
                                                             std::vector<std::byte>(4));
                                      }),
                                      held);
}

TEST(OutOfMemory, AKvCacheThatTakesThePlaceOfAnother) {
  expect_unchanged_when_out_of_memory(
      one_cache, [](auto& object) { object->cache = object->cache.share(); }, held);
}

TEST(OutOfMemory, TheEndOfAKvCacheWhoseBlocksAreGoneDoesNotThrow) {
  // Its release builds an error message that nobody will see; that must not end the process.
  for (std::size_t n = 1; n < 20; ++n) {
    OneCache outer;
    std::optional<Cache> doomed = outer.cache.share();
    doomed->append<float>(std::vector<float>(1), std::vector<float>(1));
    outer.alloc->free(doomed->paged_block_indices());
    const pagedkv_test::FailingAllocation failing(n,
                                                  pagedkv_test::FailingAllocation::Then::fails_on);
    doomed.reset();
  }
}

struct OneState {
  BlockAllocator alloc{3};
  PagedSeqState<CpuBackend> state{4, 2};
  cpu::Context ctx;
  OneState() {
    state.ensure_capacity(ctx, alloc, 5);
    state.set_len(5);
  }
};
std::unique_ptr<OneState> one_state() { return std::make_unique<OneState>(); }

TEST(OutOfMemory, RefusalsOfAPagedSeqState) {
  const auto observe = [](const std::unique_ptr<OneState>& object) {
    return std::pair(Ids(object->state.blocks().begin(), object->state.blocks().end()),
                     object->state.len());
  };
  const auto grow_too_far = refused<CapacityError>(
      [](auto& object) { object->state.ensure_capacity(object->ctx, object->alloc, 9); });
  expect_unchanged_when_out_of_memory(one_state, grow_too_far, observe);
  // An allocator that does not hold the blocks; it has room for its ids from here on.
  const auto release_to_a_stranger = refused<InvalidSlotError>([](auto& object) {
    BlockAllocator stranger(0);
    object->state.release(stranger);
  });
  expect_unchanged_when_out_of_memory(one_state, release_to_a_stranger, observe);
}

PagedKvCache tokens() {
  PagedKvCache made(40, 2);
  made.append_tensor(std::vector<double>(2 * 20, 2.5));
  return made;
}

TEST(OutOfMemory, OperationsOfAPagedKvCache) {
  const auto observe = [](const PagedKvCache& object) {
    return std::pair(object.as_tensor(), object.block_table());
  };
  const std::vector<double> many(2 * 30);
  expect_unchanged_when_out_of_memory(
      tokens, refused<CapacityError>([&](PagedKvCache& object) { object.append_tensor(many); }),
      observe);
  expect_unchanged_when_out_of_memory(
      tokens, refused<ShapeError>([&](PagedKvCache& object) { object.append(many); }), observe);
  const PagedKvCache other(16, 4);
  expect_unchanged_when_out_of_memory(
      tokens, [&](PagedKvCache& object) { object = other; }, observe);
  const Ids order{2, 0, 1};
  expect_unchanged_when_out_of_memory([] { return PagedKvCache(40, 2); },
                                      [&](PagedKvCache& object) { object.permute_blocks(order); },
                                      observe);
}

TEST(OutOfMemory, OperationsOfAnSsmStatePool) {
  const auto pool = [] {
    auto made = std::make_unique<SsmStatePool>(1, kSpec);
    (void)made->alloc(5);
    return made;
  };
  const auto observe = [](const std::unique_ptr<SsmStatePool>& object) {
    return std::pair(object->free_count(), object->slot(0)->snapshot());
  };
  using Pool = std::unique_ptr<SsmStatePool>;
  expect_unchanged_when_out_of_memory(
      pool, refused<PoolExhaustedError>([](Pool& object) { (void)object->alloc(6); }), observe);
  expect_unchanged_when_out_of_memory(
      pool, refused<InvalidSlotError>([](Pool& object) { object->release(1); }), observe);
  auto other = kSpec;
  other.d_state = 4;
  const SsmSnapshot snapshot(other);
  expect_unchanged_when_out_of_memory(
      pool, refused<ShapeError>([&](Pool& object) { object->slot(0)->restore(snapshot); }),
      observe);
}

}  // namespace
