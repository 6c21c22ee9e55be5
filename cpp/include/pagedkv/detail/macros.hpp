#pragma once

// Compiler differences, named once.

#if defined(_MSC_VER) && !defined(__clang__)
#define PAGEDKV_COLD __declspec(noinline)
#else
#define PAGEDKV_COLD __attribute__((noinline, cold))
#endif
