#pragma once

// The emulated device, for the tests of its operations.

#include <gtest/gtest.h>

#include <utility>

#include "cpp/tests/emulation/simt.hpp"
#include "cuda/operations.hpp"

namespace pagedkv_test {

/// Runs `work` with the threads of blocks in one order after another: what depends on it is a race.
template <class Work>
void in_each_order(Work&& work) {
  using pagedkv::simt::Order;
  for (const Order order : {Order::forward, Order::backward, Order::shuffled}) {
    pagedkv::simt::order() = order;
    work();
  }
  pagedkv::simt::order() = Order::forward;
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
  void expect_mistake(const char* text) {
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
