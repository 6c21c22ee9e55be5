#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>

#include "pagedkv/core/backend.hpp"
#include "pagedkv/core/dtype.hpp"
#include "pagedkv/detail/buffer_ranges.hpp"
#include "pagedkv/detail/storage.hpp"

namespace pagedkv::inline v0_1::cpu {

/// Elements of one dtype in host memory, 64-byte aligned.
class Buffer {
 public:
  Buffer() noexcept = default;
  Buffer(DType dtype, std::size_t size)
      : storage_(detail::bytes_of("cpu.Buffer", dtype, size)), dtype_(dtype), size_(size) {}

  [[nodiscard]] DType dtype() const noexcept { return dtype_; }
  /// Elements.
  [[nodiscard]] std::size_t size() const noexcept { return size_; }
  [[nodiscard]] std::span<std::byte> bytes() noexcept { return {storage_.data(), storage_.size()}; }
  [[nodiscard]] std::span<const std::byte> bytes() const noexcept {
    return {storage_.data(), storage_.size()};
  }
  /// The elements as `T`.
  /// @throws ShapeError when `T` does not hold elements of `dtype()`.
  template <class T>
  [[nodiscard]] std::span<T> as() {
    detail::expect_elements_of<T>("cpu.Buffer.as", dtype_);
    return detail::span_cast<T>(bytes());
  }
  template <class T>
  [[nodiscard]] std::span<const T> as() const {
    detail::expect_elements_of<T>("cpu.Buffer.as", dtype_);
    return detail::span_cast<T>(bytes());
  }

 private:
  detail::Storage storage_;
  DType dtype_ = DType::float32;
  std::size_t size_ = 0;
};

/// There is one CPU.
struct Device {};
/// The CPU does each call before it returns; there is nothing to order.
struct Context {};

/// Host memory as a device: every call is a copy, done when it returns.
struct CpuBackend {
  using Device = cpu::Device;
  using Context = cpu::Context;
  using Buffer = cpu::Buffer;

  static constexpr std::string_view name = "cpu";
  static constexpr bool survives_fork = true;

  static Context context(Device) noexcept { return {}; }

  static Buffer allocate(Device, DType dtype, std::size_t count, std::byte fill = std::byte{0}) {
    Buffer buffer(dtype, count);
    if (fill != std::byte{0}) std::ranges::fill(buffer.bytes(), fill);
    return buffer;
  }

  static void write(Context&, Buffer& buffer, std::size_t first,
                    std::span<const std::int32_t> values) {
    const auto all = buffer.as<std::int32_t>();
    detail::expect_range("CpuBackend.write", first, values.size(), all.size());
    std::ranges::copy(values, all.begin() + static_cast<std::ptrdiff_t>(first));
  }

  static void read(Context&, const Buffer& buffer, std::size_t first, std::span<std::int32_t> out) {
    const auto all = buffer.as<std::int32_t>();
    detail::expect_range("CpuBackend.read", first, out.size(), all.size());
    std::ranges::copy(all.subspan(first, out.size()), out.begin());
  }

  static void write_rows(Context&, Buffer& buffer, const RowCopy& rows, const std::byte* host) {
    if (rows.rows == 0 || rows.width == 0) return;
    detail::expect_rows("CpuBackend.write_rows", rows, buffer.bytes().size());
    std::byte* device = buffer.bytes().data() + rows.device_offset;
    for (std::size_t row = 0; row < rows.rows; ++row) {
      std::memcpy(device + row * rows.device_pitch, host + row * rows.host_pitch, rows.width);
    }
  }

  static void read_rows(Context&, const Buffer& buffer, const RowCopy& rows, std::byte* host) {
    if (rows.rows == 0 || rows.width == 0) return;
    detail::expect_rows("CpuBackend.read_rows", rows, buffer.bytes().size());
    const std::byte* device = buffer.bytes().data() + rows.device_offset;
    for (std::size_t row = 0; row < rows.rows; ++row) {
      std::memcpy(host + row * rows.host_pitch, device + row * rows.device_pitch, rows.width);
    }
  }

  /// The two ranges may overlap.
  static void copy(Context&, Buffer& to, std::size_t to_first, const Buffer& from,
                   std::size_t from_first, std::size_t count) {
    constexpr const char* where = "CpuBackend.copy";
    if (to.dtype() != from.dtype()) {
      detail::throw_shape(where, "buffers of " + std::string(dtype_name(to.dtype())) + " and " +
                                     std::string(dtype_name(from.dtype())) +
                                     "; expected one dtype");
    }
    detail::expect_range(where, to_first, count, to.size());
    detail::expect_range(where, from_first, count, from.size());
    if (count == 0) return;
    const auto bytes = [&](std::size_t n) { return detail::bytes_of(where, to.dtype(), n); };
    std::memmove(to.bytes().data() + bytes(to_first), from.bytes().data() + bytes(from_first),
                 bytes(count));
  }
};

static_assert(Backend<CpuBackend>);

}  // namespace pagedkv::inline v0_1::cpu

namespace pagedkv::inline v0_1 {
using cpu::CpuBackend;
}  // namespace pagedkv::inline v0_1
