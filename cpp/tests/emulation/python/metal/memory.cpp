// The queue and the memory of the emulated module of Metal's operations.

#include "target/memory.hpp"

#include <cstdlib>
#include <new>

#include "cpp/tests/emulation/metal/queue.hpp"

namespace pagedkv::python::target {

metal::Queue& queue() {
  static pagedkv_test::EmulatedQueue& only = *new pagedkv_test::EmulatedQueue;
  return only;
}

std::shared_ptr<void> allocate(std::size_t bytes) {
  void* const memory = std::malloc(bytes == 0 ? 1 : bytes);
  if (memory == nullptr) throw std::bad_alloc();
  return {memory, std::free};
}

}  // namespace pagedkv::python::target
