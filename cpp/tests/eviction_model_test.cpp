// Every eviction policy does what its plain model does, whatever is asked of it in which order.

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <numeric>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "eviction_models.hpp"
#include "pagedkv/core/eviction/eviction_queue.hpp"

namespace {

using namespace pagedkv;

constexpr EvictionKind kPolicies[] = {EvictionKind::lru, EvictionKind::lfu, EvictionKind::fifo,
                                      EvictionKind::s3fifo, EvictionKind::lifetable};

class EvictionAgainstModel : public testing::TestWithParam<EvictionKind> {};

/// A queue and its model under the same calls.
class Pair {
 public:
  explicit Pair(EvictionKind kind, std::size_t capacity, std::size_t num_levels = 1)
      : queue_(kind, capacity, num_levels), model_(pagedkv_test::make_model(kind, capacity)) {}

  void insert(BlockId b, std::uint32_t key, std::uint32_t depth, std::uint8_t level = 0) {
    queue_.insert(b, key, depth, level);
    model_->insert(b, key, depth, level);
  }
  void change_level(BlockId b, std::uint8_t to) {
    queue_.change_level(b, to);
    model_->change_level(b, to);
    EXPECT_EQ(queue_.level(b), to);
  }
  void hit(BlockId b) {
    queue_.hit(b);
    model_->hit(b);
  }
  void acquire(BlockId b) {
    queue_.acquire(b);
    model_->acquire(b);
  }
  void release(BlockId b, bool leaf) {
    queue_.release(b, leaf);
    model_->release(b, leaf);
  }
  void remove(BlockId b) {
    queue_.remove(b);
    model_->remove(b);
  }
  void supersede(BlockId b) { EXPECT_EQ(queue_.supersede(b), model_->supersede(b)); }
  void reconsider(BlockId b) {
    queue_.reconsider(b);
    model_->reconsider(b);
  }
  template <class CanGo>
  std::optional<BlockId> victim(CanGo can_go) {
    const auto victim = queue_.victim(can_go);
    EXPECT_EQ(victim, model_->victim(can_go));
    return victim;
  }
  std::size_t evictable_count() {
    EXPECT_EQ(queue_.evictable_count(), model_->evictable_count());
    return queue_.evictable_count();
  }

 private:
  EvictionQueue queue_;
  std::unique_ptr<pagedkv_test::EvictionModel> model_;
};

/// Random calls, each legal for the state that the block is in.
class Walk {
 public:
  Walk(EvictionKind kind, std::size_t capacity, std::uint8_t num_levels, unsigned seed)
      : pair_(kind, capacity, num_levels),
        num_levels_(num_levels),
        states_(capacity, State::absent),
        num_keys_(static_cast<std::uint32_t>(capacity * 4)),
        random_(seed) {}

  void step() {
    const auto b = static_cast<BlockId>(random_() % states_.size());
    switch (random_() % 16) {
      case 0: remove(b); break;
      case 1:
        if (states_[b] != State::absent) blocked_.insert(b);
        break;
      case 2:
      case 3: unblock(); break;
      case 4: pair_.supersede(b); break;
      case 5:
      case 6:
      case 7:
      case 8: evict(); break;
      default: use(b);
    }
    pair_.evictable_count();
  }

  /// Evicts all, in the same order.
  void drain() {
    for (BlockId b = 0; b < states_.size(); ++b) {
      if (states_[b] == State::referenced) use(b);
    }
    while (!blocked_.empty()) unblock();
    while (evict()) {
    }
    EXPECT_EQ(pair_.evictable_count(), 0u);
  }

 private:
  enum class State { absent, referenced, evictable };

  std::uint8_t any_level() { return static_cast<std::uint8_t>(random_() % num_levels_); }

