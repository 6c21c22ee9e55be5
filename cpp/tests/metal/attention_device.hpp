#pragma once

// Attention on Metal, for the tests that each device has.

#include "cpp/tests/metal/test_queue.hpp"
#include "cpp/tests/operations/attention_oracle.hpp"
#include "metal/operations.hpp"

namespace pagedkv_test::device {

inline constexpr DType kCacheDTypes[] = {DType::float32, DType::float16, DType::bfloat16};
inline constexpr bool kScaleArrays = false;
inline constexpr bool kRoundsQueries = false;
inline constexpr bool kEmulated = true;  // and the same shapes on the device

inline DType query_dtype(DType /*cache*/) { return DType::float32; }

inline void attend(const AttentionCall& call, bool batch_invariant) {
  TestQueue queue;
  metal::attend(call, batch_invariant, queue);
  metal::check(queue, "test");
}

}  // namespace pagedkv_test::device
