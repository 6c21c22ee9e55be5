#pragma once

// What tests of eviction do to a queue, in a line.

#include <cstddef>
#include <cstdint>
#include <vector>

#include "pagedkv/core/block_allocator.hpp"
#include "pagedkv/core/eviction/eviction_queue.hpp"

namespace pagedkv_test {

using Ids = std::vector<pagedkv::BlockId>;

inline constexpr auto kAnyCanGo = [](pagedkv::BlockId) { return true; };

/// A chain that was used once and is evictable: the first of `ids` is its head.
inline void add_chain(pagedkv::EvictionQueue& queue, const Ids& ids) {
  for (std::size_t i = 0; i < ids.size(); ++i) {
    queue.insert(ids[i], 1000 + ids[i], static_cast<std::uint32_t>(i));
  }
  for (std::size_t i = ids.size(); i-- > 0;) queue.release(ids[i], i + 1 == ids.size());
}

inline void use(pagedkv::EvictionQueue& queue, pagedkv::BlockId b) {
  queue.hit(b);
  queue.acquire(b);
  queue.release(b, false);
}

inline Ids evict_all(pagedkv::EvictionQueue& queue) {
  Ids victims;
  while (const auto victim = queue.victim(kAnyCanGo)) victims.push_back(*victim);
  return victims;
}

}  // namespace pagedkv_test
