#pragma once

// A device context does not survive fork(): using it in the child is undefined in every driver.
// Objects on such a device remember the process they were made in and refuse to work in another.

#include <string>

#include "pagedkv/core/errors.hpp"

#if !defined(_WIN32)
#include <unistd.h>
#endif

namespace pagedkv::inline v0_1::detail {

/// `survives_fork`: the device's promise; then the guard holds and checks nothing.
template <bool survives_fork>
class ForkGuard {
 public:
  void check(const char*) const noexcept {}
};

#if !defined(_WIN32)
template <>
class ForkGuard<false> {
 public:
  /// @throws UnsupportedError in a process forked after the guard was made.
  void check(const char* where) const {
    if (::getpid() != owner_) [[unlikely]] {
      throw_unsupported(where,
                        "used in a process forked after the object was made; expected the "
                        "process that made it, device memory does not survive fork()");
    }
  }

 private:
  pid_t owner_ = ::getpid();
};
#else
template <>
class ForkGuard<false> {
 public:
  void check(const char*) const noexcept {}
};
#endif

}  // namespace pagedkv::inline v0_1::detail
