#pragma once

// RMS norm and rotary embedding of one row.

#include <cmath>
#include <cstddef>
#include <cstdint>

#include "pagedkv/cpu/kernels/quantize.hpp"
#include "pagedkv/ops/attention_call.hpp"

namespace pagedkv::inline v0_1::cpu::PAGEDKV_ISA_NAMESPACE {

/// x = x / sqrt(mean of squares + eps) * weight
template <class V>
inline void rms_norm(typename V::Scalar* x, std::int64_t size, const typename V::Scalar* weight,
                     double eps) noexcept {
  using T = typename V::Scalar;
  V sums = V::zero();
  std::int64_t i = 0;
  for (; i + V::width <= size; i += V::width) {
    const V part = V::load(x + i);
    sums = fma(part, part, sums);
  }
  T lanes[V::width];
  sums.store(lanes);
  T sum = 0;
  for (const T lane : lanes) sum += lane;
  for (; i < size; ++i) sum += x[i] * x[i];
  const T factor = 1 / std::sqrt(sum / static_cast<T>(size) + static_cast<T>(eps));
  for (i = 0; i < size; ++i) x[i] = x[i] * factor * weight[i];
}

/// Rotates the pairs of x; angle i belongs to pair i.
template <class T>
inline void rotate(const RopeRow& row, T* x) noexcept {
  const std::int64_t half = row.rotary_dim / 2;
  const float* cosines = row.cos_sin;
  const float* sines = cosines + half;
  if (row.interleaved) {
    for (std::int64_t i = 0; i < half; ++i) {
      const T a = x[2 * i], b = x[2 * i + 1];
      const T cosine = cosines[i], sine = sines[i];
      x[2 * i] = a * cosine - b * sine;
      x[2 * i + 1] = b * cosine + a * sine;
    }
    return;
  }
  T* y = x + half;
  for (std::int64_t i = 0; i < half; ++i) {
    const T a = x[i], b = y[i];
    const T cosine = cosines[i], sine = sines[i];
    x[i] = a * cosine - b * sine;
    y[i] = b * cosine + a * sine;
  }
}

inline void rope(const RopeRow& row, std::byte* to) noexcept {
  with_plain_float(row.dtype, [&]<DType dtype>() {
    using T = Between<dtype, DType::float32>;
    using V = std::conditional_t<dtype == DType::float64, F64, F32>;
    alignas(64) T x[kMaxHeadDim];
    read_row<dtype>(row.from, x, row.head_dim);
    if (row.norm_weight != nullptr) {
      rms_norm<V>(x, row.head_dim, reinterpret_cast<const T*>(row.norm_weight), row.norm_eps);
    }
    if (row.rotary_dim != 0) rotate(row, x);
    std::memcpy(to, x, static_cast<std::size_t>(row.head_dim) * sizeof(T));
  });
}

}  // namespace pagedkv::inline v0_1::cpu::PAGEDKV_ISA_NAMESPACE
