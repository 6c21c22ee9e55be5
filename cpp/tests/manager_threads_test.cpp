// One caller at a time: while a call runs, a second one from another thread gets an error and
// changes nothing.

#include <gtest/gtest.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <future>
#include <memory>
#include <span>
#include <thread>
#include <utility>

#include "expect_error.hpp"
#include "pagedkv/core/manager/kv_cache_manager.hpp"

namespace {

using namespace pagedkv;
using pagedkv_test::expect_error;

/// What a call that hashes meets half-way: it says that it is inside and waits to be let go on.
struct Gate {
  std::promise<void> inside;
  std::promise<void> go_on;
};

struct WaitingHash {
  explicit WaitingHash(detail::HashKey = {}) {}
  explicit WaitingHash(std::shared_ptr<Gate> the_gate) : gate(std::move(the_gate)) {}

  std::uint64_t operator()(std::uint64_t, std::span<const TokenId>, std::uint64_t) const {
    if (const auto meet = std::exchange(gate, nullptr)) {
      meet->inside.set_value();
      meet->go_on.get_future().wait();
    }
    return 0;
  }
  [[nodiscard]] std::uint64_t bytes(const void*, std::size_t) const { return 0; }

  mutable std::shared_ptr<Gate> gate;
};

constexpr std::array<SeqId, 1> kOne{1};
constexpr std::array<std::int32_t, 1> kCount{4};
constexpr std::array<TokenId, 4> kTokens{1, 2, 3, 4};

TEST(ManagerThreads, ASecondCallerGetsAnErrorWhileACallRuns) {
  const auto gate = std::make_shared<Gate>();
  ManagerOptions options;
  options.num_blocks = 8;
  options.block_size = 4;
  using Manager = BasicKVCacheManager<WaitingHash>;
  Manager m(options, WaitingHash(gate));
  m.add(1, kTokens);
  std::array<std::int32_t, 1> cached{};
  // A block of other tokens is there, so that the one that is committed must be hashed.
  constexpr std::array<SeqId, 1> kOther{7};
  m.add(7, std::array<TokenId, 4>{9, 9, 9, 9});
  m.acquire(kOther, cached);
  m.schedule(kOther, kCount);
  m.commit(kOther, kCount);
  m.free(kOther);
  m.acquire(kOne, cached);
  m.schedule(kOne, kCount);

  std::thread first([&] { m.commit(kOne, kCount); });
  gate->inside.get_future().wait();
  const auto refused = [](const char* where, auto call) {
    expect_error<Error>(call, where, "another thread", "one caller");
  };
  refused("KVCacheManager.add", [&] { m.add(2, kTokens); });
  refused("KVCacheManager.acquire", [&] { m.acquire(kOne, cached); });
  refused("KVCacheManager.fit", [&] { (void)m.fit(kOne, kCount); });
  refused("KVCacheManager.schedule", [&] { m.schedule(kOne, kCount); });
  refused("KVCacheManager.commit", [&] { m.commit(kOne, kCount); });
  refused("KVCacheManager.append", [&] { m.append(kOne, std::span(kTokens).first(1)); });
  refused("KVCacheManager.step", [&] { m.step(kOne, std::span(kTokens).first(1)); });
  refused("KVCacheManager.truncate", [&] { m.truncate(kOne, kCount, cached); });
  refused("KVCacheManager.fork", [&] { m.fork(1, 2); });
  refused("KVCacheManager.preempt", [&] { m.preempt(kOne); });
  refused("KVCacheManager.free", [&] { m.free(kOne); });
  refused("KVCacheManager.hold", [&] { (void)m.hold(1, 4); });
  refused("KVCacheManager.release", [&] { m.release(1); });
  refused("KVCacheManager.pin", [&] { m.pin(1); });
  refused("KVCacheManager.unpin", [&] { m.unpin(1); });
  refused("KVCacheManager.swap_out", [&] { m.swap_out(kOne); });
  refused("KVCacheManager.swap_in", [&] { m.swap_in(kOne); });
  refused("KVCacheManager.probe", [&] { (void)m.probe(kTokens); });
  refused("KVCacheManager.evict", [&] { m.evict(1); });
  refused("KVCacheManager.reset", [&] { m.reset(); });
  refused("KVCacheManager.compact", [&] { m.compact(); });
  refused("KVCacheManager.set_salt_limit", [&] { m.set_salt_limit("x", 1); });
  refused("KVCacheManager.num_tokens", [&] { (void)m.num_tokens(1); });
  refused("KVCacheManager.num_scheduled", [&] { (void)m.num_scheduled(1); });
  refused("KVCacheManager.num_committed", [&] { (void)m.num_committed(1); });
  refused("KVCacheManager.num_cached", [&] { (void)m.num_cached(1); });
  refused("KVCacheManager.block_ids", [&] { (void)m.block_ids(1); });
  refused("KVCacheManager.accept", [&] { (void)m.accept({}, {}); });
  refused("KVCacheManager.num_sequences", [&] { (void)m.num_sequences(); });
  refused("KVCacheManager.num_free_blocks", [&] { (void)m.num_free_blocks(); });
  refused("KVCacheManager.usage", [&] { (void)m.usage(); });
  refused("KVCacheManager.memory_bytes", [&] { (void)m.memory_bytes(); });
  refused("KVCacheManager.contains", [&] { (void)m.contains(1); });
  refused("KVCacheManager.stats", [&] { (void)m.stats(); });
  refused("KVCacheManager.salt_stats", [&] { (void)m.salt_stats(""); });
  refused("KVCacheManager.take_events", [&] { (void)m.take_events(); });
  refused("KVCacheManager.check", [&] { m.check(); });
  gate->go_on.set_value();
  first.join();

  EXPECT_EQ(m.num_committed(1), 4u);
  EXPECT_EQ(m.num_sequences(), 1u);
  EXPECT_EQ(m.stats().num_cached_blocks, 2u);
  m.check();
}

TEST(ManagerThreads, ARefusedCallLetsTheNextOneIn) {
  ManagerOptions options;
  options.num_blocks = 8;
  KVCacheManager m(options);
  for (int round = 0; round < 3; ++round) EXPECT_THROW(m.free(kOne), SequenceError);
  m.add(1, kTokens);
  EXPECT_EQ(m.num_tokens(1), 4u);
}

TEST(ManagerThreads, CallsThatTakeTurnsMayComeFromAnyThread) {
  ManagerOptions options;
  options.num_blocks = 8;
  KVCacheManager m(options);
  for (SeqId id = 1; id <= 4; ++id) std::thread([&] { m.add(id, kTokens); }).join();
  EXPECT_EQ(m.num_sequences(), 4u);
  m.check();
}

}  // namespace
