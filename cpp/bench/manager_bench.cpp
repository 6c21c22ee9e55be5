// What an engine asks of the manager once a step or once a request, against the least work on bare
// arrays that leaves the same numbers behind.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <numeric>
#include <random>
#include <span>
#include <vector>

#include "in_turns.hpp"
#include "pagedkv/core/manager/kv_cache_manager.hpp"

namespace pagedkv_bench {
namespace {

using pagedkv::Batch;
using pagedkv::BlockId;
using pagedkv::EvictionKind;
using pagedkv::KVCacheManager;
using pagedkv::ManagerOptions;
using pagedkv::SeqId;
using pagedkv::TokenId;

constexpr std::size_t kBlockSize = 16;
constexpr std::size_t kSeqs = 256;
constexpr std::size_t kPrompt = 1024;
constexpr std::size_t kSteps = 256;
constexpr std::size_t kProbed = 100'000;
constexpr std::size_t kSmallPool = 10'000;
constexpr std::size_t kLargePool = 1'000'000;

std::vector<TokenId> random_tokens(std::size_t count) {
  static std::mt19937_64 random{std::random_device{}()};
  std::vector<TokenId> tokens(count);
  for (TokenId& token : tokens) token = static_cast<TokenId>(random() % 128'000);
  return tokens;
}

/// One prompt after the other. No two begin alike, so that none reuses a part of another's block.
std::vector<TokenId> random_prompts(std::size_t count, std::size_t length) {
  static TokenId first = 0;
  std::vector<TokenId> tokens = random_tokens(count * length);
  for (std::size_t i = 0; i < count; ++i) tokens[i * length] = first++;
  return tokens;
}

ManagerOptions pool_of(std::size_t num_blocks, EvictionKind eviction = EvictionKind::lru) {
  ManagerOptions options;
  options.num_blocks = num_blocks;
  options.block_size = kBlockSize;
  options.eviction = eviction;
  return options;
}

/// A manager, and sequences 0, 1, ... of prompts of equal length for which it has just room.
struct Sequences {
  Sequences(std::size_t count, std::size_t tokens_each, std::size_t room)
      : manager(pool_of(count * ((room + kBlockSize - 1) / kBlockSize))),
        batch(manager.new_batch(count, count * tokens_each, (room + kBlockSize - 1) / kBlockSize)),
        ids(count),
        tokens(random_prompts(count, tokens_each)),
        length(tokens_each) {
    std::iota(ids.begin(), ids.end(), SeqId{0});
  }

  [[nodiscard]] std::span<const TokenId> prompt(std::size_t i) const {
    return std::span(tokens).subspan(i * length, length);
  }

  void admit(std::size_t i) {
    const std::span<const SeqId> id(&ids[i], 1);
    const auto count = static_cast<std::int32_t>(length);
    std::int32_t cached = 0;
    manager.add(ids[i], prompt(i));
    manager.acquire(id, {&cached, 1});
    manager.schedule(id, {&count, 1}, 0, &batch);
    manager.commit(id, {&count, 1});
  }
  void admit_each() {
    for (std::size_t i = 0; i < ids.size(); ++i) admit(i);
  }
  void free_each() {
    for (const SeqId& id : ids) manager.free({&id, 1});
  }
  void forget() {
    if (manager.num_sequences() != 0) manager.free(ids);
    manager.reset();
  }
  /// Whether every prompt is in the index, but for the token that always is computed.
  [[nodiscard]] bool all_found() {
    for (std::size_t i = 0; i < ids.size(); ++i) {
      if (manager.probe(prompt(i)) != length - 1) return false;
    }
    return true;
  }

  KVCacheManager manager;
  Batch batch;
  std::vector<SeqId> ids;
  std::vector<TokenId> tokens;
  std::size_t length;
};

void step(benchmark::State& state) {
  Sequences sequences(kSeqs, kPrompt, kPrompt + kSteps + 1);
  const std::vector<TokenId> outputs = random_tokens(kSteps * kSeqs);
  const std::vector<std::int32_t> ones(kSeqs, 1);
  const auto begin = [&] {
    sequences.admit_each();
    sequences.manager.schedule(sequences.ids, ones, 0, &sequences.batch);
  };
  begin();
  std::vector<TokenId> known(kSeqs * (kPrompt + kSteps));
  std::vector<std::int32_t> lengths(kSeqs, 1024), positions(kSeqs), pages(kSeqs);
  std::vector<std::int64_t> slots(kSeqs);
  in_turns(
      state, kSteps,
      [&] {
        for (std::size_t s = 0; s < kSteps; ++s) {
          for (std::size_t i = 0; i < kSeqs; ++i) {
            known[i * (kPrompt + kSteps) + kPrompt + s] = outputs[s * kSeqs + i];
            ++lengths[i], ++positions[i], ++pages[i], ++slots[i];
          }
          benchmark::ClobberMemory();
        }
      },
      [&] {
        for (std::size_t s = 0; s < kSteps; ++s) {
          sequences.manager.step(sequences.ids, std::span(outputs).subspan(s * kSeqs, kSeqs),
                                 &sequences.batch);
        }
      },
      [&] {
        const auto& lens = sequences.batch.seq_lens;
        require(std::all_of(lens.begin(), lens.end(),
                            [](std::int32_t n) { return n == kPrompt + kSteps + 1; }),
                "sequences have other lengths");
        require(sequences.all_found(), "a prompt was lost");
        sequences.forget();
        begin();
      });
}

void probe(benchmark::State& state) {
  constexpr std::size_t rounds = 10;
  Sequences sequences(1, kProbed + 1, kProbed + 1);
  sequences.admit_each();
  const std::vector<TokenId> copy = sequences.tokens;
  require(sequences.all_found(), "a prefix is not found");
  auto other = sequences.tokens;
  other[kProbed / 2] ^= 1;
  require(sequences.manager.probe(other) == kProbed / 2, "a token was not compared");
  in_turns(
      state, rounds,
      [&] {
        for (std::size_t i = 0; i < rounds; ++i) {
          benchmark::DoNotOptimize(std::ranges::equal(sequences.tokens, copy));
          benchmark::ClobberMemory();
        }
      },
      [&] {
        for (std::size_t i = 0; i < rounds; ++i) {
          benchmark::DoNotOptimize(sequences.manager.probe(sequences.tokens));
          benchmark::ClobberMemory();
        }
      });
}

void admit(benchmark::State& state) {
  Sequences sequences(kSeqs, kPrompt, kPrompt);
  std::vector<TokenId> tokens(kPrompt);
  std::vector<std::int64_t> slots(kPrompt);
  in_turns(
      state, kSeqs,
      [&] {
        for (std::size_t i = 0; i < kSeqs; ++i) {
          std::ranges::copy(sequences.prompt(i), tokens.begin());
          std::iota(slots.begin(), slots.end(), static_cast<std::int64_t>(i * kPrompt));
          benchmark::ClobberMemory();
        }
      },
      [&] { sequences.admit_each(); },
      [&] {
        require(sequences.manager.num_free_blocks() == 0, "blocks were not taken");
        require(sequences.manager.stats().reuse.hit_tokens == 0, "an admission was not cold");
        require(sequences.all_found(), "a prompt is not found");
        sequences.forget();
      });
}

void free_80(benchmark::State& state) {
  constexpr std::size_t blocks = 80;
  Sequences sequences(kSeqs, blocks * kBlockSize, blocks * kBlockSize);
  sequences.admit_each();
  std::vector<BlockId> ids(blocks);
  std::vector<BlockId> stack(kSeqs * blocks);
  in_turns(
      state, kSeqs,
      [&] {
        for (std::size_t i = 0; i < kSeqs; ++i) {
          std::ranges::reverse_copy(ids, stack.begin() + static_cast<std::ptrdiff_t>(i * blocks));
          benchmark::ClobberMemory();
        }
      },
      [&] { sequences.free_each(); },
      [&] {
        require(sequences.manager.num_free_blocks() == kSeqs * blocks, "blocks are still held");
        require(sequences.all_found(), "a freed prompt is not found");
        sequences.forget();
        sequences.admit_each();
      });
}

/// Every block cached and evictable: prompts of 64 blocks, given back in random order.
class FullPool {
 public:
  FullPool(std::size_t num_blocks, EvictionKind eviction)
      : manager_(pool_of(num_blocks, eviction)), batch_(manager_.new_batch(1, kPrompt, 64)) {
    fill();
  }
  void fill() {
    const auto stats = manager_.stats();
    std::vector<SeqId> ids((stats.num_blocks - stats.num_cached_blocks) * kBlockSize / kPrompt);
    std::iota(ids.begin(), ids.end(), next_id_);
    next_id_ += ids.size();
    const auto count = static_cast<std::int32_t>(kPrompt);
    for (const SeqId& id : ids) {
      std::int32_t cached = 0;
      manager_.add(id, random_prompts(1, kPrompt));
      manager_.acquire({&id, 1}, {&cached, 1});
      manager_.schedule({&id, 1}, {&count, 1}, 0, &batch_);
      manager_.commit({&id, 1}, {&count, 1});
    }
    std::ranges::shuffle(ids, std::mt19937_64{std::random_device{}()});
    manager_.free(ids);
    cached_ = manager_.stats().num_cached_blocks;
  }
  void evict_each(std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) {
      benchmark::DoNotOptimize(manager_.evict(1));
      benchmark::ClobberMemory();
    }
  }
  void refill(std::size_t evicted) {
    require(cached_ - manager_.stats().num_cached_blocks == evicted, "another number was evicted");
    fill();
  }

 private:
  KVCacheManager manager_;
  Batch batch_;
  SeqId next_id_ = 0;
  std::size_t cached_ = 0;
};

template <EvictionKind eviction>
void evict(benchmark::State& state) {
  constexpr std::size_t count = kSmallPool / 2;
  FullPool small(kSmallPool, eviction);
  FullPool large(kLargePool, eviction);
  in_turns(
      state, count, [&] { small.evict_each(count); }, [&] { large.evict_each(count); },
      [&] {
        small.refill(count);
        large.refill(count);
      });
}

[[maybe_unused]] const bool registered = [] {
  turns("KVCacheManager.step", step);
  turns("KVCacheManager.probe", probe);
  turns("KVCacheManager.admit", admit);
  turns("KVCacheManager.free", free_80);
  turns("KVCacheManager.evict/lru", evict<EvictionKind::lru>);
  turns("KVCacheManager.evict/lfu", evict<EvictionKind::lfu>);
  turns("KVCacheManager.evict/fifo", evict<EvictionKind::fifo>);
  turns("KVCacheManager.evict/s3fifo", evict<EvictionKind::s3fifo>);
  turns("KVCacheManager.evict/lifetable", evict<EvictionKind::lifetable>);
  return true;
}();

}  // namespace
}  // namespace pagedkv_bench
