#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <utility>

#include "metal/queue.hpp"
#include "pagedkv/core/backend.hpp"
#include "pagedkv/core/dtype.hpp"

namespace pagedkv::metal {

/// The system's default device: there is one.
struct Device {};

/// Elements of one dtype in memory that the device shares with the processor. Kernels that were
/// given it keep it until they have run.
class Buffer {
 public:
  Buffer() noexcept = default;
  /// Not filled.
  /// @throws MetalError when there is no device or no memory; ShapeError for an overflow.
  Buffer(DType dtype, std::size_t size);

  Buffer(Buffer&& other) noexcept
      : memory_(std::move(other.memory_)),
        dtype_(other.dtype_),
        size_(std::exchange(other.size_, 0)) {}
  Buffer& operator=(Buffer&& other) noexcept {
    std::swap(memory_, other.memory_);
    std::swap(dtype_, other.dtype_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~Buffer() = default;

  [[nodiscard]] DType dtype() const noexcept { return dtype_; }
  /// Elements.
  [[nodiscard]] std::size_t size() const noexcept { return size_; }
  [[nodiscard]] std::size_t bytes() const noexcept;
  /// For kernels; for the processor too, while none of them runs.
  [[nodiscard]] std::byte* data() const noexcept { return static_cast<std::byte*>(memory_.get()); }

 private:
  std::shared_ptr<void> memory_;
  DType dtype_ = DType::float32;
  std::size_t size_ = 0;
};

/// Orders work: a queue, used by one thread at a time.
struct Context {
  Queue* queue = nullptr;
};

/// Memory of the Metal device. Everything is put on the queue of the context and not waited for,
/// but for what `read` and `read_rows` deliver.
struct MetalBackend {
  using Device = metal::Device;
  using Context = metal::Context;
  using Buffer = metal::Buffer;

  static constexpr std::string_view name = "metal";
  static constexpr bool survives_fork = false;

  /// The default queue.
  static Context context(Device device);
  static Buffer allocate(Device device, DType dtype, std::size_t count,
                         std::byte fill = std::byte{0});
  static void write(Context& context, Buffer& buffer, std::size_t first,
                    std::span<const std::int32_t> values);
  static void read(Context& context, const Buffer& buffer, std::size_t first,
                   std::span<std::int32_t> out);
  static void write_rows(Context& context, Buffer& buffer, const RowCopy& rows,
                         const std::byte* host);
  static void read_rows(Context& context, const Buffer& buffer, const RowCopy& rows,
                        std::byte* host);
  /// The two ranges may overlap.
  static void copy(Context& context, Buffer& to, std::size_t to_first, const Buffer& from,
                   std::size_t from_first, std::size_t count);
};

static_assert(Backend<MetalBackend>);

}  // namespace pagedkv::metal

namespace pagedkv {
using metal::MetalBackend;
}  // namespace pagedkv
