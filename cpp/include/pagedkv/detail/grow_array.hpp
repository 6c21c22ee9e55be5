#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

#include "pagedkv/detail/storage.hpp"

namespace pagedkv::inline v0_1::detail {

/// Room for `more` entries behind those that are there, so that adding them needs no memory.
/// Amortised O(1) an entry, where `reserve` alone would grow by just what is asked for.
template <class T>
void reserve_more(std::vector<T>& vector, std::size_t more) {
  const std::size_t needed = vector.size() + more;
  if (needed > vector.capacity()) vector.reserve(std::max(needed, 2 * vector.capacity()));
}

/// Zeroed, cache-line-aligned array that grows at its end. What is reserved is there from the
/// start, so that using it pays for no page fault.
template <class T>
class GrowArray {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  explicit GrowArray(std::size_t reserve) : storage_(reserve * sizeof(T)), capacity_(reserve) {}

  /// Makes index `size - 1` valid; amortised O(1) an entry.
  void ensure(std::size_t size) {
    if (size <= capacity_) return;
    const std::size_t grown = size > 2 * capacity_ ? size : 2 * capacity_;
    Storage storage(grown * sizeof(T));
    if (capacity_ != 0) std::memcpy(storage.data(), storage_.data(), capacity_ * sizeof(T));
    storage_ = std::move(storage);
    capacity_ = grown;
  }
  [[nodiscard]] T& operator[](std::size_t i) noexcept { return data()[i]; }
  [[nodiscard]] const T& operator[](std::size_t i) const noexcept { return data()[i]; }

 private:
  [[nodiscard]] T* data() noexcept { return reinterpret_cast<T*>(storage_.data()); }
  [[nodiscard]] const T* data() const noexcept {
    return reinterpret_cast<const T*>(storage_.data());
  }

  Storage storage_;
  std::size_t capacity_;
};

}  // namespace pagedkv::inline v0_1::detail
