// SequencePool: pages or slots behind one type, and calls of the wrong kind.

#include "pagedkv/core/sequence_pool.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <type_traits>
#include <utility>
#include <variant>

#include "expect_error.hpp"

namespace {

using namespace pagedkv;
using pagedkv_test::expect_error;

constexpr SsmStateSpec kSpec{1, 1, 2, 2, 3, 4, DType::float32};

TEST(SequencePool, OfPagesHandsOutPages) {
  auto pool = SequencePool::kv(8, 2);
  EXPECT_TRUE(pool.is_kv_based());
  EXPECT_FALSE(pool.is_ssm());
  EXPECT_EQ(pool.alloc_kv(), 0u);
  EXPECT_EQ(pool.alloc_kv(), 1u);
  pool.free_kv(0);
  EXPECT_EQ(pool.alloc_kv(), 0u);
}

TEST(SequencePool, OfSlotsHandsOutSlots) {
  auto pool = SequencePool::ssm(2, kSpec);
  EXPECT_TRUE(pool.is_ssm());
  EXPECT_FALSE(pool.is_kv_based());
  EXPECT_EQ(pool.alloc_ssm(70), 0u);
  EXPECT_EQ(pool.alloc_ssm(71), 1u);
  pool.ssm_slot_mut(1)->advance(3);
  EXPECT_EQ(pool.ssm_slot(1)->position(), 3u);
  EXPECT_EQ(pool.ssm_slot(1)->request_id(), 71u);
  pool.release_ssm(1);
  EXPECT_FALSE(pool.ssm_slot(1));
}

TEST(SequencePool, ASlotIsReadOnlyOrForWriting) {
  using Read = decltype(std::declval<SequencePool&>().ssm_slot(0)->ssm_state());
  using Write = decltype(std::declval<SequencePool&>().ssm_slot_mut(0)->ssm_state());
  static_assert(std::is_same_v<Read, std::span<const std::byte>>);
  static_assert(std::is_same_v<Write, std::span<std::byte>>);
}

TEST(SequencePool, FullIsAPoolExhaustedError) {
  auto pages = SequencePool::kv(8, 1);
  (void)pages.alloc_kv();
  EXPECT_EQ(expect_error<PoolExhaustedError>([&] { (void)pages.alloc_kv(); }, "KvCachePool.alloc",
                                             "1 needed, 0 free", "as many free")
                .needed(),
            1u);
  auto slots = SequencePool::ssm(0, kSpec);
  EXPECT_THROW((void)slots.alloc_ssm(1), PoolExhaustedError);
}

TEST(SequencePool, AllocOfTheWrongKindIsAnErrorWithoutASlot) {
  auto pages = SequencePool::kv(8, 1);
  EXPECT_EQ(
      expect_error<InvalidSlotError>([&] { (void)pages.alloc_ssm(1); }, "SequencePool.alloc_ssm",
                                     "called on a KV pool", "an SSM pool")
          .slot(),
      18446744073709551615u);
  auto slots = SequencePool::ssm(1, kSpec);
  EXPECT_EQ(expect_error<InvalidSlotError>([&] { (void)slots.alloc_kv(); }, "SequencePool.alloc_kv",
                                           "called on an SSM pool", "a KV pool")
                .slot(),
            18446744073709551615u);
}

TEST(SequencePool, FreeOfTheWrongKindIsAnErrorWithTheSlotThatWasGiven) {
  auto pages = SequencePool::kv(8, 1);
  (void)pages.alloc_kv();
  EXPECT_EQ(
      expect_error<InvalidSlotError>([&] { pages.release_ssm(0); }, "SequencePool.release_ssm",
                                     "called on a KV pool", "an SSM pool")
          .slot(),
      0u);
  auto slots = SequencePool::ssm(1, kSpec);
  (void)slots.alloc_ssm(1);
  EXPECT_EQ(expect_error<InvalidSlotError>([&] { slots.free_kv(9); }, "SequencePool.free_kv",
                                           "called on an SSM pool", "a KV pool")
                .slot(),
            9u);
  EXPECT_TRUE(slots.ssm_slot(0)) << "nothing has changed";
}

TEST(SequencePool, SlotsOfTheWrongKindAreNothing) {
  auto pages = SequencePool::kv(8, 1);
  (void)pages.alloc_kv();
  EXPECT_FALSE(pages.ssm_slot(0));
  EXPECT_FALSE(pages.ssm_slot_mut(0));
}

TEST(SequencePool, FreeOfAnIdThatIsOutOfRangeOrFreeIsAnError) {
  auto pages = SequencePool::kv(8, 2);
  expect_error<InvalidSlotError>([&] { pages.free_kv(2); }, "KvCachePool.free",
                                 "page 2 is out of range", "less than 2");
  expect_error<InvalidSlotError>([&] { pages.free_kv(1); }, "KvCachePool.free",
                                 "page 1 is not live", "held");
  auto slots = SequencePool::ssm(2, kSpec);
  expect_error<InvalidSlotError>([&] { slots.release_ssm(2); }, "SsmStatePool.release",
                                 "slot 2 is out of range", "less than 2");
  expect_error<InvalidSlotError>([&] { slots.release_ssm(1); }, "SsmStatePool.release",
                                 "slot 1 is not live", "held");
}

TEST(SequencePool, ASlotThatIsNotLiveIsNothing) {
  auto pool = SequencePool::ssm(2, kSpec);
  (void)pool.alloc_ssm(1);
  pool.release_ssm(0);
  for (const std::size_t slot : {std::size_t{0}, std::size_t{1}, std::size_t{2},
                                 static_cast<std::size_t>(InvalidSlotError::kNoSlot)}) {
    EXPECT_FALSE(pool.ssm_slot(slot)) << slot;
    EXPECT_FALSE(pool.ssm_slot_mut(slot)) << slot;
  }
}

TEST(SequencePool, ShowsThePoolItself) {
  auto pool = SequencePool::kv(8, 2, DType::float16);
  EXPECT_EQ(std::get<KvCachePool>(pool.variant()).dtype(), DType::float16);
  auto slots = SequencePool::ssm(3, kSpec);
  const auto capacity = std::visit(
      [](const auto& inner) -> std::size_t {
        if constexpr (requires { inner.num_pages(); }) {
          return inner.num_pages();
        } else {
          return inner.capacity();
        }
      },
      std::as_const(slots).variant());
  EXPECT_EQ(capacity, 3u);
}

TEST(SequencePool, PassesOnWhatItsPoolRefuses) {
  EXPECT_THROW(SequencePool::kv(0, 1), ShapeError);
  auto spec = kSpec;
  spec.d_conv = 0;
  EXPECT_THROW(SequencePool::ssm(1, spec), ShapeError);
}

}  // namespace
