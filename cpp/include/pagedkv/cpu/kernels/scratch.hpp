#pragma once

// Hands out a thread's working memory. Who calls a kernel allocates it, before the work begins: a
// kernel neither allocates nor fails.

#include <cstddef>
#include <cstdint>

#include "pagedkv/cpu/simd/vectors.hpp"

namespace pagedkv::inline v0_1::cpu::PAGEDKV_ISA_NAMESPACE {

class Scratch {
 public:
  /// @param memory  64-byte aligned.
  explicit Scratch(std::byte* memory) noexcept : next_(memory) {}

  /// `count` values, 64-byte aligned, not initialised.
  template <class T>
  [[nodiscard]] T* take(std::int64_t count) noexcept {
    T* values = reinterpret_cast<T*>(next_);
    next_ += bytes_for<T>(count);
    return values;
  }

  /// What `take` uses.
  template <class T>
  [[nodiscard]] static constexpr std::size_t bytes_for(std::int64_t count) noexcept {
    return (static_cast<std::size_t>(count) * sizeof(T) + 63) / 64 * 64;
  }

 private:
  std::byte* next_;
};

}  // namespace pagedkv::inline v0_1::cpu::PAGEDKV_ISA_NAMESPACE
