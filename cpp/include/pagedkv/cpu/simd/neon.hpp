#pragma once

#include "pagedkv/cpu/simd/isa_namespace.hpp"

#if defined(PAGEDKV_SIMD_NEON)
#error "not there yet"
#endif
