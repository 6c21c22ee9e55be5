#include "counting_new.hpp"

#include <atomic>
#include <cstdlib>
#include <new>

#if defined(_WIN32)
#include <malloc.h>
#endif

namespace {

// More than any test means to get: refused here, because some allocators end the process instead.
constexpr std::size_t kLimit = std::size_t{1} << 40;

std::atomic<std::size_t> live{0};
std::atomic<std::size_t> total{0};
std::atomic<std::size_t> fails_at{0};  // the value of `total` at which the next one fails; 0: never
std::atomic<bool> fails_on{false};
std::atomic<const void*> kept{nullptr};

bool fails_now() noexcept {
  const std::size_t number = ++total;
  const std::size_t failing = fails_at;
  return failing != 0 && (number == failing || (fails_on && number > failing));
}

void* counted(std::size_t size, std::size_t alignment) {
  if (fails_now() || size > kLimit) throw std::bad_alloc();
#if defined(_WIN32)
  void* const memory = _aligned_malloc(size == 0 ? 1 : size, alignment);
#else
  // aligned_alloc takes multiples of the alignment alone.
  const std::size_t rounded = (size / alignment + 1) * alignment;
  void* const memory = std::aligned_alloc(alignment, rounded);
#endif
  if (memory == nullptr) throw std::bad_alloc();
  ++live;
  return memory;
}

void discounted(void* memory) noexcept {
  if (memory == nullptr) return;
  --live;
#if defined(_WIN32)
  _aligned_free(memory);
#else
  std::free(memory);
#endif
}

constexpr std::size_t kDefault = __STDCPP_DEFAULT_NEW_ALIGNMENT__;

}  // namespace

// Every form but the nothrow ones, which call these: a sanitizer brings its own of those left out.
void* operator new(std::size_t size) { return counted(size, kDefault); }
void* operator new[](std::size_t size) { return counted(size, kDefault); }
void* operator new(std::size_t size, std::align_val_t alignment) {
  return counted(size, static_cast<std::size_t>(alignment));
}
void* operator new[](std::size_t size, std::align_val_t alignment) {
  return counted(size, static_cast<std::size_t>(alignment));
}
void operator delete(void* memory) noexcept { discounted(memory); }
void operator delete[](void* memory) noexcept { discounted(memory); }
void operator delete(void* memory, std::size_t) noexcept { discounted(memory); }
void operator delete[](void* memory, std::size_t) noexcept { discounted(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { discounted(memory); }
void operator delete[](void* memory, std::align_val_t) noexcept { discounted(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { discounted(memory); }
void operator delete[](void* memory, std::size_t, std::align_val_t) noexcept { discounted(memory); }

namespace pagedkv_test {

std::size_t live_allocations() noexcept { return live; }
std::size_t total_allocations() noexcept { return total; }

void keep(const void* object) noexcept { kept = object; }

FailingAllocation::FailingAllocation(std::size_t n, Then then) noexcept {
  fails_on = then == Then::fails_on;
  fails_at = total + n;
}

FailingAllocation::~FailingAllocation() { fails_at = 0; }

}  // namespace pagedkv_test
