#pragma once

// Sequence states and caches over one allocator and one pool, on a device that fails now and then,
// against plain models: a list of ids, a list of tokens. The operations are spelt by a string of
// bytes.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "../tests/recording_backend.hpp"
#include "allocator_model.hpp"
#include "pagedkv/core/kv_cache.hpp"
#include "pagedkv/core/paged_seq_state.hpp"

namespace pagedkv_fuzz {

using Backend = pagedkv_test::RecordingBackend;
using Bytes = std::vector<std::byte>;

/// What became of a call.
enum class Outcome { done, shape, capacity, exhausted, device };

template <class Call>
Outcome outcome_of(Call call) {
  try {
    call();
    return Outcome::done;
  } catch (const pagedkv::ShapeError&) {
    return Outcome::shape;
  } catch (const pagedkv::CapacityError&) {
    return Outcome::capacity;
  } catch (const pagedkv::PoolExhaustedError&) {
    return Outcome::exhausted;
  } catch (const pagedkv_test::DeviceError&) {
    return Outcome::device;
  }
}

/// The blocks of one sequence, as they should be. `free_ids` is the model of the shared allocator.
struct BlocksModel {
  AllocatorModel* free_ids;
  std::size_t block_size;
  std::size_t max_blocks;
  Ids ids{};

  [[nodiscard]] std::size_t needed(std::size_t tokens) const {
    return tokens / block_size + (tokens % block_size != 0);
  }

  /// What making room for `tokens` must come to on a device that works.
  [[nodiscard]] Outcome expected_of(std::size_t tokens) const {
    if (needed(tokens) <= ids.size()) return Outcome::done;
    if (needed(tokens) > max_blocks) return Outcome::capacity;
    if (needed(tokens) - ids.size() > free_ids->free_count()) return Outcome::exhausted;
    return Outcome::done;
  }
  void grow_to(std::size_t tokens) {
    if (needed(tokens) <= ids.size()) return;
    const auto taken = free_ids->take(needed(tokens) - ids.size());
    ids.insert(ids.end(), taken->begin(), taken->end());
  }
  void shrink_to(std::size_t tokens) {
    while (ids.size() > needed(tokens)) {  // the last one first
      PAGEDKV_FUZZ_CHECK(!free_ids->free({ids.back()}));
      ids.pop_back();
    }
  }
};

/// The world of one run: an allocator, a device, and how calls to it end.
class World {
 public:
  explicit World(ByteSource& in)
      : alloc(std::make_shared<pagedkv::BlockAllocator>(in.below(25))),
        ids(alloc->capacity()),
        block_size(1 + in.below(4)),
        max_blocks(in.below(8)) {}

  [[nodiscard]] BlocksModel blocks() { return {&ids, block_size, max_blocks}; }

  /// Lets one of the next device calls fail, or none.
  void arm(ByteSource& in) {
    const std::size_t choice = in.below(48);
    tape.clear();
    armed = choice < 24;
    if (armed) tape.calls_until_failure = choice / 2;
    tape.torn = choice % 2 != 0;
  }

  /// Runs `call` on the armed device. It must end as `expected`, or as an error of the device.
  template <class Call>
  Outcome run(Outcome expected, Call call) {
    const auto outcome = outcome_of(call);
    tape.calls_until_failure = pagedkv_test::Tape::kNever;
    if (outcome == Outcome::device) {
      PAGEDKV_FUZZ_CHECK(armed && expected == Outcome::done);
    } else {
      PAGEDKV_FUZZ_CHECK(outcome == expected);
      PAGEDKV_FUZZ_CHECK(outcome == Outcome::done || tape.device_writes() == 0);
    }
    return outcome;
  }

  pagedkv_test::Tape tape;
  Backend::Context ctx{&tape};
  std::shared_ptr<pagedkv::BlockAllocator> alloc;
  AllocatorModel ids;
  std::size_t block_size;
  std::size_t max_blocks;
  bool armed = false;
};

inline void expect_table(const Backend::Buffer& buffer, const Ids& ids) {
  const auto table = buffer.as<std::int32_t>();
  for (std::size_t i = 0; i < table.size(); ++i) {
    PAGEDKV_FUZZ_CHECK(table[i] == (i < ids.size() ? static_cast<std::int32_t>(ids[i]) : -1));
  }
}

inline void expect_length(const Backend::Buffer& buffer, std::size_t len) {
  PAGEDKV_FUZZ_CHECK(buffer.as<std::int32_t>()[0] == static_cast<std::int32_t>(len));
}

/// A PagedSeqState and its model.
class StateRun {
 public:
  explicit StateRun(World& world)
      : world_(world),
        state_(world.block_size, world.max_blocks, {&world.tape}),
        blocks_(world.blocks()) {}
  StateRun(const StateRun&) = delete;
  StateRun& operator=(const StateRun&) = delete;

