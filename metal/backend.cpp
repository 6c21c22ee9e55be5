#include "metal/backend.hpp"

#include <cstring>
#include <string>
#include <vector>

#include "metal/device.hpp"
#include "metal/dispatches.hpp"
#include "pagedkv/core/errors.hpp"
#include "pagedkv/detail/checked_math.hpp"
#include "pagedkv/ops/copy_blocks_call.hpp"

namespace pagedkv::metal {

using namespace detail_dispatches;

namespace {

void expect_range(const char* where, std::size_t first, std::size_t count, std::size_t size) {
  if (first > size || count > size - first) {
    detail::throw_shape(where, "elements " + std::to_string(first) + " to " +
                                   std::to_string(first) + " + " + std::to_string(count) +
                                   "; expected them inside the buffer's " + std::to_string(size));
  }
}

void expect_rows(const char* where, const RowCopy& rows, std::size_t size) {
  const std::size_t last = detail::checked_product(where, {rows.rows - 1, rows.device_pitch});
  if (rows.device_offset > size || last > size - rows.device_offset ||
      rows.width > size - rows.device_offset - last) {
    detail::throw_shape(
        where, std::to_string(rows.rows) + " rows of " + std::to_string(rows.width) +
                   " bytes from byte " + std::to_string(rows.device_offset) +
                   "; expected them inside the buffer's " + std::to_string(size) + " bytes");
  }
}

void expect_int32(const char* where, const Buffer& buffer) {
  detail::expect_elements_of<std::int32_t>(where, buffer.dtype());
}

/// A rectangle of bytes to memory of the device.
struct Rectangle {
  std::size_t rows;
  std::size_t width;
  std::size_t from_pitch;
  std::size_t to_pitch;
};

/// @param from  memory of the device, or of the host, whose bytes are copied by the call.
void run_copy(const char* where, Argument from, std::byte* to, const Rectangle& rectangle,
              Queue& queue) {
  std::size_t unit = 16;
  const std::size_t all = rectangle.width | rectangle.from_pitch | rectangle.to_pitch |
                          reinterpret_cast<std::uintptr_t>(to) |
                          (from.host_bytes != 0 ? 0 : reinterpret_cast<std::uintptr_t>(from.data));
  while (all % unit != 0) unit /= 2;
  // As a copy of block 0, whose heads are the rows.
  const IndexPair pair{0, 0};
  kernels::CopyParams params{};
  params.from.head_stride = static_cast<std::int64_t>(rectangle.from_pitch);
  params.to.head_stride = static_cast<std::int64_t>(rectangle.to_pitch);
  params.from_end = params.to_end = params.num_pairs = params.pairs_of_thread = 1;
  params.num_heads = narrow(where, "rows", static_cast<std::int64_t>(rectangle.rows));
  params.slots = 1;
  params.row_units =
      narrow(where, "a row's bytes", static_cast<std::int64_t>(rectangle.width / unit));
  Dispatch dispatch("copy_indexed");
  dispatch.set(Constant::block_size, 1);
  dispatch.set(Constant::unit_bytes, unit);
  dispatch.add_params(params);
  dispatch.add(from);
  dispatch.add_array(to);
  dispatch.add({&pair, sizeof pair});
  dispatch.add_array(queue.error_word());
  cover(dispatch,
        narrow(where, "bytes", static_cast<std::int64_t>(rectangle.rows * params.row_units)), 1);
  queue.dispatch(dispatch);
}

}  // namespace

Buffer::Buffer(DType dtype, std::size_t size)
    : memory_(metal::allocate(detail::bytes_of("MetalBackend.allocate", dtype, size))),
      dtype_(dtype),
      size_(size) {}

std::size_t Buffer::bytes() const noexcept { return size_ * dtype_bits(dtype_) / 8; }

Context MetalBackend::context(Device) { return {&default_queue()}; }

Buffer MetalBackend::allocate(Device, DType dtype, std::size_t count, std::byte fill) {
  Buffer buffer(dtype, count);
  // No kernel knows it yet.
  if (buffer.bytes() != 0) {
    std::memset(buffer.data(), std::to_integer<int>(fill), buffer.bytes());
  }
  return buffer;
}

void MetalBackend::write(Context& context, Buffer& buffer, std::size_t first,
                         std::span<const std::int32_t> values) {
  constexpr const char* where = "MetalBackend.write";
  expect_int32(where, buffer);
  expect_range(where, first, values.size(), buffer.size());
  if (values.empty()) return;
  // On the queue, as kernels that were dispatched before may still read what is there.
  run_copy(where, {values.data(), values.size_bytes()}, buffer.data() + first * 4,
           {1, values.size_bytes(), 0, 0}, *context.queue);
  context.queue->commit();
}

void MetalBackend::read(Context& context, const Buffer& buffer, std::size_t first,
                        std::span<std::int32_t> out) {
  constexpr const char* where = "MetalBackend.read";
  expect_int32(where, buffer);
  expect_range(where, first, out.size(), buffer.size());
  if (out.empty()) return;
  context.queue->wait();
  std::memcpy(out.data(), buffer.data() + first * 4, out.size_bytes());
}

void MetalBackend::write_rows(Context& context, Buffer& buffer, const RowCopy& rows,
                              const std::byte* host) {
  constexpr const char* where = "MetalBackend.write_rows";
  if (rows.rows == 0 || rows.width == 0) return;
  expect_rows(where, rows, buffer.bytes());
  const std::size_t bytes = detail::checked_product(where, {rows.rows, rows.width});
  std::vector<std::byte> packed;
  if (rows.host_pitch != rows.width) {
    packed.resize(bytes);
    for (std::size_t row = 0; row < rows.rows; ++row) {
      std::memcpy(packed.data() + row * rows.width, host + row * rows.host_pitch, rows.width);
    }
    host = packed.data();
  }
  run_copy(where, {host, bytes}, buffer.data() + rows.device_offset,
           {rows.rows, rows.width, rows.width, rows.device_pitch}, *context.queue);
  context.queue->commit();
}

void MetalBackend::read_rows(Context& context, const Buffer& buffer, const RowCopy& rows,
                             std::byte* host) {
  if (rows.rows == 0 || rows.width == 0) return;
  expect_rows("MetalBackend.read_rows", rows, buffer.bytes());
  context.queue->wait();
  const std::byte* const device = buffer.data() + rows.device_offset;
  for (std::size_t row = 0; row < rows.rows; ++row) {
    std::memcpy(host + row * rows.host_pitch, device + row * rows.device_pitch, rows.width);
  }
}

void MetalBackend::copy(Context& context, Buffer& to, std::size_t to_first, const Buffer& from,
                        std::size_t from_first, std::size_t count) {
  constexpr const char* where = "MetalBackend.copy";
  if (to.dtype() != from.dtype()) {
    detail::throw_shape(where, "buffers of " + std::string(dtype_name(to.dtype())) + " and " +
                                   std::string(dtype_name(from.dtype())) + "; expected one dtype");
  }
  expect_range(where, to_first, count, to.size());
  expect_range(where, from_first, count, from.size());
  if (count == 0) return;
  const auto bytes = [&](std::size_t n) { return detail::bytes_of(where, to.dtype(), n); };
  const std::byte* source = from.data() + bytes(from_first);
  std::byte* const target = to.data() + bytes(to_first);
  const std::size_t size = bytes(count);
  Queue& queue = *context.queue;
  if (source < target + size && target < source + size) {
    // Threads of one kernel would read what others have written.
    auto* const between = static_cast<std::byte*>(queue.workspace(size));
    run_copy(where, {source, 0}, between, {1, size, 0, 0}, queue);
    source = between;
  }
  run_copy(where, {source, 0}, target, {1, size, 0, 0}, queue);
  queue.commit();
}

}  // namespace pagedkv::metal
