#pragma once

// The table of what is done with one row.

#include "pagedkv/cpu/kernels/merge_rows.hpp"
#include "pagedkv/cpu/kernels/quantize.hpp"
#include "pagedkv/cpu/kernels/rope.hpp"
#include "pagedkv/cpu/row_kernels.hpp"

namespace pagedkv::inline v0_1::cpu::PAGEDKV_ISA_NAMESPACE {

inline constexpr RowKernels kRowKernels{&quantize, &dequantize, &largest, &rope, &merge_rows};

}  // namespace pagedkv::inline v0_1::cpu::PAGEDKV_ISA_NAMESPACE