  void use(BlockId b) {
    switch (states_[b]) {
      case State::absent: {
        const auto key = static_cast<std::uint32_t>(random_() % num_keys_);
        pair_.insert(b, key, static_cast<std::uint32_t>(random_() % 100), any_level());
        states_[b] = State::referenced;
        break;
      }
      case State::referenced:
        if (random_() % 3 == 0) pair_.hit(b);
        if (random_() % 8 == 0) pair_.change_level(b, any_level());
        pair_.release(b, random_() % 4 == 0);
        states_[b] = State::evictable;
        break;
      case State::evictable:
        // A lease takes a block without a hit.
        if (random_() % 8 != 0) pair_.hit(b);
        pair_.acquire(b);
        states_[b] = State::referenced;
    }
  }
  void remove(BlockId b) {
    pair_.remove(b);
    states_[b] = State::absent;
    blocked_.erase(b);
  }
  void unblock() {
    if (blocked_.empty()) return;
    const BlockId b = *blocked_.begin();
    blocked_.erase(b);
    pair_.reconsider(b);
  }
  bool evict() {
    const auto victim = pair_.victim([&](BlockId b) { return !blocked_.contains(b); });
    if (!victim) return false;
    EXPECT_EQ(states_[*victim], State::evictable);
    EXPECT_FALSE(blocked_.contains(*victim));
    states_[*victim] = State::absent;
    return true;
  }

  Pair pair_;
  std::uint8_t num_levels_;
  std::vector<State> states_;
  std::set<BlockId> blocked_;  // in the index with others after them
  std::uint32_t num_keys_;
  std::mt19937 random_;
};

TEST_P(EvictionAgainstModel, ChoosesTheSameVictims) {
  for (const std::size_t capacity : {1, 2, 7, 40, 300}) {
    for (unsigned seed = 1; seed <= 6; ++seed) {
      const auto num_levels = static_cast<std::uint8_t>(seed % 2 == 0 ? 3 : 1);
      SCOPED_TRACE("capacity " + std::to_string(capacity) + ", seed " + std::to_string(seed));
      Walk walk(GetParam(), capacity, num_levels, seed);
      for (int i = 0; i < 4000 && !HasFailure(); ++i) walk.step();
      if (!HasFailure()) walk.drain();
      if (HasFailure()) return;
    }
  }
}

TEST_P(EvictionAgainstModel, ChoosesTheSameVictimsWhenChainsComeInTurnsAndDoNotFit) {
  constexpr std::uint32_t kLength = 5;
  constexpr std::uint32_t kChains = 50;
  constexpr std::size_t kCapacity = 200;
  Pair pair(GetParam(), kCapacity);
  std::map<std::uint32_t, BlockId> index;       // by chain * kLength + depth
  std::vector<std::uint32_t> owner(kCapacity);  // what a block holds
  std::vector<BlockId> free(kCapacity);
  std::iota(free.begin(), free.end(), 0);
  for (std::uint32_t turn = 0; turn < 60 * kChains && !HasFailure(); ++turn) {
    const std::uint32_t first = turn % kChains * kLength;
    std::vector<BlockId> chain;
    for (std::uint32_t depth = 0; depth < kLength; ++depth) {
      const auto found = index.find(first + depth);
      if (found != index.end()) {
        pair.hit(found->second);
        pair.acquire(found->second);
        chain.push_back(found->second);
        continue;
      }
      if (free.empty()) {
        const auto has_no_child = [&](BlockId b) {
          return owner[b] % kLength == kLength - 1 || !index.contains(owner[b] + 1);
        };
        const auto victim = pair.victim(has_no_child);
        ASSERT_TRUE(victim.has_value());
        index.erase(owner[*victim]);
        if (owner[*victim] % kLength != 0) pair.reconsider(index.at(owner[*victim] - 1));
        free.push_back(*victim);
      }
      const BlockId b = free.back();
      free.pop_back();
      owner[b] = first + depth;
      index[first + depth] = b;
      pair.insert(b, first + depth, depth);
      chain.push_back(b);
    }
    for (std::uint32_t depth = kLength; depth-- > 0;) {
      pair.release(chain[depth], depth == kLength - 1);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Policies, EvictionAgainstModel, testing::ValuesIn(kPolicies),
                         [](const auto& tested) {
                           return std::string(eviction_name(tested.param));
                         });

}  // namespace
