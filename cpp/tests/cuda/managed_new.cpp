// On a real device all that the tests allocate is memory which both sides reach, so that their
// vectors are arrays of the device.

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdlib>
#include <new>

namespace {

/// Before each piece of memory, as far as its alignment asks for.
struct Header {
  bool managed;
};
constexpr std::size_t kRoom = 256;

void* allocate(std::size_t bytes) {
  void* memory = nullptr;
  const bool managed = cudaMallocManaged(&memory, bytes + kRoom) == cudaSuccess;
  if (!managed) memory = std::aligned_alloc(kRoom, (bytes + 2 * kRoom - 1) / kRoom * kRoom);
  if (memory == nullptr) throw std::bad_alloc();
  new (memory) Header{managed};
  return static_cast<std::byte*>(memory) + kRoom;
}

void release(void* p) noexcept {
  if (p == nullptr) return;
  void* memory = static_cast<std::byte*>(p) - kRoom;
  if (static_cast<Header*>(memory)->managed) {
    static_cast<void>(cudaFree(memory));
  } else {
    std::free(memory);
  }
}

}  // namespace

void* operator new(std::size_t bytes) { return allocate(bytes); }
void* operator new(std::size_t bytes, std::align_val_t) { return allocate(bytes); }
void operator delete(void* p) noexcept { release(p); }
void operator delete(void* p, std::size_t) noexcept { release(p); }
void operator delete(void* p, std::align_val_t) noexcept { release(p); }
void operator delete(void* p, std::size_t, std::align_val_t) noexcept { release(p); }
