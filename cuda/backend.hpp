#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <utility>

#include "cuda/stream.hpp"
#include "pagedkv/core/backend.hpp"
#include "pagedkv/core/dtype.hpp"

namespace pagedkv::cuda {

/// A device of this machine, by CUDA's number.
struct Device {
  int index = 0;
};

/// Elements of one dtype in the memory of a device.
class Buffer {
 public:
  Buffer() noexcept = default;
  /// Not filled.
  /// @throws CudaError when there is no such device or no memory; ShapeError for an overflow.
  Buffer(Device device, DType dtype, std::size_t size);

  Buffer(Buffer&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)),
        bytes_(std::exchange(other.bytes_, 0)),
        dtype_(other.dtype_),
        size_(std::exchange(other.size_, 0)),
        device_(other.device_) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    std::swap(dtype_, other.dtype_);
    std::swap(size_, other.size_);
    std::swap(device_, other.device_);
    return *this;
  }
  /// Waits for the device, on which kernels may still use the memory.
  ~Buffer();

  [[nodiscard]] DType dtype() const noexcept { return dtype_; }
  /// Elements.
  [[nodiscard]] std::size_t size() const noexcept { return size_; }
  [[nodiscard]] std::size_t bytes() const noexcept { return bytes_; }
  /// Address on the device.
  [[nodiscard]] std::byte* data() const noexcept { return data_; }
  [[nodiscard]] Device device() const noexcept { return device_; }

 private:
  std::byte* data_ = nullptr;
  std::size_t bytes_ = 0;
  DType dtype_ = DType::float32;
  std::size_t size_ = 0;
  Device device_;
};

/// Memory of a CUDA device. Everything is put on the stream of the context and not waited for, but
/// for what `read` and `read_rows` deliver, and for writes from pinned host memory, which may be
/// reused when they return. Errors carry the text of CUDA; what was put on the stream before may
/// fail in a later call.
struct CudaBackend {
  using Device = cuda::Device;
  using Context = cuda::Stream;
  using Buffer = cuda::Buffer;

  static constexpr std::string_view name = "cuda";
  static constexpr bool survives_fork = false;

  /// The default stream.
  static Context context(Device device) noexcept { return {device.index, nullptr}; }
  static Buffer allocate(Device device, DType dtype, std::size_t count,
                         std::byte fill = std::byte{0});
  static void write(Context& stream, Buffer& buffer, std::size_t first,
                    std::span<const std::int32_t> values);
  static void read(Context& stream, const Buffer& buffer, std::size_t first,
                   std::span<std::int32_t> out);
  static void write_rows(Context& stream, Buffer& buffer, const RowCopy& rows,
                         const std::byte* host);
  static void read_rows(Context& stream, const Buffer& buffer, const RowCopy& rows,
                        std::byte* host);
  /// The two ranges may overlap.
  static void copy(Context& stream, Buffer& to, std::size_t to_first, const Buffer& from,
                   std::size_t from_first, std::size_t count);
};

static_assert(Backend<CudaBackend>);

}  // namespace pagedkv::cuda

namespace pagedkv {
using cuda::CudaBackend;
}  // namespace pagedkv
