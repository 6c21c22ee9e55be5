#pragma once

// The vector types of the instruction set that this translation unit is compiled for: F32, F64,
// I32, I16, each with the same members whatever their width. generic.hpp says plainly what each
// does.

// Only one of them has a body.
#include "pagedkv/cpu/simd/avx2.hpp"
#include "pagedkv/cpu/simd/avx512.hpp"
#include "pagedkv/cpu/simd/generic.hpp"
#include "pagedkv/cpu/simd/isa_namespace.hpp"
#include "pagedkv/cpu/simd/neon.hpp"
#include "pagedkv/cpu/simd/sse.hpp"
