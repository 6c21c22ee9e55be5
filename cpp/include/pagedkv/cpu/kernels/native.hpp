#pragma once

// The kernels for the flags that this translation unit is compiled with.

#include "pagedkv/cpu/kernels.hpp"
#include "pagedkv/cpu/kernels/attention.hpp"
#include "pagedkv/cpu/kernels/row_kernels.hpp"

namespace pagedkv::inline v0_1::cpu {

// The table is one of each namespace: of one name, the linker would keep one for all.
namespace PAGEDKV_ISA_NAMESPACE {

/// The kernels for the flags that this translation unit is compiled with.
[[nodiscard]] inline const Kernels& native_kernels() noexcept {
  static constexpr Kernels kernels{Isa::PAGEDKV_ISA_ENUM,
                                   kDirectRows,
                                   kPackedRows,
                                   &attention_scratch,
                                   &attend,
                                   &merge,
                                   kRowKernels};
  return kernels;
}

}  // namespace PAGEDKV_ISA_NAMESPACE

using PAGEDKV_ISA_NAMESPACE::native_kernels;

}  // namespace pagedkv::inline v0_1::cpu
