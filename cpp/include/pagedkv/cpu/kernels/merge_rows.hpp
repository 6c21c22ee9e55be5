#pragma once

// The weighted sum of two rows.

#include <cstddef>
#include <cstdint>

#include "pagedkv/cpu/kernels/quantize.hpp"

namespace pagedkv::inline v0_1::cpu::PAGEDKV_ISA_NAMESPACE {

inline void merge_rows(DType dtype, const std::byte* a, double weight_a, const std::byte* b,
                       double weight_b, std::byte* to, std::int64_t size) noexcept {
  with_plain_float(dtype, [&]<DType element>() {
    using T = Between<element, DType::float32>;
    const T by_a = static_cast<T>(weight_a), by_b = static_cast<T>(weight_b);
    T x[kPartSize], y[kPartSize];
    for (std::int64_t done = 0; done < size; done += kPartSize) {
      const std::int64_t count = size - done < kPartSize ? size - done : kPartSize;
      const std::int64_t offset = bytes_of_elements(element, done);
      for (std::int64_t i = 0; i < count; ++i) x[i] = y[i] = 0;
      if (a != nullptr) read_row<element>(a + offset, x, count);
      if (b != nullptr) read_row<element>(b + offset, y, count);
      for (std::int64_t i = 0; i < count; ++i) x[i] = by_a * x[i] + by_b * y[i];
      write_floats<element>(x, to + offset, count);
    }
  });
}

}  // namespace pagedkv::inline v0_1::cpu::PAGEDKV_ISA_NAMESPACE
