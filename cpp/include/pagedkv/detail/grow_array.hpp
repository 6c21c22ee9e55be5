#pragma once

#include <cstddef>
#include <cstring>
#include <new>
#include <type_traits>
#include <utility>

namespace pagedkv::inline v0_1::detail {

/// Cache-line-aligned array that grows at its end. Room is reserved without being touched, so that
/// memory is only used as entries come into use.
template <class T>
class GrowArray {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  explicit GrowArray(std::size_t reserve) { reallocate(reserve == 0 ? 1 : reserve); }
  GrowArray(GrowArray&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), capacity_(std::exchange(other.capacity_, 0)) {}
  GrowArray& operator=(GrowArray&&) = delete;
  ~GrowArray() {
    if (data_ != nullptr) ::operator delete(data_, kAlign);
  }

  /// Makes index `size - 1` valid; amortised O(1) an entry.
  void ensure(std::size_t size) {
    if (size > capacity_) reallocate(size > 2 * capacity_ ? size : 2 * capacity_);
  }
  [[nodiscard]] T& operator[](std::size_t i) noexcept { return data_[i]; }
  [[nodiscard]] const T& operator[](std::size_t i) const noexcept { return data_[i]; }
  [[nodiscard]] std::size_t capacity() const noexcept { return capacity_; }

 private:
  static constexpr std::align_val_t kAlign{64};

  void reallocate(std::size_t capacity) {
    auto* grown = static_cast<T*>(::operator new(capacity * sizeof(T), kAlign));
    if (data_ != nullptr) {
      std::memcpy(grown, data_, capacity_ * sizeof(T));
      ::operator delete(data_, kAlign);
    }
    data_ = grown;
    capacity_ = capacity;
  }

  T* data_ = nullptr;
  std::size_t capacity_ = 0;
};

}  // namespace pagedkv::inline v0_1::detail
