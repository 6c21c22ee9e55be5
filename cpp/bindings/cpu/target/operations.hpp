#pragma once

// The operations of the module `_core`: on the CPU, with the threads and kernels of this process.
// Index arrays are copied to memory that no other thread changes while they are read.

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "operands.hpp"
#include "pagedkv/cpu/attention.hpp"
#include "pagedkv/cpu/copy_blocks.hpp"
#include "pagedkv/cpu/dispatch.hpp"
#include "pagedkv/cpu/gather_kv.hpp"
#include "pagedkv/cpu/merge_attention_states.hpp"
#include "pagedkv/cpu/rope_write_kv.hpp"
#include "pagedkv/cpu/thread_pool.hpp"
#include "pagedkv/cpu/write_kv.hpp"
#include "target/sequences.hpp"
#include "without_gil.hpp"

namespace pagedkv::python::target {

/// The slot of each token.
class Slots {
 public:
  Slots(const Site& where, const AnyObject& slot_mapping, std::int64_t num_tokens)
      : slots_(one_a_token(where, "slot_mapping", slot_mapping, num_tokens)) {}
  [[nodiscard]] const std::int64_t* data() const noexcept { return slots_.data(); }

 private:
  std::vector<std::int64_t> slots_;
};

/// The position of each token.
class Positions {
 public:
  Positions(const Site& where, const AnyObject& positions, std::int64_t num_tokens)
      : positions_(one_a_token(where, "positions", positions, num_tokens)) {}
  void bind(RopeWriteKvCall& call) const noexcept { call.positions = positions_.data(); }

 private:
  std::vector<std::int64_t> positions_;
};

/// float32 `[size]`, or None.
class Floats {
 public:
  Floats(const Site& where, const char* argument, const AnyObject& value, std::int64_t size) {
    if (!value.is_none()) values_ = to_floats(where, argument, value, size);
  }
  /// Null for None.
  [[nodiscard]] const float* data() const noexcept {
    return values_.empty() ? nullptr : values_.data();
  }

 private:
  std::vector<float> values_;
};

using Pairs = HostPairs;

template <class Operation>
void without_gil(Operation&& operation) {
  cpu::ThreadPool& pool = cpu::default_thread_pool();
  const cpu::Kernels& kernels = cpu::kernels();
  const WithoutGil released;
  operation(pool, kernels);
}

/// `batch_invariant` always holds here.
inline void attend(const Site& where, const AttentionCall& call, bool) {
  check_attention(where, call);
  without_gil([&](auto& pool, auto& kernels) { cpu::attend(call, pool, kernels); });
}

inline void write_kv(const Site& where, const WriteKvCall& call) {
  without_gil([&](auto& pool, auto& kernels) { cpu::write_kv(call, pool, kernels, where); });
}

inline void rope_write_kv(const Site& where, const RopeWriteKvCall& call) {
  without_gil([&](auto& pool, auto& kernels) { cpu::rope_write_kv(call, pool, kernels, where); });
}

inline void gather_kv(const Site& where, const GatherKvCall& call) {
  without_gil([&](auto& pool, auto& kernels) { cpu::gather_kv(call, pool, kernels, where); });
}

inline void copy_blocks(const Site& where, std::span<const CacheView> caches, const Pairs& pairs) {
  without_gil([&](auto& pool, auto&) { cpu::copy_blocks(caches, pairs.span(), pool, where); });
}

inline void move_slots(const Site& where, std::span<const CacheView> caches, const Pairs& pairs) {
  without_gil([&](auto& pool, auto&) { cpu::move_slots(caches, pairs.span(), pool, where); });
}

inline void swap_blocks(const Site& where, const CacheView& source, const CacheView& target,
                        const HostPairs& pairs) {
  without_gil(
      [&](auto& pool, auto&) { cpu::swap_blocks(source, target, pairs.span(), pool, where); });
}

inline void merge_attention_states(const Site& where, const MergeStatesCall& call) {
  without_gil(
      [&](auto& pool, auto& kernels) { cpu::merge_attention_states(call, pool, kernels, where); });
}

}  // namespace pagedkv::python::target
