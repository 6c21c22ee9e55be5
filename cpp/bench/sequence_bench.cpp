// What an engine does once a step for each sequence: make sure of room, and give a slot back.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <random>
#include <utility>
#include <vector>

#include "../tests/recording_backend.hpp"
#include "in_turns.hpp"
#include "pagedkv/core/block_allocator.hpp"
#include "pagedkv/core/paged_seq_state.hpp"
#include "pagedkv/core/sequence_pool.hpp"

namespace pagedkv_bench {
namespace {

using pagedkv::BlockAllocator;
using pagedkv::PagedSeqState;
using pagedkv::SequencePool;
using pagedkv_test::RecordingBackend;

/// There is room already: against the division and the comparison that tell so.
void ensure_capacity(benchmark::State& state) {
  constexpr std::size_t calls = 100'000;
  pagedkv_test::Tape tape;
  auto ctx = RecordingBackend::context({&tape});
  BlockAllocator alloc(256);
  PagedSeqState<RecordingBackend> sequence(16, 64, {&tape});
  sequence.ensure_capacity(ctx, alloc, 1000);
  require(tape.device_writes() == 1 && sequence.blocks().size() == 63, "1,000 tokens, 63 blocks");
  tape.clear();
  std::size_t tokens = 1000;
  std::size_t block_size = 16;
  in_turns(
      state, calls,
      [&] {
        for (std::size_t i = 0; i < calls; ++i) {
          benchmark::DoNotOptimize(tokens);
          benchmark::DoNotOptimize(block_size);
          bool room = (tokens + block_size - 1) / block_size <= 63;
          benchmark::DoNotOptimize(room);
        }
      },
      [&] {
        benchmark::DoNotOptimize(&sequence);
        for (std::size_t i = 0; i < calls; ++i) {
          benchmark::DoNotOptimize(tokens);
          sequence.ensure_capacity(ctx, alloc, tokens);
          benchmark::ClobberMemory();
        }
      });
  require(tape.device_writes() == 0 && alloc.in_use() == 63, "a call that needs nothing did work");
}

/// Full pools of 65,536 slots in all, and the order in which they are given back.
class FullPools {
 public:
  explicit FullPools(std::size_t slots_each) {
    const pagedkv::SsmStateSpec spec{1, 1, 4, 4, 4, 4};
    for (std::size_t slot = 0; slot < kSlots; ++slot) {
      if (slot % slots_each == 0) pools_.push_back(SequencePool::ssm(slots_each, spec));
      order_.emplace_back(slot / slots_each, slot % slots_each);
    }
    std::ranges::shuffle(order_, std::mt19937{std::random_device{}()});
    for (const auto& [pool, slot] : order_) pools_[pool].alloc_ssm(slot);
  }

  void release_all() {
    for (const auto& [pool, slot] : order_) pools_[pool].release_ssm(slot);
  }
  void fill() {
    for (const auto& [pool, slot] : order_) pools_[pool].alloc_ssm(slot);
  }
  [[nodiscard]] bool any_live() const {
    return std::ranges::any_of(order_, [&](const auto& entry) {
      return pools_[entry.first].ssm_slot(entry.second).has_value();
    });
  }

  static constexpr std::size_t kSlots = 65'536;

 private:
  std::vector<SequencePool> pools_;
  std::vector<std::pair<std::size_t, std::size_t>> order_;  // (pool, slot)
};

/// Every slot of one pool of `slots_each` at a time, in random order, against pools of 64: as many
/// releases over as many bytes.
template <std::size_t slots_each>
void release_ssm(benchmark::State& state) {
  FullPools small(64);
  FullPools large(slots_each);
  large.release_all();
  require(!large.any_live(), "a released slot is still live");
  large.fill();
  in_turns(
      state, FullPools::kSlots, [&] { small.release_all(); }, [&] { large.release_all(); },
      [&] {
        small.fill();
        large.fill();
      });
}

[[maybe_unused]] const bool registered = [] {
  turns("PagedSeqState.ensure_capacity/enough", ensure_capacity);
  turns("SequencePool.release_ssm/1,024 slots", release_ssm<1024>);
  turns("SequencePool.release_ssm/65,536 slots", release_ssm<65'536>);
  return true;
}();

}  // namespace
}  // namespace pagedkv_bench
