#pragma once

// operator new that counts and fails on demand. The program that links counting_new.cpp uses it for
// every allocation.

#include <cstddef>

namespace pagedkv_test {

/// Allocations that are alive.
std::size_t live_allocations() noexcept;
/// Allocations since the program began.
std::size_t total_allocations() noexcept;

/// Lets the compiler believe that somebody reads `object`, so that it cannot leave its allocations
/// out.
void keep(const void* object) noexcept;

/// While it lives, the `n`-th allocation (1 is the next) throws std::bad_alloc: it alone, or it and
/// all later ones.
class FailingAllocation {
 public:
  enum class Then { recovers, fails_on };

  FailingAllocation(std::size_t n, Then then) noexcept;
  FailingAllocation(const FailingAllocation&) = delete;
  FailingAllocation& operator=(const FailingAllocation&) = delete;
  ~FailingAllocation();
};

}  // namespace pagedkv_test
