#pragma once

// The kernels for the flags that this translation unit is compiled with.

#include "pagedkv/cpu/kernels.hpp"
#include "pagedkv/cpu/kernels/attention.hpp"
#include "pagedkv/cpu/kernels/row_kernels.hpp"

namespace pagedkv::inline v0_1::cpu {

/// The kernels for the flags that this translation unit is compiled with.
[[nodiscard]] inline const Kernels& native_kernels() noexcept {
  namespace isa = PAGEDKV_ISA_NAMESPACE;
  static constexpr Kernels kernels{Isa::PAGEDKV_ISA_ENUM, isa::kDirectRows,
                                   isa::kPackedRows,      &isa::attention_scratch,
                                   &isa::attend,          &isa::merge,
                                   isa::kRowKernels};
  return kernels;
}

}  // namespace pagedkv::inline v0_1::cpu