  void step(ByteSource& in) {
    switch (in.below(7)) {
      case 0: return ensure(in.below(32));
      case 1: return set_len(in.below(32));
      case 2: return sync();
      case 3: return release();
      case 4: return release_on_device();
      case 5: return truncate(in.below(32));
      default: return move();
    }
  }

  void expect_same() const {
    PAGEDKV_FUZZ_CHECK(std::ranges::equal(state_.blocks(), blocks_.ids));
    PAGEDKV_FUZZ_CHECK(state_.len() == len_);
  }

  void release() {
    state_.release(*world_.alloc);
    blocks_.shrink_to(0);
    len_ = 0;
  }

 private:
  void ensure(std::size_t target) {
    const auto outcome = world_.run(blocks_.expected_of(target), [&] {
      state_.ensure_capacity(world_.ctx, *world_.alloc, target);
    });
    if (outcome != Outcome::done) return;
    PAGEDKV_FUZZ_CHECK(world_.tape.device_writes() <= 1);
    blocks_.grow_to(target);
    expect_table(state_.block_table_buf(), blocks_.ids);
    world_.tape.clear();
    state_.ensure_capacity(world_.ctx, *world_.alloc, target);
    PAGEDKV_FUZZ_CHECK(world_.tape.device_writes() == 0);
  }

  void set_len(std::size_t len) {
    state_.set_len(len);
    len_ = len;
  }

  void sync() {
    const bool fits = blocks_.needed(len_) <= blocks_.ids.size();
    const auto outcome = world_.run(fits ? Outcome::done : Outcome::capacity,
                                    [&] { state_.sync_context_len(world_.ctx); });
    if (outcome == Outcome::done) expect_length(state_.context_lens_buf(), len_);
  }

  void release_on_device() {
    const auto outcome =
        world_.run(Outcome::done, [&] { state_.release(world_.ctx, *world_.alloc); });
    blocks_.shrink_to(0);  // also when the device failed
    len_ = 0;
    if (outcome != Outcome::done) return;
    expect_table(state_.block_table_buf(), {});
    expect_length(state_.context_lens_buf(), 0);
  }

  void truncate(std::size_t tokens) {
    state_.truncate(*world_.alloc, tokens);
    blocks_.shrink_to(tokens);
    len_ = std::min(len_, tokens);
  }

  void move() {
    auto moved = std::move(state_);
    state_.release(*world_.alloc);  // NOLINT(bugprone-use-after-move): nothing is left to release
    state_ = std::move(moved);
  }

  World& world_;
  pagedkv::PagedSeqState<Backend> state_;
  BlocksModel blocks_;
  std::size_t len_ = 0;
};

/// A KvCache, paged or contiguous, and its model.
class CacheRun {
 public:
  using Cache = pagedkv::KvCache<Backend>;
  static constexpr std::size_t kHeads = 2;
  static constexpr std::size_t kDim = 2;
  static constexpr std::size_t kToken = kHeads * kDim;  // int8: also its bytes

  CacheRun(World& world, Cache cache)
      : world_(world), cache_(std::move(cache)), blocks_(world.blocks()) {}
  CacheRun(const CacheRun&) = delete;
  CacheRun& operator=(const CacheRun&) = delete;

  [[nodiscard]] Cache share() const { return cache_.share(); }

  void step(ByteSource& in) {
    switch (in.below(7)) {
      case 0:
      case 1: return append(in.below(14));
      case 2: return reserve(in.below(14));
      case 3: return truncate(in.below(20));
      case 4: return release();
      case 5: return replace();
      default: return append_a_part();
    }
  }

  void expect_same() const {
    PAGEDKV_FUZZ_CHECK(std::ranges::equal(cache_.paged_block_indices(), blocks_.ids));
    PAGEDKV_FUZZ_CHECK(cache_.len() == keys_.size() / kToken);
    Bytes k(keys_.size());
    Bytes v(keys_.size());
    pagedkv_test::RecordingBackend::Context ctx;
    cache_.to_dense(ctx, k, v);
    PAGEDKV_FUZZ_CHECK(k == keys_);
    PAGEDKV_FUZZ_CHECK(v == values_of(keys_));
  }

