#pragma once

#include <cuda_runtime_api.h>

#include "cuda/errors.hpp"

namespace pagedkv::cuda {

/// What orders the work on a device. Whoever makes the handle destroys it; null is the default one.
struct Stream {
  int device = 0;
  cudaStream_t handle = nullptr;

  friend bool operator==(const Stream&, const Stream&) = default;
};

/// Makes a device the current one of this thread, and afterwards the one that it was.
class CurrentDevice {
 public:
  /// @throws CudaError for a device that does not exist.
  CurrentDevice(const char* where, int device) {
    expect_success(where, "cudaGetDevice", cudaGetDevice(&before_));
    if (device == before_) return;
    expect_success(where, "cudaSetDevice", cudaSetDevice(device));
    changed_ = true;
  }
  CurrentDevice(const CurrentDevice&) = delete;
  CurrentDevice& operator=(const CurrentDevice&) = delete;
  ~CurrentDevice() {
    if (changed_) static_cast<void>(cudaSetDevice(before_));
  }

 private:
  int before_ = 0;
  bool changed_ = false;
};

}  // namespace pagedkv::cuda
