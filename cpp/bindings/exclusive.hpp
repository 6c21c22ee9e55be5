#pragma once

// Calls that release the GIL: one at a time for each object.

#include <cstddef>

#include "bindings.hpp"
#include "without_gil.hpp"

namespace pagedkv::python {

/// Keeps an object whose calls release the GIL to one thread at a time. The flag itself is only
/// touched with the GIL held.
class Exclusive {
 public:
  class Hold {
   public:
    explicit Hold(bool& busy) noexcept : busy_(busy) { busy_ = true; }
    Hold(const Hold&) = delete;
    Hold& operator=(const Hold&) = delete;
    ~Hold() { busy_ = false; }

   private:
    bool& busy_;
  };

  /// @throws Error when another thread is inside a call of the object.
  [[nodiscard]] Hold hold(const char* where) {
    if (busy_) {
      throw Error(pagedkv::detail::located(
          where, "the object is busy in another thread; expected one thread at a time"));
    }
    return Hold(busy_);
  }

  [[nodiscard]] bool busy() const noexcept { return busy_; }

 private:
  bool busy_ = false;
};

/// Copies below this many bytes are done sooner than the GIL is given away and taken back.
inline constexpr std::size_t kReleaseGilFrom = std::size_t{64} << 10;

/// Runs `work` without the GIL when it moves enough bytes for that to pay.
template <class Work>
void without_gil(std::size_t bytes, Work work) {
  if (bytes < kReleaseGilFrom) {
    work();
    return;
  }
  const WithoutGil released;
  work();
}

}  // namespace pagedkv::python
