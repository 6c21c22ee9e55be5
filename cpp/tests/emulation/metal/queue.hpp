#pragma once

// A queue whose device is the CPU: every address is one of the device, a dispatch has run when the
// call returns.

#include <cstddef>
#include <cstdint>
#include <memory>

#include "metal/queue.hpp"

namespace pagedkv_test {

class EmulatedQueue final : public pagedkv::metal::Queue {
 public:
  void dispatch(const pagedkv::metal::Dispatch& dispatch) override;
  void commit() override {}
  void* workspace(std::size_t bytes) override;
  std::uint32_t* error_word() override { return &errors_; }
  [[nodiscard]] bool owns(const void*) const override { return true; }
  void wait() override {}

 private:
  std::uint32_t errors_ = 0;
  std::unique_ptr<std::byte[]> workspace_;
};

}  // namespace pagedkv_test
