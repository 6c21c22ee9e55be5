#pragma once

// What every kernel uses: the constants it is specialised by, and elements of the three types.

#include <metal_stdlib>

#include "metal/kernels/params.h"

using namespace metal;
using namespace pagedkv::metal::kernels;

// Set when a pipeline is made, so that what depends on them is decided there: loops unroll, and
// the branches of other types are gone. The numbers are those of `Constant` in metal/queue.hpp.
#if !defined(PAGEDKV_FUNCTION_CONSTANT)
#define PAGEDKV_FUNCTION_CONSTANT(name, index) constant uint name [[function_constant(index)]]
#endif
// Where the emulation cannot read Metal's own text it has its own.
#if !defined(PAGEDKV_THREADGROUP_MEMORY)
#define PAGEDKV_THREADGROUP_MEMORY [[threadgroup(0)]]
#endif
PAGEDKV_FUNCTION_CONSTANT(kRowType, 0);     // ElementType of dense rows
PAGEDKV_FUNCTION_CONSTANT(kCacheType, 1);   // ElementType of caches, or of what rows become
PAGEDKV_FUNCTION_CONSTANT(kVector, 2);      // elements moved at a time: 1, 4 or 8
PAGEDKV_FUNCTION_CONSTANT(kBlockSize, 3);   // slots of a block
PAGEDKV_FUNCTION_CONSTANT(kKeyDim, 4);      // channels of keys
PAGEDKV_FUNCTION_CONSTANT(kRopeDim, 5);     // channels of their second part (MLA), or 0
PAGEDKV_FUNCTION_CONSTANT(kValueDim, 6);    // channels of values
PAGEDKV_FUNCTION_CONSTANT(kGroup, 7);       // query heads that share a head of keys and values
PAGEDKV_FUNCTION_CONSTANT(kTileRows, 8);    // rows of queries that share a tile of tokens
PAGEDKV_FUNCTION_CONSTANT(kTileTokens, 9);  // tokens of a tile: 8, 16 or 32
PAGEDKV_FUNCTION_CONSTANT(kSimdgroups, 10);
PAGEDKV_FUNCTION_CONSTANT(kUnitBytes, 11);  // bytes copied at a time
PAGEDKV_FUNCTION_CONSTANT(kToCache, 12);    // rope_rows: keys to slots, not queries to rows

inline void report(device atomic_uint* errors, uint bits) {
  atomic_fetch_or_explicit(errors, bits, memory_order_relaxed);
}

inline ulong element_bytes(uint type) { return type == kFloat ? 4 : 2; }

// bfloat16 is kept as bits, which every version of Metal has.
inline float from_bfloat(ushort bits) { return as_type<float>(uint(bits) << 16); }
inline ushort to_bfloat(float x) {
  const uint bits = as_type<uint>(x);
  const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
  // To nearest, ties to even; a NaN keeps a bit of its mantissa.
  return nan ? ushort(bits >> 16 | 0x40u) : ushort((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

/// By its bits, which no option of the compiler takes for granted.
inline bool is_finite(float x) { return (as_type<uint>(x) & 0x7f800000u) != 0x7f800000u; }

inline float load(device const uchar* row, uint type, uint i) {
  if (type == kFloat) return ((device const float*)row)[i];
  if (type == kHalf) return float(((device const half*)row)[i]);
  return from_bfloat(((device const ushort*)row)[i]);
}

/// Elements [i, i + 4), at a multiple of their size.
inline float4 load4(device const uchar* row, uint type, uint i) {
  if (type == kFloat) return *(device const float4*)(row + i * 4);
  if (type == kHalf) return float4(*(device const half4*)(row + i * 2));
  const ushort4 bits = *(device const ushort4*)(row + i * 2);
  return float4(from_bfloat(bits.x), from_bfloat(bits.y), from_bfloat(bits.z), from_bfloat(bits.w));
}

inline void store(device uchar* row, uint type, uint i, float x) {
  if (type == kFloat) {
    ((device float*)row)[i] = x;
  } else if (type == kHalf) {
    ((device half*)row)[i] = half(x);
  } else {
    ((device ushort*)row)[i] = to_bfloat(x);
  }
}

inline void store4(device uchar* row, uint type, uint i, float4 x) {
  if (type == kFloat) {
    *(device float4*)(row + i * 4) = x;
  } else if (type == kHalf) {
    *(device half4*)(row + i * 2) = half4(x);
  } else {
    *(device ushort4*)(row + i * 2) =
        ushort4(to_bfloat(x.x), to_bfloat(x.y), to_bfloat(x.z), to_bfloat(x.w));
  }
}

inline void copy_bytes(device const uchar* from, device uchar* to, uint bytes) {
  if (bytes == 16) {
    *(device uint4*)to = *(device const uint4*)from;
  } else if (bytes == 8) {
    *(device uint2*)to = *(device const uint2*)from;
  } else if (bytes == 4) {
    *(device uint*)to = *(device const uint*)from;
  } else if (bytes == 2) {
    *(device ushort*)to = *(device const ushort*)from;
  } else {
    *to = *from;
  }
}

/// kVector elements of a row from channel i on. Those of one type keep their bits.
inline void move_elements(device const uchar* from, uint from_type, device uchar* to, uint to_type,
                          uint i) {
  if (from_type == to_type) {
    const uint bytes = uint(element_bytes(from_type));
    copy_bytes(from + i * bytes, to + i * bytes, kVector * bytes);
  } else if (kVector == 1) {
    store(to, to_type, i, load(from, from_type, i));
  } else {
    for (uint part = 0; part < kVector; part += 4) {
      store4(to, to_type, i + part, load4(from, from_type, i + part));
    }
  }
}

/// Bytes from the start of a cache to a row. The slot is in range.
inline ulong row_of_slot(constant Cache& cache, ulong slot, uint head) {
  return slot / kBlockSize * ulong(cache.block_stride) + head * ulong(cache.head_stride) +
         slot % kBlockSize * ulong(cache.token_stride);
}
inline ulong row_of_block(constant Cache& cache, uint block, uint head, uint offset) {
  return block * ulong(cache.block_stride) + head * ulong(cache.head_stride) +
         offset * ulong(cache.token_stride);
}
inline ulong row_of_token(constant Rows& rows, uint token, uint head) {
  return token * ulong(rows.token_stride) + head * ulong(rows.head_stride);
}
