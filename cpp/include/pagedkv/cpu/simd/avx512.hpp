#pragma once

#include "pagedkv/cpu/simd/isa_namespace.hpp"

#if defined(PAGEDKV_SIMD_AVX512)
#error "not there yet"
#endif
