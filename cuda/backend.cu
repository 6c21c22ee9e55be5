#include <string>

#include "cuda/backend.hpp"
#include "pagedkv/detail/buffer_ranges.hpp"

namespace pagedkv::cuda {
namespace {

/// What was pageable has been read when the copy returns; what is pinned is read later.
void wait_for_pinned(const char* where, const Stream& stream, const void* host) {
  cudaPointerAttributes attributes{};
  expect_success(where, "cudaPointerGetAttributes", cudaPointerGetAttributes(&attributes, host));
  if (attributes.type == cudaMemoryTypeUnregistered) return;
  expect_success(where, "cudaStreamSynchronize", cudaStreamSynchronize(stream.handle));
}

std::size_t bytes_of(const char* where, const Buffer& buffer, std::size_t count) {
  return pagedkv::detail::bytes_of(where, buffer.dtype(), count);
}

}  // namespace

Buffer::Buffer(Device device, DType dtype, std::size_t size)
    : bytes_(pagedkv::detail::bytes_of("cuda.Buffer", dtype, size)),
      dtype_(dtype),
      size_(size),
      device_(device) {
  constexpr const char* where = "cuda.Buffer";
  const CurrentDevice current(where, device.index);
  if (bytes_ == 0) return;
  void* memory = nullptr;
  expect_success(where, "cudaMalloc", cudaMalloc(&memory, bytes_));
  data_ = static_cast<std::byte*>(memory);
}

Buffer::~Buffer() {
  if (data_ != nullptr) static_cast<void>(cudaFree(data_));
}

Buffer CudaBackend::allocate(Device device, DType dtype, std::size_t count, std::byte fill) {
  constexpr const char* where = "CudaBackend.allocate";
  Buffer buffer(device, dtype, count);
  if (buffer.bytes() == 0) return buffer;
  const CurrentDevice current(where, device.index);
  expect_success(where, "cudaMemset",
                 cudaMemset(buffer.data(), std::to_integer<int>(fill), buffer.bytes()));
  // Other streams do not wait for the default one.
  expect_success(where, "cudaStreamSynchronize", cudaStreamSynchronize(nullptr));
  return buffer;
}

void CudaBackend::write(Context& stream, Buffer& buffer, std::size_t first,
                        std::span<const std::int32_t> values) {
  constexpr const char* where = "CudaBackend.write";
  pagedkv::detail::expect_elements_of<std::int32_t>(where, buffer.dtype());
  pagedkv::detail::expect_range(where, first, values.size(), buffer.size());
  if (values.empty()) return;
  const CurrentDevice current(where, stream.device);
  expect_success(where, "cudaMemcpyAsync",
                 cudaMemcpyAsync(buffer.data() + first * sizeof(std::int32_t), values.data(),
                                 values.size_bytes(), cudaMemcpyHostToDevice, stream.handle));
  wait_for_pinned(where, stream, values.data());
}

void CudaBackend::read(Context& stream, const Buffer& buffer, std::size_t first,
                       std::span<std::int32_t> out) {
  constexpr const char* where = "CudaBackend.read";
  pagedkv::detail::expect_elements_of<std::int32_t>(where, buffer.dtype());
  pagedkv::detail::expect_range(where, first, out.size(), buffer.size());
  if (out.empty()) return;
  const CurrentDevice current(where, stream.device);
  expect_success(where, "cudaMemcpyAsync",
                 cudaMemcpyAsync(out.data(), buffer.data() + first * sizeof(std::int32_t),
                                 out.size_bytes(), cudaMemcpyDeviceToHost, stream.handle));
  expect_success(where, "cudaStreamSynchronize", cudaStreamSynchronize(stream.handle));
}

void CudaBackend::write_rows(Context& stream, Buffer& buffer, const RowCopy& rows,
                             const std::byte* host) {
  constexpr const char* where = "CudaBackend.write_rows";
  if (rows.rows == 0 || rows.width == 0) return;
  pagedkv::detail::expect_rows(where, rows, buffer.bytes());
  const CurrentDevice current(where, stream.device);
  expect_success(where, "cudaMemcpy2DAsync",
                 cudaMemcpy2DAsync(buffer.data() + rows.device_offset, rows.device_pitch, host,
                                   rows.host_pitch, rows.width, rows.rows, cudaMemcpyHostToDevice,
                                   stream.handle));
  wait_for_pinned(where, stream, host);
}

void CudaBackend::read_rows(Context& stream, const Buffer& buffer, const RowCopy& rows,
                            std::byte* host) {
  constexpr const char* where = "CudaBackend.read_rows";
  if (rows.rows == 0 || rows.width == 0) return;
  pagedkv::detail::expect_rows(where, rows, buffer.bytes());
  const CurrentDevice current(where, stream.device);
  expect_success(where, "cudaMemcpy2DAsync",
                 cudaMemcpy2DAsync(host, rows.host_pitch, buffer.data() + rows.device_offset,
                                   rows.device_pitch, rows.width, rows.rows, cudaMemcpyDeviceToHost,
                                   stream.handle));
  expect_success(where, "cudaStreamSynchronize", cudaStreamSynchronize(stream.handle));
}

void CudaBackend::copy(Context& stream, Buffer& to, std::size_t to_first, const Buffer& from,
                       std::size_t from_first, std::size_t count) {
  constexpr const char* where = "CudaBackend.copy";
  if (to.dtype() != from.dtype()) {
    pagedkv::detail::throw_shape(where, "buffers of " + std::string(dtype_name(to.dtype())) +
                                            " and " + std::string(dtype_name(from.dtype())) +
                                            "; expected one dtype");
  }
  pagedkv::detail::expect_range(where, to_first, count, to.size());
  pagedkv::detail::expect_range(where, from_first, count, from.size());
  const std::size_t bytes = bytes_of(where, to, count);
  std::byte* target = to.data() + bytes_of(where, to, to_first);
  const std::byte* source = from.data() + bytes_of(where, from, from_first);
  if (bytes == 0 || target == source) return;
  const CurrentDevice current(where, stream.device);
  const auto move = [&](void* at, const void* of) {
    expect_success(where, "cudaMemcpyAsync",
                   cudaMemcpyAsync(at, of, bytes, cudaMemcpyDefault, stream.handle));
  };
  if (target >= source + bytes || source >= target + bytes) return move(target, source);
  // CUDA copies no ranges that overlap.
  void* between = nullptr;
  expect_success(where, "cudaMallocAsync", cudaMallocAsync(&between, bytes, stream.handle));
  try {
    move(between, source);
    move(target, between);
  } catch (...) {
    static_cast<void>(cudaFreeAsync(between, stream.handle));
    throw;
  }
  expect_success(where, "cudaFreeAsync", cudaFreeAsync(between, stream.handle));
}

}  // namespace pagedkv::cuda
