#pragma once

// The host's side: memory, streams, events, errors. Work is done when the call returns, so that a
// stream is only a name; new memory is full of 0xff.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <utility>

#include "cpp/tests/emulation/cuda/vector_types.h"

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorNoDevice = 100,
  cudaErrorInvalidDevice = 101,
  cudaErrorInvalidResourceHandle = 400,
  cudaErrorStreamCaptureUnsupported = 900,
};

enum cudaMemcpyKind {
  cudaMemcpyHostToHost = 0,
  cudaMemcpyHostToDevice = 1,
  cudaMemcpyDeviceToHost = 2,
  cudaMemcpyDeviceToDevice = 3,
  cudaMemcpyDefault = 4,
};

namespace pagedkv::simt {

/// The last error of the host thread, as `cudaGetLastError` tells and forgets it.
inline cudaError_t& last_error() {
  thread_local cudaError_t error = cudaSuccess;
  return error;
}
inline cudaError_t failed(cudaError_t error) { return last_error() = error; }

/// Memory that was allocated as the device's or as pinned.
class Allocations {
 public:
  struct Memory {
    std::size_t bytes;
    bool host;
  };

  static Allocations& all() {
    static auto* const allocations = new Allocations;  // outlives whoever frees last
    return *allocations;
  }
  cudaError_t add(void** out, std::size_t bytes, bool host) {
    const std::lock_guard lock(mutex_);
    if (bytes > left_) return failed(cudaErrorMemoryAllocation);
    void* memory = bytes == 0 ? nullptr : std::aligned_alloc(256, (bytes + 255) / 256 * 256);
    if (memory == nullptr && bytes != 0) return failed(cudaErrorMemoryAllocation);
    if (bytes != 0) {
      std::memset(memory, 0xff, bytes);
      memory_[static_cast<const std::byte*>(memory)] = {bytes, host};
      left_ -= bytes;
    }
    *out = memory;
    return cudaSuccess;
  }
  cudaError_t remove(void* memory) {
    if (memory == nullptr) return cudaSuccess;
    const std::lock_guard lock(mutex_);
    const auto found = memory_.find(static_cast<const std::byte*>(memory));
    if (found == memory_.end()) return failed(cudaErrorInvalidValue);
    left_ += found->second.bytes;
    memory_.erase(found);
    std::free(memory);
    return cudaSuccess;
  }
  /// What holds the address; null for memory that CUDA does not know.
  [[nodiscard]] const Memory* find(const void* address) {
    const std::lock_guard lock(mutex_);
    const auto* p = static_cast<const std::byte*>(address);
    auto next = memory_.upper_bound(p);
    if (next == memory_.begin()) return nullptr;
    --next;
    return p < next->first + next->second.bytes ? &next->second : nullptr;
  }
  [[nodiscard]] std::size_t count() {
    const std::lock_guard lock(mutex_);
    return memory_.size();
  }
  /// From now on there are so many bytes to be had.
  void limit(std::size_t bytes) {
    const std::lock_guard lock(mutex_);
    left_ = bytes;
  }

 private:
  std::mutex mutex_;
  std::map<const std::byte*, Memory> memory_;
  std::size_t left_ = std::size_t{8} << 30;
};

/// Bytes that copies of this host thread have moved.
inline std::size_t& copied_bytes() {
  thread_local std::size_t bytes = 0;
  return bytes;
}

struct Stream {
  bool capturing = false;
};

}  // namespace pagedkv::simt

using cudaStream_t = pagedkv::simt::Stream*;
struct CUevent_st {};
using cudaEvent_t = CUevent_st*;

inline const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "cudaSuccess";
    case cudaErrorInvalidValue: return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation: return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration: return "cudaErrorInvalidConfiguration";
    case cudaErrorNoDevice: return "cudaErrorNoDevice";
    case cudaErrorInvalidDevice: return "cudaErrorInvalidDevice";
    case cudaErrorInvalidResourceHandle: return "cudaErrorInvalidResourceHandle";
    case cudaErrorStreamCaptureUnsupported: return "cudaErrorStreamCaptureUnsupported";
  }
  return "cudaErrorUnknown";
}
inline const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInvalidConfiguration: return "invalid configuration argument";
    case cudaErrorNoDevice: return "no CUDA-capable device is detected";
    case cudaErrorInvalidDevice: return "invalid device ordinal";
    case cudaErrorInvalidResourceHandle: return "invalid resource handle";
    case cudaErrorStreamCaptureUnsupported:
      return "operation not permitted when stream is capturing";
  }
  return "unknown error";
}
inline cudaError_t cudaGetLastError() {
  const cudaError_t error = pagedkv::simt::last_error();
  pagedkv::simt::last_error() = cudaSuccess;
  return error;
}
inline cudaError_t cudaPeekAtLastError() { return pagedkv::simt::last_error(); }

// One device.
inline cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}
inline cudaError_t cudaSetDevice(int device) {
  return device == 0 ? cudaSuccess : pagedkv::simt::failed(cudaErrorInvalidDevice);
}
enum cudaDeviceAttr {
  cudaDevAttrMaxSharedMemoryPerBlock = 8,
  cudaDevAttrMultiProcessorCount = 16,
  cudaDevAttrComputeCapabilityMajor = 75,
  cudaDevAttrComputeCapabilityMinor = 76,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
};
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (device != 0) return pagedkv::simt::failed(cudaErrorInvalidDevice);
  switch (attribute) {
    case cudaDevAttrMaxSharedMemoryPerBlock: *value = 48 << 10; break;
    case cudaDevAttrMultiProcessorCount: *value = 8; break;  // small, as the tests' shapes are
    case cudaDevAttrComputeCapabilityMajor: *value = 9; break;
    case cudaDevAttrComputeCapabilityMinor: *value = 0; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = 227 << 10; break;
  }
  return cudaSuccess;
}
inline cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }

