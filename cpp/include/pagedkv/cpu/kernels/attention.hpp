#pragma once

// Which kernel does an item, and the merge of the parts of a span.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "pagedkv/cpu/kernels.hpp"
#include "pagedkv/cpu/kernels/attention_direct.hpp"
#include "pagedkv/cpu/kernels/attention_packed.hpp"

namespace pagedkv::inline v0_1::cpu::PAGEDKV_ISA_NAMESPACE {

/// Calls `f.template operator()<dtype>()` for the dtype of a cache.
template <class F>
inline auto with_cache_dtype(DType dtype, F&& f) noexcept {
  switch (dtype) {
    case DType::float64: return f.template operator()<DType::float64>();
    case DType::float16: return f.template operator()<DType::float16>();
    case DType::bfloat16: return f.template operator()<DType::bfloat16>();
    case DType::float8_e4m3: return f.template operator()<DType::float8_e4m3>();
    case DType::float8_e5m2: return f.template operator()<DType::float8_e5m2>();
    case DType::int8: return f.template operator()<DType::int8>();
    case DType::int4: return f.template operator()<DType::int4>();
    default: return f.template operator()<DType::float32>();
  }
}

[[nodiscard]] constexpr bool has_integer_products(DType dtype) noexcept {
  return dtype == DType::int8 || dtype == DType::int4;
}

/// Whether a span of so many rows is read directly.
[[nodiscard]] inline bool is_direct(const AttentionCall& call, std::int64_t num_rows) noexcept {
  return call.k_cache.dtype == DType::float64 ||
         (num_rows <= kDirectRows && call.q_rope.head_dim == 0);
}

inline std::size_t attention_scratch(const AttentionCall& call) noexcept {
  return with_cache_dtype(call.k_cache.dtype, [&]<DType dtype>() -> std::size_t {
    std::size_t bytes = direct_scratch<FloatProducts<dtype>>(call);
    if constexpr (has_integer_products(dtype)) {
      bytes = std::max(bytes, direct_scratch<IntegerProducts<dtype>>(call));
    }
    if constexpr (dtype != DType::float64) {
      bytes = std::max(bytes, PackedRows<dtype>::bytes_needed(call));
    }
    return bytes;
  });
}

inline void attend(const AttentionCall& call, const AttentionItem& item,
                   std::byte* scratch) noexcept {
  with_cache_dtype(call.k_cache.dtype, [&]<DType dtype>() {
    if (is_direct(call, item.span->num_rows)) {
      if constexpr (has_integer_products(dtype)) {
        if (!call.exact) return attend_direct<IntegerProducts<dtype>>(call, item, scratch);
      }
#if defined(PAGEDKV_SIMD_BF16)
      if constexpr (dtype == DType::bfloat16) {
        if (!call.exact && call.q.dtype == DType::bfloat16) {
          return attend_direct<BfloatProducts>(call, item, scratch);
        }
      }
#endif
      return attend_direct<FloatProducts<dtype>>(call, item, scratch);
    }
    if constexpr (dtype != DType::float64) attend_packed<dtype>(call, item, scratch);
  });
}

template <class V>
inline void merge_parts(const AttentionCall& call, const AttentionSpan& span, std::int64_t kv_head,
                        std::byte* partials, std::byte* scratch) noexcept {
  using T = typename V::Scalar;
  constexpr T nothing = -std::numeric_limits<T>::infinity();
  const std::int64_t width = call.v_cache.head_dim;
  const std::size_t part_bytes = partial_bytes(call, span.num_rows);
  T* values = reinterpret_cast<T*>(scratch);
  const auto part_of = [&](std::int64_t piece) {
    return Partial<T>(partials + static_cast<std::size_t>(piece) * part_bytes, span.num_rows,
                      width);
  };
  for (std::int64_t row = 0; row < span.num_rows; ++row) {
    T reference = nothing;
    for (std::int64_t i = 0; i < span.num_pieces; ++i) {
      const Partial<T> part = part_of(i);
      // NaN is taken over: it is not below anything.
      if (!(part.reference[row] <= reference)) reference = part.reference[row];
    }
    T sum = 0;
    for (std::int64_t i = 0; i < width; ++i) values[i] = 0;
    for (std::int64_t i = 0; i < span.num_pieces; ++i) {
      const Partial<T> part = part_of(i);
      const T weight = part.reference[row] == nothing ? part.sum[row] * 0
                                                      : std::exp(part.reference[row] - reference);
      sum += part.reference[row] == nothing ? part.sum[row] : weight * part.sum[row];
      const T* from = part.values + row * width;
      const V factor = V::all(weight);
      std::int64_t c = 0;
      for (; c + V::width <= width; c += V::width) {
        fma(V::load(from + c), factor, V::load(values + c)).store(values + c);
      }
      for (; c < width; ++c) values[c] += from[c] * weight;
    }
    finish_row(call, span, kv_head, row, values, reference, sum);
  }
}

inline void merge(const AttentionCall& call, const AttentionSpan& span, std::int64_t kv_head,
                  std::byte* partials, std::byte* scratch) noexcept {
  if (call.k_cache.dtype == DType::float64) {
    merge_parts<F64>(call, span, kv_head, partials, scratch);
  } else {
    merge_parts<F32>(call, span, kv_head, partials, scratch);
  }
}

}  // namespace pagedkv::inline v0_1::cpu::PAGEDKV_ISA_NAMESPACE
