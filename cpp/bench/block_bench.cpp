// Handing out and giving back of ids, checked, against a bare stack of ids that checks nothing.

#include <algorithm>
#include <cstddef>
#include <memory>
#include <numeric>
#include <random>
#include <span>
#include <vector>

#include "in_turns.hpp"
#include "pagedkv/core/block_allocator.hpp"
#include "pagedkv/core/block_pool.hpp"

namespace pagedkv_bench {
namespace {

using pagedkv::BlockAllocator;
using pagedkv::BlockId;
using pagedkv::BlockPool;

constexpr std::size_t kPairs = 100'000;
constexpr std::size_t kCapacity = 4096;

/// What every free list must do at least.
class BareStack {
 public:
  explicit BareStack(std::size_t capacity) : ids_(new BlockId[capacity]), top_(capacity) {
    std::iota(ids_.get(), ids_.get() + capacity, BlockId{0});
  }
  BlockId allocate() { return ids_[--top_]; }
  void free(BlockId id) { ids_[top_++] = id; }

 private:
  std::unique_ptr<BlockId[]> ids_;
  std::size_t top_;
};

/// One id taken and given back, `kPairs` times. The pool's state is in memory after each pair, as
/// it is in a program that does something in between.
template <class Pool, class Take>
void pairs(Pool& pool, Take take) {
  benchmark::DoNotOptimize(&pool);
  for (std::size_t i = 0; i < kPairs; ++i) {
    BlockId id = take(pool);
    benchmark::DoNotOptimize(id);
    pool.free(id);
    benchmark::ClobberMemory();
  }
}

constexpr auto take_id = [](auto& pool) { return pool.allocate(); };
constexpr auto take_page = [](auto& pool) { return *pool.allocate(); };

/// A freed id must be refused, or the pair was not checked.
template <class Pool>
void require_checked(Pool& pool, BlockId id) {
  pool.free(id);
  bool refused = false;
  try {
    pool.free(id);
  } catch (const pagedkv::InvalidSlotError&) {
    refused = true;
  }
  require(refused && pool.free_count() == kCapacity, "an id was freed twice");
}

void allocator_pair(benchmark::State& state) {
  BareStack bare(kCapacity);
  BlockAllocator alloc(kCapacity);
  require_checked(alloc, alloc.allocate());
  in_turns(state, kPairs, [&] { pairs(bare, take_id); }, [&] { pairs(alloc, take_id); });
  require(alloc.free_count() == kCapacity, "ids were lost");
}

void pool_pair(benchmark::State& state) {
  BareStack bare(kCapacity);
  BlockPool pool(kCapacity, 1, 1, 1, 1);
  require_checked(pool, pool.allocate().value());
  in_turns(state, kPairs, [&] { pairs(bare, take_id); }, [&] { pairs(pool, take_page); });
  require(pool.free_count() == kCapacity, "pages were lost");
}

/// 4,096 ids taken, then given back in random order, as sequences end.
void allocator_shuffled(benchmark::State& state) {
  std::vector<std::size_t> order(kCapacity);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::shuffle(order, std::mt19937{std::random_device{}()});
  std::vector<BlockId> ids(kCapacity);
  BareStack bare(kCapacity);
  BlockAllocator alloc(kCapacity);
  const auto rounds = [&](auto& pool) {
    for (int round = 0; round < 16; ++round) {
      for (BlockId& id : ids) id = pool.allocate();
      for (const std::size_t i : order) pool.free(ids[i]);
      benchmark::ClobberMemory();
    }
  };
  in_turns(state, 16 * kCapacity, [&] { rounds(bare); }, [&] { rounds(alloc); });
  require(alloc.free_count() == kCapacity && alloc.peak_in_use() == kCapacity, "ids were lost");
}

/// 1,000 ids in one call, and back in one call.
void allocator_thousand(benchmark::State& state) {
  constexpr std::size_t rounds = 100;
  std::vector<BlockId> ids(1000);
  BareStack bare(kCapacity);
  BlockAllocator alloc(kCapacity);
  alloc.allocate_n(ids);
  auto sorted = ids;
  std::ranges::sort(sorted);
  require(std::ranges::adjacent_find(sorted) == sorted.end(), "an id was handed out twice");
  alloc.free(ids);
  in_turns(
      state, rounds,
      [&] {
        for (std::size_t round = 0; round < rounds; ++round) {
          for (BlockId& id : ids) id = bare.allocate();
          benchmark::ClobberMemory();
          for (const BlockId id : ids) bare.free(id);
          benchmark::ClobberMemory();
        }
      },
      [&] {
        for (std::size_t round = 0; round < rounds; ++round) {
          alloc.allocate_n(ids);
          benchmark::ClobberMemory();
          alloc.free(std::span<const BlockId>(ids));
          benchmark::ClobberMemory();
        }
      });
  require(alloc.free_count() == kCapacity, "ids were lost");
}

[[maybe_unused]] const bool registered = [] {
  turns("BlockAllocator.allocate+free", allocator_pair);
  turns("BlockPool.allocate+free", pool_pair);
  turns("BlockAllocator.allocate+free/shuffled", allocator_shuffled);
  turns("BlockAllocator.allocate_n+free", allocator_thousand);
  return true;
}();

}  // namespace
}  // namespace pagedkv_bench
