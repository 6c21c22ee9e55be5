#pragma once

// The operations of the module `_cuda`: kernels on the stream that the arrays' library is at. They
// return before the kernels end. What only the device can check, ids and lengths, its kernels pass
// over; with `set_device_checks(True)` each operation waits for them and raises what they found.

#include <span>

#include "cuda/operations.hpp"
#include "device/arguments.hpp"
#include "target/upload.hpp"
#include "without_gil.hpp"

namespace pagedkv::python::target {

/// Whether each operation waits for its kernels and raises what they found.
[[nodiscard]] bool& device_checks();

template <class Operation>
void on_stream(const Site& where, Operation&& operation) {
  const cuda::Stream stream = stream_of(where);
  const bool checks = device_checks();
  const WithoutGil released;
  const cuda::CurrentDevice current(where, stream.device);
  operation(stream);
  if (checks) cuda::check(stream, where);
}

[[nodiscard]] inline cuda::IndexPairs index_pairs(const Pairs& pairs) noexcept {
  return {pairs.data(), pairs.count(), pairs.on_device()};
}

inline void attend(const Site& where, const AttentionCall& call, bool batch_invariant) {
  on_stream(where, [&](auto& stream) { cuda::attend(call, batch_invariant, stream, where); });
}

inline void write_kv(const Site& where, const WriteKvCall& call) {
  on_stream(where, [&](auto& stream) { cuda::write_kv(call, stream, where); });
}

inline void rope_write_kv(const Site& where, const RopeWriteKvCall& call) {
  on_stream(where, [&](auto& stream) { cuda::rope_write_kv(call, stream, where); });
}

inline void gather_kv(const Site& where, const GatherKvCall& call) {
  on_stream(where, [&](auto& stream) { cuda::gather_kv(call, stream, where); });
}

inline void copy_blocks(const Site& where, std::span<const CacheView> caches, const Pairs& pairs) {
  on_stream(where,
            [&](auto& stream) { cuda::copy_blocks(caches, index_pairs(pairs), stream, where); });
}

inline void move_slots(const Site& where, std::span<const CacheView> caches, const Pairs& pairs) {
  on_stream(where,
            [&](auto& stream) { cuda::move_slots(caches, index_pairs(pairs), stream, where); });
}

inline void swap_blocks(const Site& where, const CacheView& source, const CacheView& target,
                        const HostPairs& pairs) {
  on_stream(where,
            [&](auto& stream) { cuda::swap_blocks(source, target, pairs.span(), stream, where); });
}

inline void merge_attention_states(const Site& where, const MergeStatesCall& call) {
  on_stream(where, [&](auto& stream) { cuda::merge_attention_states(call, stream, where); });
}

}  // namespace pagedkv::python::target
