#pragma once

// Runs of the same call with the first, the second, the third ... allocation failing.

#include <gtest/gtest.h>

#include <cstddef>
#include <new>
#include <utility>

#include "counting_new.hpp"

namespace pagedkv_test {

/// Repeats `attempt(n, then)` for n = 1, 2, ... until it says that nothing failed any more. Both
/// kinds of failure: that allocation alone, or it and all that follow.
template <class Attempt>
void for_each_failing_allocation(Attempt attempt) {
  for (const auto then : {FailingAllocation::Then::recovers, FailingAllocation::Then::fails_on}) {
    std::size_t n = 1;
    while (!attempt(n, then)) {
      ASSERT_FALSE(testing::Test::HasFailure()) << "when allocation " << n << " failed";
      ASSERT_LT(++n, 1000u) << "it never succeeds";
    }
    EXPECT_GT(n, 1u) << "this call allocates nothing: it has no place here";
  }
}

/// `make` gives std::bad_alloc at each of its allocations in turn and leaks nothing, then succeeds.
template <class Make>
void expect_survives_out_of_memory(Make make) {
  for_each_failing_allocation([&](std::size_t n, FailingAllocation::Then then) {
    const std::size_t live_before = live_allocations();
    bool succeeded = false;
    try {
      const FailingAllocation failing(n, then);
      const auto made = make();
      keep(&made);
      succeeded = true;
    } catch (const std::bad_alloc&) {
    }
    EXPECT_EQ(live_allocations(), live_before) << "leaked";
    return succeeded;
  });
}

/// `call(object)` gives std::bad_alloc at each of its allocations in turn and then
/// `observe(object)` is what it was before; it leaks nothing; in the end it succeeds. Each attempt
/// has a new object.
template <class Make, class Call, class Observe>
void expect_unchanged_when_out_of_memory(Make make, Call call, Observe observe) {
  for_each_failing_allocation([&](std::size_t n, FailingAllocation::Then then) {
    const std::size_t live_before = live_allocations();
    bool succeeded = false;
    {
      auto object = make();
      const auto before = observe(object);
      const std::size_t live_with_object = live_allocations();
      try {
        const FailingAllocation failing(n, then);
        call(object);
        succeeded = true;
      } catch (const std::bad_alloc&) {
      }
      if (!succeeded) {
        EXPECT_EQ(live_allocations(), live_with_object) << "leaked";
        EXPECT_TRUE(observe(object) == before) << "changed";
      }
    }
    EXPECT_EQ(live_allocations(), live_before) << "leaked in the end";
    return succeeded;
  });
}

}  // namespace pagedkv_test
