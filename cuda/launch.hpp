#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <utility>

#include "cuda/errors.hpp"

namespace pagedkv::cuda {

/// Puts a kernel on a stream. A grid without blocks is no work.
/// @param shared_bytes  of dynamic shared memory; more than 48 KiB is asked for here.
/// @param where  the function that errors name.
/// @throws CudaError.
template <class... Params, class... Args>
void launch(const char* where, void (*kernel)(Params...), dim3 grid, dim3 block,
            std::size_t shared_bytes, cudaStream_t stream, Args&&... args) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return;
  constexpr std::size_t unasked = std::size_t{48} << 10;
  if (shared_bytes > unasked) {
    expect_success(where, "cudaFuncSetAttribute",
                   cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                        static_cast<int>(shared_bytes)));
  }
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  expect_success(where, "cudaLaunchKernelEx",
                 cudaLaunchKernelEx(&config, kernel, std::forward<Args>(args)...));
}

template <class... Params, class... Args>
void launch(void (*kernel)(Params...), dim3 grid, dim3 block, std::size_t shared_bytes,
            cudaStream_t stream, Args&&... args) {
  launch("cuda.launch", kernel, grid, block, shared_bytes, stream, std::forward<Args>(args)...);
}

}  // namespace pagedkv::cuda
