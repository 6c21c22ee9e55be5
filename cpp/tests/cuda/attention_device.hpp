#pragma once

// Attention on CUDA, for the tests that each device has.

#include <array>

#include "cpp/tests/cuda/device.hpp"
#include "cpp/tests/operations/attention_oracle.hpp"
#include "cuda/operations.hpp"

namespace pagedkv_test::device {

inline constexpr DType kCacheDTypes[] = {DType::float32,     DType::float16,     DType::bfloat16,
                                         DType::float8_e4m3, DType::float8_e5m2, DType::int8};
inline constexpr bool kScaleArrays = true;
inline constexpr bool kRoundsQueries = false;
#if defined(PAGEDKV_ON_DEVICE)
inline constexpr bool kEmulated = false;
#else
inline constexpr bool kEmulated = true;
#endif

/// Tensor cores multiply what the queries are.
inline DType query_dtype(DType cache) { return dtype_bits(cache) == 8 ? DType::bfloat16 : cache; }

/// Call after call the threads of blocks take their turns in another order: what depends on it is a
/// race.
inline void attend(const AttentionCall& call, bool batch_invariant) {
#if !defined(PAGEDKV_ON_DEVICE)
  using simt::Order;
  static unsigned count = 0;
  simt::order() = std::array{Order::forward, Order::backward, Order::shuffled}[count++ % 3];
#endif
  cuda::attend(call, batch_invariant, {});
  cuda::check({});
}

}  // namespace pagedkv_test::device
