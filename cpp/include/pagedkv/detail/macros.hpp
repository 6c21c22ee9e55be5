#pragma once

// Compiler differences, named once.

#if defined(_MSC_VER) && !defined(__clang__)
#define PAGEDKV_COLD __declspec(noinline)
#else
#define PAGEDKV_COLD __attribute__((noinline, cold))
#endif

// Keeps a hot loop a function of its own: what it is compiled to depends on nothing around it.
#if defined(_MSC_VER) && !defined(__clang__)
#define PAGEDKV_NOINLINE __declspec(noinline)
#else
#define PAGEDKV_NOINLINE __attribute__((noinline))
#endif

// What kernels of every instruction set call and no set owns: left to the inliner, one set's copy
// might be linked for all.
#if defined(_MSC_VER) && !defined(__clang__)
#define PAGEDKV_INLINE __forceinline
#else
#define PAGEDKV_INLINE __attribute__((always_inline)) inline
#endif

// Before a loop of few, known turns over registers: unrolled early, its arrays become registers.
#if defined(__clang__)
#define PAGEDKV_UNROLL _Pragma("clang loop unroll(full)")
#elif defined(__GNUC__)
#define PAGEDKV_UNROLL _Pragma("GCC unroll 32")
#else
#define PAGEDKV_UNROLL
#endif
