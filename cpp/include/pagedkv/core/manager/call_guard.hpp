#pragma once

#include <atomic>

#include "pagedkv/core/errors.hpp"

namespace pagedkv::inline v0_1::detail {

/// Lets one caller in at a time and gives a second one an error instead of a race.
class CallGuard {
 public:
  class Hold {
   public:
    explicit Hold(std::atomic<bool>& busy) noexcept : busy_(busy) {}
    Hold(const Hold&) = delete;
    Hold& operator=(const Hold&) = delete;
    ~Hold() { busy_.store(false, std::memory_order_release); }

   private:
    std::atomic<bool>& busy_;
  };

  /// @throws Error while another call is inside.
  [[nodiscard]] Hold hold(const char* where) {
    if (busy_.exchange(true, std::memory_order_acquire)) [[unlikely]] {
      throw_busy(where);
    }
    return Hold(busy_);
  }

 private:
  [[noreturn]] PAGEDKV_COLD static void throw_busy(const char* where) {
    throw Error(located(where,
                        "called while another thread is inside a call; expected one caller "
                        "at a time"));
  }

  std::atomic<bool> busy_ = false;
};

}  // namespace pagedkv::inline v0_1::detail
