// What every type that hands out ids promises, whatever lies behind the ids: one suite for all.

#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "pagedkv/core/block_allocator.hpp"
#include "pagedkv/core/block_pool.hpp"
#include "pagedkv/core/kv_cache_pool.hpp"
#include "pagedkv/core/sequence_pool.hpp"
#include "pagedkv/core/ssm_state_pool.hpp"

namespace {

using namespace pagedkv;

constexpr SsmStateSpec kSpec{1, 1, 1, 1, 1, 2, DType::float32};

// One way to speak to each of them: take an id or nothing, give it back, count.

struct Allocator {
  explicit Allocator(std::size_t capacity) : pool(capacity) {}
  std::optional<std::uint64_t> take() {
    if (pool.free_count() == 0) {
      EXPECT_THROW((void)pool.allocate(), PoolExhaustedError);
      return std::nullopt;
    }
    return pool.allocate();
  }
  void give(std::uint64_t id) { pool.free(static_cast<BlockId>(id)); }
  [[nodiscard]] std::size_t free_count() const { return pool.free_count(); }
  [[nodiscard]] bool is_live(std::uint64_t id) const { return pool.is_live(id); }
  BlockAllocator pool;
};

struct TryAllocator : Allocator {
  using Allocator::Allocator;
  std::optional<std::uint64_t> take() { return pool.try_allocate(); }
};

struct ListAllocator : Allocator {
  using Allocator::Allocator;
  std::optional<std::uint64_t> take() {
    BlockId id = 0;
    try {
      pool.allocate_n({&id, 1});
    } catch (const PoolExhaustedError&) {
      return std::nullopt;
    }
    return id;
  }
  void give(std::uint64_t id) { pool.free(std::vector{static_cast<BlockId>(id)}); }
};

struct Pages {
  explicit Pages(std::size_t capacity) : pool(capacity, 2, 1, 1, 1) {}
  std::optional<std::uint64_t> take() { return pool.allocate(); }
  void give(std::uint64_t id) { pool.free(static_cast<BlockId>(id)); }
  [[nodiscard]] std::size_t free_count() const { return pool.free_count(); }
  [[nodiscard]] bool is_live(std::uint64_t id) const { return pool.is_live(id); }
  BlockPool pool;
};

/// `alloc()` of a pool, as an optional.
template <class Alloc>
std::optional<std::uint64_t> unless_exhausted(Alloc alloc) {
  try {
    return alloc();
  } catch (const PoolExhaustedError& error) {
    EXPECT_EQ(error.needed(), 1u);
    EXPECT_EQ(error.free(), 0u);
    return std::nullopt;
  }
}

struct Slabs {
  explicit Slabs(std::size_t capacity) : pool(4, capacity) {}
  std::optional<std::uint64_t> take() {
    return unless_exhausted([&] { return pool.alloc(); });
  }
  void give(std::uint64_t id) { pool.free(id); }
  [[nodiscard]] std::size_t free_count() const { return pool.free_count(); }
  [[nodiscard]] bool is_live(std::uint64_t id) const { return pool.is_live(id); }
  KvCachePool pool;
};

struct Slots {
  explicit Slots(std::size_t capacity) : pool(capacity, kSpec) {}
  std::optional<std::uint64_t> take() {
    return unless_exhausted([&] { return pool.alloc(7); });
  }
  void give(std::uint64_t id) { pool.release(id); }
  [[nodiscard]] std::size_t free_count() const { return pool.free_count(); }
  [[nodiscard]] bool is_live(std::uint64_t id) const { return pool.slot(id).has_value(); }
  SsmStatePool pool;
};

struct SequencePages {
  explicit SequencePages(std::size_t capacity) : pool(SequencePool::kv(4, capacity)) {}
  std::optional<std::uint64_t> take() {
    return unless_exhausted([&] { return pool.alloc_kv(); });
  }
  void give(std::uint64_t id) { pool.free_kv(id); }
  [[nodiscard]] const KvCachePool& pages() const { return std::get<KvCachePool>(pool.variant()); }
  [[nodiscard]] std::size_t free_count() const { return pages().free_count(); }
  [[nodiscard]] bool is_live(std::uint64_t id) const { return pages().is_live(id); }
  SequencePool pool;
};

struct SequenceSlots {
  explicit SequenceSlots(std::size_t capacity) : pool(SequencePool::ssm(capacity, kSpec)) {}
  std::optional<std::uint64_t> take() {
    return unless_exhausted([&] { return pool.alloc_ssm(7); });
  }
  void give(std::uint64_t id) { pool.release_ssm(id); }
  [[nodiscard]] std::size_t free_count() const {
    return std::get<SsmStatePool>(pool.variant()).free_count();
  }
  [[nodiscard]] bool is_live(std::uint64_t id) const { return pool.ssm_slot(id).has_value(); }
  SequencePool pool;
};

template <class Pool>
class PoolContract : public testing::Test {
 protected:
  /// Giving `id` back is an InvalidSlotError that names it, and changes nothing.
  static void expect_refused(Pool& pool, std::uint64_t id) {
    const auto free_before = pool.free_count();
    try {
      pool.give(id);
      ADD_FAILURE() << "id " << id << " was taken back";
    } catch (const InvalidSlotError& error) {
      EXPECT_EQ(error.slot(), id);
    }
    EXPECT_EQ(pool.free_count(), free_before);
  }
};
using Pools = testing::Types<Allocator, TryAllocator, ListAllocator, Pages, Slabs, Slots,
                             SequencePages, SequenceSlots>;
TYPED_TEST_SUITE(PoolContract, Pools);

TYPED_TEST(PoolContract, FreshIdsComeZeroFirst) {
  TypeParam pool(5);
  for (std::uint64_t id = 0; id < 5; ++id) EXPECT_EQ(pool.take(), id);
}

TYPED_TEST(PoolContract, ReuseIsLastInFirstOut) {
  TypeParam pool(6);
  for (int i = 0; i < 4; ++i) (void)pool.take();
  for (const std::uint64_t id : {2u, 0u, 3u}) pool.give(id);
  for (const std::uint64_t id : {3u, 0u, 2u, 4u, 5u}) EXPECT_EQ(pool.take(), id);
}

TYPED_TEST(PoolContract, AnExhaustedOneGivesNothingUntilAnIdComesBack) {
  TypeParam pool(2);
  (void)pool.take();
  (void)pool.take();
  EXPECT_FALSE(pool.take());
  EXPECT_EQ(pool.free_count(), 0u);
  pool.give(0);
  EXPECT_EQ(pool.take(), 0u);
  EXPECT_FALSE(pool.take());
}

TYPED_TEST(PoolContract, OfCapacityZeroIsAlwaysExhausted) {
  TypeParam pool(0);
  EXPECT_EQ(pool.free_count(), 0u);
  EXPECT_FALSE(pool.take());
  this->expect_refused(pool, 0);
}

TYPED_TEST(PoolContract, AnIdThatWasNeverHandedOutIsRefused) {
  TypeParam pool(3);
  (void)pool.take();
  this->expect_refused(pool, 1);
  this->expect_refused(pool, 2);
}

TYPED_TEST(PoolContract, AnIdThatCameBackAlreadyIsRefused) {
  TypeParam pool(3);
  (void)pool.take();
  (void)pool.take();
  pool.give(0);
  this->expect_refused(pool, 0);
  pool.give(1);
  this->expect_refused(pool, 1);
  EXPECT_EQ(pool.free_count(), 3u);
}

TYPED_TEST(PoolContract, AnIdOutOfRangeIsRefused) {
  TypeParam pool(3);
  while (pool.take()) {
  }
  this->expect_refused(pool, 3);
  this->expect_refused(pool, std::numeric_limits<std::uint32_t>::max());
}

TYPED_TEST(PoolContract, AnIdIsLiveWhileItIsOut) {
  TypeParam pool(2);
  EXPECT_FALSE(pool.is_live(0));
  (void)pool.take();
  EXPECT_TRUE(pool.is_live(0));
  EXPECT_FALSE(pool.is_live(1));
  pool.give(0);
  EXPECT_FALSE(pool.is_live(0));
  EXPECT_FALSE(pool.is_live(std::numeric_limits<std::uint64_t>::max()));
}

TYPED_TEST(PoolContract, MovesWithItsIds) {
  TypeParam from(3);
  (void)from.take();
  TypeParam to(std::move(from));
  EXPECT_TRUE(to.is_live(0));
  EXPECT_EQ(to.take(), 1u);
  // NOLINTBEGIN(bugprone-use-after-move): the one left behind hands out nothing
  EXPECT_EQ(from.free_count(), 0u);
  EXPECT_FALSE(from.is_live(0));
  EXPECT_FALSE(from.take());
  this->expect_refused(from, 0);
  // NOLINTEND(bugprone-use-after-move)
}

TYPED_TEST(PoolContract, AgreesWithAStackOfIdsOverRandomOperations) {
  for (unsigned seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    std::mt19937 random(seed);
    const std::size_t capacity = random() % 20;
    TypeParam pool(capacity);
    std::vector<std::uint64_t> stack;  // free ids, the next one at the end
    for (std::uint64_t id = capacity; id-- > 0;) stack.push_back(id);
    std::vector<bool> out(capacity);

    for (int step = 0; step < 300; ++step) {
      if (random() % 2 == 0) {
        const auto id = pool.take();
        ASSERT_EQ(id.has_value(), !stack.empty());
        if (!id) continue;
        ASSERT_EQ(*id, stack.back());
        stack.pop_back();
        out[*id] = true;
      } else {
        const std::uint64_t id = random() % (capacity + 2);
        if (id < capacity && out[id]) {
          pool.give(id);
          stack.push_back(id);
          out[id] = false;
        } else {
          this->expect_refused(pool, id);
        }
      }
      ASSERT_EQ(pool.free_count(), stack.size());
      for (std::uint64_t id = 0; id < capacity; ++id) ASSERT_EQ(pool.is_live(id), out[id]);
    }
  }
}

}  // namespace
