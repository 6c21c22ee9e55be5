// All memory of the test program lies in one buffer of the device: the vectors of the tests are its
// arrays, as they are in the emulation.

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <array>
#include <bit>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <new>
#include <string>

#include "metal/device.hpp"

namespace {

constexpr std::size_t kArenaBytes = std::size_t{1} << 30;
/// Bytes before each piece, which say how large it is; pieces are as aligned as this.
constexpr std::size_t kHeader = 64;

/// Pieces of 2^n bytes, and lists of those that were given back.
class Arena {
 public:
  static Arena& only() {
    static Arena arena;
    return arena;
  }

  void* take(std::size_t bytes) noexcept {
    const std::size_t piece = std::bit_ceil(bytes + kHeader);
    const std::lock_guard lock(mutex_);
    std::byte*& free = free_of(piece);
    std::byte* at = free;
    if (at != nullptr) {
      free = *reinterpret_cast<std::byte**>(at + kHeader);
    } else {
      if (piece > kArenaBytes - used_) return nullptr;
      at = memory_ + used_;
      used_ += piece;
      *reinterpret_cast<std::size_t*>(at) = piece;
    }
    return at + kHeader;
  }
  void give_back(void* memory) noexcept {
    if (memory == nullptr) return;
    const std::lock_guard lock(mutex_);
    auto* const at = static_cast<std::byte*>(memory) - kHeader;
    std::byte*& free = free_of(*reinterpret_cast<std::size_t*>(at));
    *static_cast<std::byte**>(memory) = free;
    free = at;
  }
  [[nodiscard]] void* memory() const noexcept { return memory_; }

 private:
  Arena()
      : memory_(static_cast<std::byte*>(
            mmap(nullptr, kArenaBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANON, -1, 0))) {
    if (memory_ == MAP_FAILED) std::abort();
  }
  [[nodiscard]] std::byte*& free_of(std::size_t piece) noexcept {
    return free_[static_cast<std::size_t>(std::countr_zero(piece))];
  }

  std::byte* memory_;
  std::size_t used_ = 0;
  std::array<std::byte*, 64> free_{};
  std::mutex mutex_;
};

}  // namespace

void* operator new(std::size_t bytes) {
  void* const memory = Arena::only().take(bytes);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
void operator delete(void* memory) noexcept { Arena::only().give_back(memory); }
void operator delete(void* memory, std::size_t) noexcept { Arena::only().give_back(memory); }

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  if (pagedkv::metal::compile_kernels()) std::puts("the driver has compiled the kernels");
  if (const std::string reason = pagedkv::metal::missing(); !reason.empty()) {
    std::printf("skipped: %s\n", reason.c_str());
    return 77;
  }
  const auto buffer = pagedkv::metal::adopt_memory(Arena::only().memory(), kArenaBytes);
  return RUN_ALL_TESTS();
}
