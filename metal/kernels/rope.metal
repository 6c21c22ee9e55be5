// Queries and keys are normed and rotated on their way to where they are read.

#include "metal/kernels/common.h"

/// The factor of an RMS norm, the same in all lanes.
inline float norm_factor(device const uchar* row, uint size, float eps, uint lane) {
  float squares = 0;
  for (uint i = lane; i < size; i += kSimdWidth) {
    const float x = load(row, kRowType, i);
    squares += x * x;
  }
  return rsqrt(simd_sum(squares) / float(size) + eps);
}

/// One simdgroup a row: threadgroup (x, y) has rows of head x * simdgroups + its number, token y.
/// A lane reads and writes the same pairs of channels, so that a row may become itself.
// clang-format off: an argument a line
kernel void rope_rows(constant RopeParams& p [[buffer(0)]],
                      device const uchar* rows [[buffer(1)]],
                      device uchar* to [[buffer(2)]],              // rows, or a cache
                      device const long* slots [[buffer(3)]],      // [num_tokens], of keys
                      device const long* positions [[buffer(4)]],  // [num_tokens], or int32
                      device const float* cos_sin [[buffer(5)]],   // [max_position, rotary_dim]
                      device const uchar* weight [[buffer(6)]],    // [head_dim]
                      device atomic_uint* errors [[buffer(7)]],
                      uint3 group [[threadgroup_position_in_grid]],
                      uint simdgroup [[simdgroup_index_in_threadgroup]],
                      uint lane [[thread_index_in_simdgroup]]) {
  // clang-format on
  const uint token = group.y, head = group.x * kSimdgroups + simdgroup;
  if (head >= p.num_heads) return;
  const long position =
      p.positions_are_int32 != 0 ? long(((device const int*)positions)[token]) : positions[token];
  if (position < 0 || position >= p.max_position) {
    if (lane == 0) report(errors, kBadIndex);
    return;
  }
  if (kToCache != 0) {
    const long slot = slots[token];
    if (slot < 0 || slot >= p.num_slots) {
      if (slot != -1 && lane == 0) report(errors, kBadIndex);
      return;
    }
    to += row_of_slot(p.to_cache, ulong(slot), head);
  } else {
    to += row_of_token(p.to_rows, token, head);
  }
  device const uchar* row = rows + row_of_token(p.rows, token, head);
  const float factor = p.norm != 0 ? norm_factor(row, p.head_dim, p.norm_eps, lane) : 1.0f;
  const uint half_dim = p.rotary_dim / 2;
  device const float* cosines = cos_sin + position * p.cos_sin_stride;
  device const float* sines = cosines + half_dim;
  for (uint i = lane; i < half_dim; i += kSimdWidth) {
    const uint first = p.interleaved != 0 ? 2 * i : i;
    const uint second = p.interleaved != 0 ? 2 * i + 1 : i + half_dim;
    float a = load(row, kRowType, first), b = load(row, kRowType, second);
    if (p.norm != 0) {
      a *= factor * load(weight, p.weight_type, first);
      b *= factor * load(weight, p.weight_type, second);
    }
    store(to, kCacheType, first, a * cosines[i] - b * sines[i]);
    store(to, kCacheType, second, b * cosines[i] + a * sines[i]);
  }
  for (uint i = p.rotary_dim + lane; i < p.head_dim; i += kSimdWidth) {
    float x = load(row, kRowType, i);
    if (p.norm != 0) x *= factor * load(weight, p.weight_type, i);
    store(to, kCacheType, i, x);
  }
}
