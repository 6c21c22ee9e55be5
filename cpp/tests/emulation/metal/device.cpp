// The device of the emulation: the CPU's memory, and an emulated queue.

#include "metal/device.hpp"

#include <cstdlib>
#include <new>

#include "cpp/tests/emulation/metal/queue.hpp"

namespace pagedkv::metal {

std::shared_ptr<void> allocate(std::size_t bytes) {
  void* const memory = std::malloc(bytes == 0 ? 1 : bytes);
  if (memory == nullptr) throw std::bad_alloc();
  return {memory, std::free};
}

std::string missing() { return {}; }

bool compile_kernels() { return true; }

std::unique_ptr<Queue> make_queue() { return std::make_unique<pagedkv_test::EmulatedQueue>(); }

Queue& default_queue() {
  static Queue& only = *make_queue().release();
  return only;
}

}  // namespace pagedkv::metal
