#pragma once

#include <cuda_runtime_api.h>

#include <string>

#include "pagedkv/core/errors.hpp"

namespace pagedkv::cuda {

/// CUDA refused or failed.
class CudaError : public Error {
 public:
  CudaError(const std::string& message, cudaError_t code) : Error(message), code_(code) {}

  [[nodiscard]] cudaError_t code() const noexcept { return code_; }

 private:
  cudaError_t code_;
};

[[noreturn]] PAGEDKV_COLD inline void throw_cuda(const char* where, const char* call,
                                                 cudaError_t error) {
  cudaGetLastError();  // what is told here is not told again by the next call
  throw CudaError(
      pagedkv::detail::located(where, std::string(call) + " says \"" + cudaGetErrorString(error) +
                                          "\" (" + cudaGetErrorName(error) + "); expected success"),
      error);
}

/// @throws CudaError with CUDA's own words, where `error` is one.
inline void expect_success(const char* where, const char* call, cudaError_t error) {
  if (error != cudaSuccess) throw_cuda(where, call, error);
}

}  // namespace pagedkv::cuda
