#pragma once

// The operations of the module `_metal`: kernels on the queue of this process. They return when the
// kernels have ended, because the processor sees the same memory, unless `set_waits(False)` says
// otherwise. What only the device can check, ids and lengths, its kernels pass over; with
// `set_device_checks(True)` each operation raises what they found.

#include <span>

#include "device/arguments.hpp"
#include "metal/operations.hpp"
#include "target/memory.hpp"
#include "target/upload.hpp"
#include "without_gil.hpp"

namespace pagedkv::python::target {

/// Whether each operation raises what its kernels found.
[[nodiscard]] bool& device_checks();
/// Whether each operation waits for its kernels.
[[nodiscard]] bool& waits();

template <class Operation>
void on_queue(const Site& where, Operation&& operation) {
  const bool checks = device_checks(), wait = waits();
  const WithoutGil released;
  const Turn turn;
  operation(queue());
  if (wait) queue().wait();
  if (checks) metal::check(queue(), where);
}

[[nodiscard]] inline metal::IndexPairs index_pairs(const Pairs& pairs) noexcept {
  return {pairs.data(), pairs.count(), pairs.on_device()};
}

inline void attend(const Site& where, const AttentionCall& call, bool batch_invariant) {
  on_queue(where, [&](auto& queue) { metal::attend(call, batch_invariant, queue, where); });
}

inline void write_kv(const Site& where, const WriteKvCall& call) {
  on_queue(where, [&](auto& queue) { metal::write_kv(call, queue, where); });
}

inline void rope_write_kv(const Site& where, const RopeWriteKvCall& call) {
  on_queue(where, [&](auto& queue) { metal::rope_write_kv(call, queue, where); });
}

inline void gather_kv(const Site& where, const GatherKvCall& call) {
  on_queue(where, [&](auto& queue) { metal::gather_kv(call, queue, where); });
}

inline void copy_blocks(const Site& where, std::span<const CacheView> caches, const Pairs& pairs) {
  on_queue(where,
           [&](auto& queue) { metal::copy_blocks(caches, index_pairs(pairs), queue, where); });
}

inline void move_slots(const Site& where, std::span<const CacheView> caches, const Pairs& pairs) {
  on_queue(where,
           [&](auto& queue) { metal::move_slots(caches, index_pairs(pairs), queue, where); });
}

inline void swap_blocks(const Site& where, const CacheView& source, const CacheView& target,
                        const HostPairs& pairs) {
  on_queue(where,
           [&](auto& queue) { metal::swap_blocks(source, target, pairs.span(), queue, where); });
}

inline void merge_attention_states(const Site& where, const MergeStatesCall& call) {
  on_queue(where, [&](auto& queue) { metal::merge_attention_states(call, queue, where); });
}

}  // namespace pagedkv::python::target
