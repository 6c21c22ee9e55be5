#pragma once

// Launches, with the limits of a device of compute capability 9.0.

#include <cstddef>
#include <map>
#include <mutex>
#include <tuple>
#include <type_traits>
#include <utility>

#include "cpp/tests/emulation/cuda/cuda_runtime_api.h"
#include "cpp/tests/emulation/simt.hpp"

struct cudaLaunchAttribute;

struct cudaLaunchConfig_t {
  dim3 gridDim;
  dim3 blockDim;
  std::size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
  cudaLaunchAttribute* attrs = nullptr;
  unsigned numAttrs = 0;
};

namespace pagedkv::simt {

/// Dynamic shared memory that a kernel was allowed beyond 48 KiB.
class SharedLimits {
 public:
  static constexpr std::size_t kUnasked = std::size_t{48} << 10;
  static constexpr std::size_t kMost = std::size_t{227} << 10;

  static SharedLimits& all() {
    static SharedLimits limits;
    return limits;
  }
  void set(const void* kernel, std::size_t bytes) {
    const std::lock_guard lock(mutex_);
    limits_[kernel] = bytes;
  }
  [[nodiscard]] std::size_t of(const void* kernel) {
    const std::lock_guard lock(mutex_);
    const auto found = limits_.find(kernel);
    return found == limits_.end() ? kUnasked : std::max(kUnasked, found->second);
  }

 private:
  std::mutex mutex_;
  std::map<const void*, std::size_t> limits_;
};

}  // namespace pagedkv::simt

enum cudaFuncAttribute {
  cudaFuncAttributeMaxDynamicSharedMemorySize = 8,
  cudaFuncAttributePreferredSharedMemoryCarveout = 9,
};

template <class Kernel>
cudaError_t cudaFuncSetAttribute(Kernel* kernel, cudaFuncAttribute attribute, int value) {
  using pagedkv::simt::SharedLimits;
  if (attribute == cudaFuncAttributeMaxDynamicSharedMemorySize) {
    if (value < 0 || static_cast<std::size_t>(value) > SharedLimits::kMost) {
      return pagedkv::simt::failed(cudaErrorInvalidValue);
    }
    SharedLimits::all().set(reinterpret_cast<const void*>(kernel), static_cast<std::size_t>(value));
  }
  return cudaSuccess;
}

/// What an emulated card would hold: enough for plans to be made with.
template <class Kernel>
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Kernel*, int threads,
                                                          std::size_t shared_bytes) {
  const std::size_t by_shared = pagedkv::simt::SharedLimits::kMost / (shared_bytes + 1024);
  *blocks = static_cast<int>(
      std::min<std::size_t>({2048U / static_cast<unsigned>(threads), by_shared, 32}));
  return cudaSuccess;
}

template <class... Params, class... Args>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Params...),
                               Args&&... args) {
  const dim3 grid = config->gridDim, block = config->blockDim;
  const auto shared = config->dynamicSmemBytes;
  const std::size_t threads = std::size_t{block.x} * block.y * block.z;
  if (threads == 0 || threads > 1024 || block.z > 64 || grid.x == 0 || grid.y == 0 || grid.z == 0 ||
      grid.x > 0x7fffffffU || grid.y > 65535 || grid.z > 65535) {
    return pagedkv::simt::failed(cudaErrorInvalidConfiguration);
  }
  using pagedkv::simt::SharedLimits;
  if (shared > SharedLimits::all().of(reinterpret_cast<const void*>(kernel))) {
    return pagedkv::simt::failed(cudaErrorInvalidValue);
  }
  // Each thread has its own copy of the parameters, as by value they are.
  const std::tuple<std::decay_t<Params>...> params(std::forward<Args>(args)...);
  pagedkv::simt::launch(grid, block, shared, [&] { std::apply(kernel, params); });
  return cudaSuccess;
}
