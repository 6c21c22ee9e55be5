#pragma once

// Small arrays between memory of the CPU and a CUDA device, in the order of an operation's stream.

#include <cuda_runtime.h>

#include <cstddef>

#include "cuda/errors.hpp"
#include "cuda/stream.hpp"
#include "target/place.hpp"
#include "tensors.hpp"
#include "without_gil.hpp"

namespace pagedkv::python::target {

/// The stream of an operation: that which the library of its first array is at.
[[nodiscard]] inline cuda::Stream stream_of(const Site& site) {
  if (site.first().ptr() == nullptr) return {};
  const std::int32_t device = site.device().id;
  const std::uintptr_t stream = current_stream(site.first(), device);
  return {device, reinterpret_cast<cudaStream_t>(stream)};
}

/// A copy on the device, which lives until what is on the stream has used it.
class Upload {
 public:
  /// @throws UnsupportedError while the stream is captured: a graph would read `from` again.
  Upload(const Site& site, const void* from, std::size_t bytes) : stream_(stream_of(site)) {
    if (bytes == 0) return;
    const cuda::CurrentDevice current(site, stream_.device);
    cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    cuda::expect_success(site, "cudaStreamIsCapturing",
                         cudaStreamIsCapturing(stream_.handle, &capture));
    if (capture != cudaStreamCaptureStatusNone) {
      pagedkv::detail::throw_unsupported(
          site,
          "an array in memory of the CPU while a graph is captured; expected all on the "
          "device");
    }
    cuda::expect_success(site, "cudaMallocAsync", cudaMallocAsync(&data_, bytes, stream_.handle));
    cuda::expect_success(
        site, "cudaMemcpyAsync",
        cudaMemcpyAsync(data_, from, bytes, cudaMemcpyHostToDevice, stream_.handle));
  }
  Upload(const Upload&) = delete;
  Upload& operator=(const Upload&) = delete;
  ~Upload() {
    if (data_ != nullptr) static_cast<void>(cudaFreeAsync(data_, stream_.handle));
  }
  [[nodiscard]] const void* data() const noexcept { return data_; }

 private:
  cuda::Stream stream_;
  void* data_ = nullptr;
};

/// Reads memory of the device, after what is on the stream.
inline void download(const Site& site, void* to, const void* from, std::size_t bytes) {
  const cuda::Stream stream = stream_of(site);
  const WithoutGil released;
  cuda::expect_success(site, "cudaMemcpyAsync",
                       cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream.handle));
  cuda::expect_success(site, "cudaStreamSynchronize", cudaStreamSynchronize(stream.handle));
}

}  // namespace pagedkv::python::target
