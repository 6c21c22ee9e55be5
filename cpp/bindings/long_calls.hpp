#pragma once

// Calls of a manager that are long enough to let other Python threads run.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "integer_span.hpp"
#include "pagedkv/core/manager/kv_cache_manager.hpp"
#include "without_gil.hpp"

namespace pagedkv::python {

/// A call that is about so many tokens runs without the GIL: about 0.1 ms. What is shorter is done
/// before giving the GIL away and waiting for it would pay.
inline constexpr std::size_t kLongCall = std::size_t{1} << 17;

/// Runs `call`, without the GIL where that pays. `arguments` that belong to Python are copied then,
/// because other threads may change them.
template <class Call, class... T>
decltype(auto) run(std::size_t num_tokens, Call call, IntegerSpan<T>&... arguments) {
  if (num_tokens < kLongCall) return call();
  (arguments.own(), ...);
  const WithoutGil released;
  return call();
}

/// Tokens that these sequences know. Names that are wrong count nothing: the call itself refuses.
inline std::size_t known(const KVCacheManager& self, std::span<const SeqId> ids) {
  std::size_t tokens = 0;
  try {
    for (const SeqId id : ids) tokens += self.num_tokens(id);
  } catch (const Error&) {
    return 0;
  }
  return tokens;
}

inline std::size_t sum(std::span<const std::int32_t> counts) {
  std::size_t total = 0;
  for (const std::int32_t count : counts) total += static_cast<std::size_t>(std::max(count, 0));
  return total;
}

/// For calls that may look at every block.
inline std::size_t whole_pool(const KVCacheManager& self) { return 16 * self.options().num_blocks; }

}  // namespace pagedkv::python
