#include <algorithm>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "cuda/workspace.hpp"
#include "pagedkv/core/errors.hpp"

namespace pagedkv::cuda {
namespace {

/// Enough for most calls of most models, so that a workspace hardly ever grows.
constexpr std::size_t kLeastFloats = std::size_t{8} << 20;
constexpr std::size_t kLeastArrivals = std::size_t{64} << 10;

struct Room {
  Workspace memory;
  std::size_t floats = 0;
  std::size_t arrivals = 0;
  std::vector<Workspace> before;  ///< what it has grown out of
};

void expect_no_capture(const Stream& stream, std::size_t bytes, const char* where) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  expect_success(where, "cudaStreamIsCapturing", cudaStreamIsCapturing(stream.handle, &status));
  if (status == cudaStreamCaptureStatusNone) return;
  pagedkv::detail::throw_unsupported(
      where, "a workspace of " + std::to_string(bytes) +
                 " bytes, more than the stream has, while it is captured; expected a call of "
                 "these shapes before the capture");
}

Room make_room(const Stream& stream, std::size_t floats, std::size_t arrivals, const char* where) {
  const std::size_t counters = arrivals * sizeof(unsigned);
  const std::size_t bytes = floats * sizeof(float) + counters;
  expect_no_capture(stream, bytes, where);
  void* memory = nullptr;
  expect_success(where, "cudaMalloc", cudaMalloc(&memory, bytes));
  auto* const partials = static_cast<float*>(memory);
  auto* const zeros = reinterpret_cast<unsigned*>(partials + floats);
  const cudaError_t error = cudaMemsetAsync(zeros, 0, counters, stream.handle);
  if (error != cudaSuccess) static_cast<void>(cudaFree(memory));
  expect_success(where, "cudaMemsetAsync", error);
  return {{partials, zeros}, floats, arrivals, {}};
}

}  // namespace

Workspace workspace(const Stream& stream, std::size_t floats, std::size_t arrivals,
                    const char* where) {
  static std::mutex mutex;
  // Never given back: when the process ends, the device may be gone before.
  static auto* const rooms = new std::map<std::pair<int, cudaStream_t>, Room>;
  const std::lock_guard lock(mutex);
  Room& room = (*rooms)[{stream.device, stream.handle}];
  if (room.floats < floats || room.arrivals < arrivals) {
    // At least twice what it was: all that it ever was is then less than what it is.
    const auto grown = [](std::size_t needed, std::size_t was, std::size_t least) {
      return needed <= was ? was : std::max({needed, 2 * was, least});
    };
    Room larger = make_room(stream, grown(floats, room.floats, kLeastFloats),
                            grown(arrivals, room.arrivals, kLeastArrivals), where);
    larger.before = std::move(room.before);
    larger.before.push_back(room.memory);
    room = std::move(larger);
  }
  return room.memory;
}

}  // namespace pagedkv::cuda
