#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "metal/device.hpp"
#include "metal/queue.hpp"

namespace pagedkv_test {

/// A queue of the device, emulated or real, that writes down what it is asked to do. What was
/// committed has run when the call returns, so that a test may look at its results.
class TestQueue final : public pagedkv::metal::Queue {
 public:
  void dispatch(const pagedkv::metal::Dispatch& dispatch) override {
    dispatched.push_back(dispatch);
    queue_->dispatch(dispatch);
  }
  void commit() override {
    ++commits;
    queue_->commit();
    queue_->wait();
  }
  void* workspace(std::size_t bytes) override { return queue_->workspace(bytes); }
  std::uint32_t* error_word() override { return queue_->error_word(); }
  [[nodiscard]] bool owns(const void* address) const override {
    return owns_any && queue_->owns(address);
  }
  void wait() override {
    ++waits;
    queue_->wait();
  }

  std::vector<pagedkv::metal::Dispatch> dispatched;
  std::size_t commits = 0, waits = 0;
  bool owns_any = true;  ///< false: as if all arrays lay outside of the device's buffers

 private:
  std::unique_ptr<pagedkv::metal::Queue> queue_ = pagedkv::metal::make_queue();
};

}  // namespace pagedkv_test
