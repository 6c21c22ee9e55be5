#pragma once

// Host memory of pools: aligned, zeroed and faulted in when it is made, so that no later write pays
// for a page fault.

#include <cstddef>
#include <cstring>
#include <new>
#include <span>
#include <utility>

#include "pagedkv/detail/copy.hpp"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace pagedkv::inline v0_1::detail {

inline constexpr std::size_t kCacheLine = 64;
inline constexpr std::size_t kHugePage = std::size_t{2} << 20;

/// Owns `size` bytes, 64-byte aligned; from 4 MiB on 2 MiB-aligned with huge pages asked for.
/// Moves, never copies. `std::bad_alloc` when there is no memory.
class Storage {
 public:
  Storage() noexcept = default;

  explicit Storage(std::size_t size) : data_(allocate(size)), size_(size) {
    if (size != 0) std::memset(data_, 0, size);
  }

  /// A second one that holds the same bytes.
  [[nodiscard]] Storage clone() const {
    Storage copy;
    copy.data_ = allocate(size_);
    copy.size_ = size_;
    Transfer(size_).copy(copy.data_, data_, size_);
    return copy;
  }

  Storage(Storage&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

  Storage& operator=(Storage&& other) noexcept {
    if (this != &other) {
      reset();
      data_ = std::exchange(other.data_, nullptr);
      size_ = std::exchange(other.size_, 0);
    }
    return *this;
  }

  ~Storage() { reset(); }

  [[nodiscard]] std::byte* data() noexcept { return data_; }
  [[nodiscard]] const std::byte* data() const noexcept { return data_; }
  /// Bytes.
  [[nodiscard]] std::size_t size() const noexcept { return size_; }

 private:
  static constexpr std::size_t kHugeFrom = 2 * kHugePage;

  static std::align_val_t alignment(std::size_t size) noexcept {
    return std::align_val_t{size >= kHugeFrom ? kHugePage : kCacheLine};
  }

  static std::byte* allocate(std::size_t size) {
    if (size == 0) return nullptr;
    void* data = ::operator new(size, alignment(size));
#if defined(__linux__)
    // Advice only: without huge pages the pool is slower, never wrong.
    if (size >= kHugeFrom) ::madvise(data, size / kHugePage * kHugePage, MADV_HUGEPAGE);
#endif
    return static_cast<std::byte*>(data);
  }

  void reset() noexcept {
    if (data_ != nullptr) ::operator delete(data_, alignment(size_));
    data_ = nullptr;
    size_ = 0;
  }

  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

/// The same bytes as elements of `T`.
template <class T>
[[nodiscard]] std::span<T> span_cast(std::span<std::byte> bytes) noexcept {
  return {reinterpret_cast<T*>(bytes.data()), bytes.size() / sizeof(T)};
}
template <class T>
[[nodiscard]] std::span<const T> span_cast(std::span<const std::byte> bytes) noexcept {
  return {reinterpret_cast<const T*>(bytes.data()), bytes.size() / sizeof(T)};
}

}  // namespace pagedkv::inline v0_1::detail
