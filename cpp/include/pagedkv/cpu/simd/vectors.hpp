#pragma once

// The vector types of the instruction set that this translation unit is compiled for: F32, F64, I32,
// I16, each with the same members whatever their width.

#include "pagedkv/cpu/simd/isa_namespace.hpp"

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#include "pagedkv/cpu/simd/avx512.hpp"
#elif defined(__AVX2__) && (defined(_MSC_VER) || (defined(__FMA__) && defined(__F16C__)))
#include "pagedkv/cpu/simd/avx2.hpp"
#elif defined(__SSE4_2__)
#include "pagedkv/cpu/simd/sse.hpp"
#elif defined(__aarch64__) || defined(_M_ARM64)
#include "pagedkv/cpu/simd/neon.hpp"
#else
#include "pagedkv/cpu/simd/generic.hpp"
#endif

namespace pagedkv::inline v0_1::cpu::PAGEDKV_ISA_NAMESPACE {

// Defined in I32, whose name a call with an F32 does not mention.
I32 to_int(F32 a) noexcept;

}  // namespace pagedkv::inline v0_1::cpu::PAGEDKV_ISA_NAMESPACE