  void release() {
    cache_.release();
    forget();
  }

 private:
  [[nodiscard]] bool is_paged() const { return cache_.block_size() != 0; }

  static Bytes values_of(Bytes keys) {
    for (auto& byte : keys) byte ^= std::byte{0xa5};
    return keys;
  }

  void forget() {
    keys_.clear();
    blocks_.shrink_to(0);
  }

  [[nodiscard]] Outcome expected_of(std::size_t more) const {
    const std::size_t tokens = cache_.len() + more;
    if (tokens > cache_.capacity()) return Outcome::capacity;
    return is_paged() ? blocks_.expected_of(tokens) : Outcome::done;
  }

  void grow_to(std::size_t tokens) {
    if (!is_paged()) return;
    blocks_.grow_to(tokens);
    expect_table(*cache_.block_table(), blocks_.ids);
  }

  void append(std::size_t n) {
    Bytes k(n * kToken);
    for (auto& byte : k) byte = std::byte{next_++};
    const auto outcome =
        world_.run(expected_of(n), [&] { cache_.append(world_.ctx, k, values_of(k)); });
    if (outcome != Outcome::done) return;
    keys_.insert(keys_.end(), k.begin(), k.end());
    grow_to(cache_.len());
    if (is_paged()) expect_length(*cache_.context_lens(), cache_.len());
  }

  void append_a_part() {
    const Bytes part(kToken - 1);
    world_.run(Outcome::shape, [&] { cache_.append(world_.ctx, part, part); });
  }

  void reserve(std::size_t n) {
    const auto outcome = world_.run(expected_of(n), [&] { cache_.reserve(world_.ctx, n); });
    if (outcome == Outcome::done) grow_to(cache_.len() + n);
  }

  void truncate(std::size_t tokens) {
    if (tokens >= cache_.len()) {
      cache_.truncate(world_.ctx, tokens);
      return;
    }
    const auto outcome = world_.run(Outcome::done, [&] { cache_.truncate(world_.ctx, tokens); });
    keys_.resize(tokens * kToken);  // also when the device failed
    blocks_.shrink_to(tokens);
    if (outcome == Outcome::done && is_paged()) expect_length(*cache_.context_lens(), tokens);
  }

  /// Another, empty cache in the place of this one, whose blocks go back; or none, and nothing has
  /// changed.
  void replace() {
    const auto outcome = world_.run(Outcome::done, [&] {
      cache_ = is_paged() ? cache_.share()
                          : Cache::contiguous(cache_.capacity(), kHeads, kDim, pagedkv::DType::int8,
                                              {&world_.tape});
    });
    if (outcome == Outcome::done) forget();
  }

  World& world_;
  Cache cache_;
  BlocksModel blocks_;
  Bytes keys_;
  std::uint8_t next_ = 0;  // what the next byte of keys will be
};

/// @throws Mismatch where a state or a cache and its model disagree.
inline void run_sequence_operations(std::span<const std::uint8_t> bytes) {
  using Cache = CacheRun::Cache;
  ByteSource in(bytes);
  World world(in);
  StateRun states[] = {StateRun(world), StateRun(world)};
  CacheRun first(world, Cache::paged(world.alloc->capacity(), CacheRun::kHeads, CacheRun::kDim,
                                     world.block_size, world.max_blocks, world.alloc,
                                     pagedkv::DType::int8, {&world.tape}));
  CacheRun second(world, first.share());
  CacheRun contiguous(world, Cache::contiguous(12, CacheRun::kHeads, CacheRun::kDim,
                                               pagedkv::DType::int8, {&world.tape}));
  CacheRun* const caches[] = {&first, &second, &contiguous};

  while (!in.is_empty()) {
    const std::size_t subject = in.below(5);
    world.arm(in);
    subject < 2 ? states[subject].step(in) : caches[subject - 2]->step(in);
    world.ids.expect_same(*world.alloc);
    for (const auto& state : states) state.expect_same();
    for (const auto* cache : caches) cache->expect_same();
  }
  for (auto& state : states) state.release();
  for (auto* cache : caches) cache->release();
  world.ids.expect_same(*world.alloc);
  PAGEDKV_FUZZ_CHECK(world.alloc->in_use() == 0);
}

}  // namespace pagedkv_fuzz
