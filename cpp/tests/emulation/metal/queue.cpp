#include "cpp/tests/emulation/metal/queue.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpp/tests/emulation/metal/function_constants.hpp"
#include "cpp/tests/emulation/metal/kernels.hpp"
#include "cpp/tests/emulation/simt.hpp"

namespace pagedkv_test {

using pagedkv::metal::Argument;
using pagedkv::metal::Dispatch;

namespace {

/// What every Metal device has.
constexpr std::size_t kMostShared = 32768;
constexpr std::size_t kMostThreads = 1024;

void expect_launchable(const Dispatch& dispatch) {
  const auto& threads = dispatch.threads;
  const std::size_t count = std::size_t{threads.x} * threads.y * threads.z;
  if (dispatch.shared_bytes > kMostShared || dispatch.shared_bytes % 16 != 0 || count == 0 ||
      count > kMostThreads || count % 32 != 0) {
    throw std::logic_error(std::string("a dispatch of ") + dispatch.name +
                           " that a device refuses");
  }
}

}  // namespace

void EmulatedQueue::dispatch(const Dispatch& dispatch) {
  expect_launchable(dispatch);
  static std::mutex one_at_a_time;  // the constants are those of one dispatch
  const std::lock_guard lock(one_at_a_time);
  std::copy(dispatch.constants.begin(), dispatch.constants.end(), function_constants);

  // Bytes of the host are copied, each to memory of its own, so that a read behind them shows.
  std::vector<std::unique_ptr<std::byte[]>> copies;
  std::array<const void*, Dispatch::kMaxArguments> arrays{};
  for (std::size_t i = 0; i < dispatch.num_arguments; ++i) {
    const Argument& argument = dispatch.arguments[i];
    arrays[i] = argument.data;
    if (argument.host_bytes == 0) continue;
    copies.push_back(std::make_unique<std::byte[]>(argument.host_bytes));
    std::memcpy(copies.back().get(), argument.data, argument.host_bytes);
    arrays[i] = copies.back().get();
  }
  const auto size = [](pagedkv::metal::Size s) { return pagedkv::simt::Dim3{s.x, s.y, s.z}; };
  pagedkv::simt::launch(size(dispatch.groups), size(dispatch.threads), dispatch.shared_bytes,
                        [&] { run_metal_thread(dispatch.name, arrays.data()); });
}

void* EmulatedQueue::workspace(std::size_t bytes) {
  workspace_.reset(new std::byte[bytes]);
  std::memset(workspace_.get(), 0xff, bytes);  // NaN where nobody writes
  return workspace_.get();
}

}  // namespace pagedkv_test
