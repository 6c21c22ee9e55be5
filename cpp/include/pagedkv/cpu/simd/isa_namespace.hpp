#pragma once

// The instruction set that this translation unit is compiled for, as a namespace. Kernels compiled
// with different flags are different functions then, and the linker never takes one for another.

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#if defined(__AVX512BF16__) && defined(__AVX512VNNI__)
#define PAGEDKV_ISA_NAMESPACE isa_avx512_bf16
#define PAGEDKV_ISA_ENUM avx512_bf16
#else
#define PAGEDKV_ISA_NAMESPACE isa_avx512
#define PAGEDKV_ISA_ENUM avx512
#endif
#elif defined(__AVX2__) && (defined(_MSC_VER) || (defined(__FMA__) && defined(__F16C__)))
#define PAGEDKV_ISA_NAMESPACE isa_avx2
#define PAGEDKV_ISA_ENUM avx2
#elif defined(__SSE4_2__)
#define PAGEDKV_ISA_NAMESPACE isa_x86_64_v2
#define PAGEDKV_ISA_ENUM x86_64_v2
#elif defined(__aarch64__) || defined(_M_ARM64)
#define PAGEDKV_ISA_NAMESPACE isa_neon
#define PAGEDKV_ISA_ENUM neon
#else
#define PAGEDKV_ISA_NAMESPACE isa_generic
#define PAGEDKV_ISA_ENUM generic
#endif