inline cudaError_t cudaMalloc(void** out, std::size_t bytes) {
  return pagedkv::simt::Allocations::all().add(out, bytes, false);
}
inline cudaError_t cudaFree(void* memory) {
  return pagedkv::simt::Allocations::all().remove(memory);
}
inline cudaError_t cudaMallocAsync(void** out, std::size_t bytes, cudaStream_t) {
  return cudaMalloc(out, bytes);
}
inline cudaError_t cudaFreeAsync(void* memory, cudaStream_t) { return cudaFree(memory); }
inline cudaError_t cudaMallocHost(void** out, std::size_t bytes) {
  return pagedkv::simt::Allocations::all().add(out, bytes, true);
}
inline constexpr unsigned cudaHostAllocDefault = 0;
inline constexpr unsigned cudaHostAllocPortable = 1;
inline constexpr unsigned cudaHostAllocMapped = 2;
inline cudaError_t cudaHostAlloc(void** out, std::size_t bytes, unsigned) {
  return cudaMallocHost(out, bytes);
}
inline cudaError_t cudaFreeHost(void* memory) { return cudaFree(memory); }

template <class T>
cudaError_t cudaMalloc(T** out, std::size_t bytes) {
  return cudaMalloc(reinterpret_cast<void**>(out), bytes);
}
template <class T>
cudaError_t cudaMallocAsync(T** out, std::size_t bytes, cudaStream_t stream) {
  return cudaMallocAsync(reinterpret_cast<void**>(out), bytes, stream);
}
template <class T>
cudaError_t cudaMallocHost(T** out, std::size_t bytes) {
  return cudaMallocHost(reinterpret_cast<void**>(out), bytes);
}

enum cudaMemoryType {
  cudaMemoryTypeUnregistered = 0,
  cudaMemoryTypeHost = 1,
  cudaMemoryTypeDevice = 2,
  cudaMemoryTypeManaged = 3,
};
struct cudaPointerAttributes {
  cudaMemoryType type;
  int device;
  void* devicePointer;
  void* hostPointer;
};
inline cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes,
                                            const void* address) {
  const auto* memory = pagedkv::simt::Allocations::all().find(address);
  attributes->device = 0;
  attributes->type = memory == nullptr ? cudaMemoryTypeUnregistered
                     : memory->host    ? cudaMemoryTypeHost
                                       : cudaMemoryTypeDevice;
  attributes->devicePointer = attributes->hostPointer = const_cast<void*>(address);
  return cudaSuccess;
}

inline cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind,
                                   cudaStream_t = nullptr) {
  if (bytes != 0) std::memmove(to, from, bytes);
  pagedkv::simt::copied_bytes() += bytes;
  return cudaSuccess;
}
inline cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind) {
  return cudaMemcpyAsync(to, from, bytes, kind);
}
inline cudaError_t cudaMemcpy2DAsync(void* to, std::size_t to_pitch, const void* from,
                                     std::size_t from_pitch, std::size_t width, std::size_t rows,
                                     cudaMemcpyKind, cudaStream_t = nullptr) {
  if (rows != 0 && (to_pitch < width || from_pitch < width)) {
    return pagedkv::simt::failed(cudaErrorInvalidValue);
  }
  pagedkv::simt::copied_bytes() += rows * width;
  for (std::size_t row = 0; row < rows; ++row) {
    std::memcpy(static_cast<std::byte*>(to) + row * to_pitch,
                static_cast<const std::byte*>(from) + row * from_pitch, width);
  }
  return cudaSuccess;
}
inline cudaError_t cudaMemsetAsync(void* to, int byte, std::size_t bytes, cudaStream_t = nullptr) {
  if (bytes != 0) std::memset(to, byte, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaMemset(void* to, int byte, std::size_t bytes) {
  return cudaMemsetAsync(to, byte, bytes);
}

inline cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  *stream = new pagedkv::simt::Stream;
  return cudaSuccess;
}
inline constexpr unsigned cudaStreamNonBlocking = 1;
inline cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  return cudaStreamCreate(stream);
}
inline cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return cudaSuccess;
}
inline cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  const bool capturing = stream != nullptr && stream->capturing;
  return capturing ? pagedkv::simt::failed(cudaErrorStreamCaptureUnsupported) : cudaSuccess;
}
enum cudaStreamCaptureMode {
  cudaStreamCaptureModeGlobal = 0,
  cudaStreamCaptureModeThreadLocal = 1,
  cudaStreamCaptureModeRelaxed = 2,
};
inline cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  static thread_local cudaStreamCaptureMode current = cudaStreamCaptureModeGlobal;
  std::swap(*mode, current);
  return cudaSuccess;
}
/// As real ones do: those that wait on the host or allocate are refused in a capture.
enum cudaStreamCaptureStatus {
  cudaStreamCaptureStatusNone = 0,
  cudaStreamCaptureStatusActive = 1,
};
inline cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  const bool capturing = stream != nullptr && stream->capturing;
  *status = capturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}

inline constexpr unsigned cudaEventDisableTiming = 2;
inline cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new CUevent_st;
  return cudaSuccess;
}
inline cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
inline cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t = nullptr) { return cudaSuccess; }
inline cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
inline cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned = 0) {
  return cudaSuccess;
}
