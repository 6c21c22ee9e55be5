#pragma once

// What a device must offer so that sequence states and caches can live on it.

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "pagedkv/core/dtype.hpp"

namespace pagedkv::inline v0_1 {

/// A rectangle between a device buffer and packed or strided host memory: `rows` runs of `width`
/// bytes; the runs begin `device_pitch` bytes apart on the device, `host_pitch` on the host.
struct RowCopy {
  std::size_t rows;
  std::size_t width;
  std::size_t device_offset;  ///< bytes from the start of the buffer to the first run
  std::size_t device_pitch;
  std::size_t host_pitch;
};

/// A device. A model of this concept is a struct of static functions:
///
///  - `Device` says which one (default-constructible: the default device); `Context` orders the
///    work on it (a stream, a queue); `Buffer` owns memory there, moves and never copies, and tells
///    its `dtype()` and `size()` in elements.
///  - `allocate` returns `count` elements whose bytes are all `fill`.
///  - `write` and `read` move a range of int32 that begins at element `first`; `write_rows` and
///    `read_rows` move a rectangle of bytes; `copy` moves `count` elements between buffers of one
///    dtype. Host memory given to a call may be reused when it returns; what `read` and `read_rows`
///    deliver is there when they return. Ranges outside the buffer are a ShapeError.
///  - `survives_fork`: whether buffers may still be used after `fork()`.
template <class B>
concept Backend =
    std::default_initializable<typename B::Device> && std::movable<typename B::Buffer> &&
    !std::copyable<typename B::Buffer> &&
    requires(typename B::Device device, typename B::Context& ctx, typename B::Buffer& buffer,
             const typename B::Buffer& source, DType dtype, std::size_t n, std::byte fill,
             std::span<const std::int32_t> values, std::span<std::int32_t> out, const RowCopy& rows,
             const std::byte* host, std::byte* host_out) {
      { B::name } -> std::convertible_to<std::string_view>;
      { B::survives_fork } -> std::convertible_to<bool>;
      { B::context(device) } -> std::same_as<typename B::Context>;
      { B::allocate(device, dtype, n, fill) } -> std::same_as<typename B::Buffer>;
      { source.dtype() } -> std::same_as<DType>;
      { source.size() } -> std::same_as<std::size_t>;
      B::write(ctx, buffer, n, values);
      B::read(ctx, source, n, out);
      B::write_rows(ctx, buffer, rows, host);
      B::read_rows(ctx, source, rows, host_out);
      B::copy(ctx, buffer, n, source, n, n);
    };

}  // namespace pagedkv::inline v0_1
