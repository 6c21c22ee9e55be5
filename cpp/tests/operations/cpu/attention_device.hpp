#pragma once

// Attention on the CPU, for the tests that each device has.

#include "cpp/tests/operations/attention_oracle.hpp"
#include "cpp/tests/operations/ops_kernels.hpp"
#include "pagedkv/cpu/attention.hpp"

namespace pagedkv_test::device {

inline constexpr DType kCacheDTypes[] = {DType::float64,  DType::float32,     DType::float16,
                                         DType::bfloat16, DType::float8_e4m3, DType::float8_e5m2,
                                         DType::int8,     DType::int4};
/// Scales may be arrays, a (block, head) or a (block, head, slot).
inline constexpr bool kScaleArrays = true;
/// Unless a call is exact, int8 and int4 are multiplied by queries that are rounded to int8.
inline constexpr bool kRoundsQueries = true;
/// Each thread of a kernel is emulated: shapes are kept small.
inline constexpr bool kEmulated = false;

/// The queries that problems have over a cache, if they do not say otherwise.
inline DType query_dtype(DType cache) {
  return cache == DType::float64 ? DType::float64 : DType::float32;
}

/// Call after call with another number of threads: no bit may depend on it.
inline void attend(const AttentionCall& call, bool /*batch_invariant*/) {
  static unsigned count = 0;
  constexpr unsigned threads[] = {1, 2, 3, 7};
  cpu::ThreadPool pool(threads[count++ % 4]);
  cpu::paged_attention(call, pool, test_kernels());
}

}  // namespace pagedkv_test::device
