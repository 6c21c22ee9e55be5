#pragma once

// The instruction set that this translation unit is compiled for, as a namespace. Kernels compiled
// with different flags are different functions then, and the linker never takes one for another.
// With PAGEDKV_FORCE_GENERIC defined it is `generic`, whatever the flags are.

#if defined(PAGEDKV_FORCE_GENERIC)
#define PAGEDKV_SIMD_GENERIC
#elif defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && \
    defined(__AVX512VL__)
#define PAGEDKV_SIMD_AVX512
#elif defined(__AVX2__) && (defined(_MSC_VER) || (defined(__FMA__) && defined(__F16C__)))
#define PAGEDKV_SIMD_AVX2
#elif defined(__SSE4_2__)
#define PAGEDKV_SIMD_SSE
#elif defined(__aarch64__) || defined(_M_ARM64)
#define PAGEDKV_SIMD_NEON
#else
#define PAGEDKV_SIMD_GENERIC
#endif

#if defined(PAGEDKV_SIMD_AVX512) && defined(__AVX512BF16__) && defined(__AVX512VNNI__)
#define PAGEDKV_ISA_NAMESPACE isa_avx512_bf16
#define PAGEDKV_ISA_ENUM avx512_bf16
#elif defined(PAGEDKV_SIMD_AVX512)
#define PAGEDKV_ISA_NAMESPACE isa_avx512
#define PAGEDKV_ISA_ENUM avx512
#elif defined(PAGEDKV_SIMD_AVX2)
#define PAGEDKV_ISA_NAMESPACE isa_avx2
#define PAGEDKV_ISA_ENUM avx2
#elif defined(PAGEDKV_SIMD_SSE)
#define PAGEDKV_ISA_NAMESPACE isa_x86_64_v2
#define PAGEDKV_ISA_ENUM x86_64_v2
#elif defined(PAGEDKV_SIMD_NEON)
#define PAGEDKV_ISA_NAMESPACE isa_neon
#define PAGEDKV_ISA_ENUM neon
#else
#define PAGEDKV_ISA_NAMESPACE isa_generic
#define PAGEDKV_ISA_ENUM generic
#endif
