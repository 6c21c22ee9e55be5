#pragma once

// The device that the tests of its operations run on: the emulated one, or a real one
// (`PAGEDKV_ON_DEVICE`), on which all memory that the tests make is managed memory
// (managed_new.cpp) and each launch is waited for (CUDA_LAUNCH_BLOCKING=1).

#include <gtest/gtest.h>

#include <string>

#include "cuda/operations.hpp"

#if !defined(PAGEDKV_ON_DEVICE)
#include "cpp/tests/emulation/simt.hpp"
#endif

namespace pagedkv_test {

/// Runs `work` with the threads of blocks in one order after another, where there is one: what
/// depends on it is a race.
template <class Work>
void in_each_order(Work&& work) {
#if defined(PAGEDKV_ON_DEVICE)
  work();
#else
  using pagedkv::simt::Order;
  for (const Order order : {Order::forward, Order::backward, Order::shuffled}) {
    pagedkv::simt::order() = order;
    work();
  }
  pagedkv::simt::order() = Order::forward;
#endif
}

/// A test whose operations run on a stream of their own, on which nothing was out of range.
class OnCuda : public testing::Test {
 protected:
  OnCuda() { cudaStreamCreate(&stream_.handle); }
  ~OnCuda() override {
    EXPECT_NO_THROW(pagedkv::cuda::check(stream_));
    cudaStreamDestroy(stream_.handle);
  }

  /// What `check` tells of.
  template <class Error>
  void expect_mistake(const std::string& text) {
    try {
      pagedkv::cuda::check(stream_, "here");
      ADD_FAILURE() << "nothing was out of range; expected " << text;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(text), std::string::npos) << error.what();
    }
  }

  pagedkv::cuda::Stream stream_;
};

}  // namespace pagedkv_test
