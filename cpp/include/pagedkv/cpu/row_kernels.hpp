#pragma once

// What the operations that move keys and values do with one row: convert, rotate, merge. Functions
// of one instruction set; part of the table `Kernels`.

#include <cstddef>
#include <cstdint>

#include "pagedkv/core/dtype.hpp"

namespace pagedkv::inline v0_1::cpu {

/// Writes `size` elements at `from` as another dtype to `to`, which does not overlap them.
/// @param scale  of the quantised side: values are divided by it on the way in, multiplied on the
///               way out.
using ConvertRow = void (*)(const std::byte* from, std::byte* to, std::int64_t size,
                            float scale) noexcept;

/// The norm and the rotation of one row.
struct RopeRow {
  DType dtype = DType::float32;     ///< a plain float
  const std::byte* from = nullptr;  ///< `[head_dim]`
  std::int64_t head_dim = 0;
  std::int64_t rotary_dim = 0;     ///< even; the channels from there on are not rotated
  bool interleaved = false;        ///< pairs are (2i, 2i + 1); else (i, i + rotary_dim / 2)
  const float* cos_sin = nullptr;  ///< `[rotary_dim]`: cosines, then sines
  /// `[head_dim]`, float64 if `dtype` is, else float32; null: no norm.
  const std::byte* norm_weight = nullptr;
  double norm_eps = 0;
};

/// None allocates or throws; arguments were checked.
struct RowKernels {
  /// To any dtype of a cache from a plain float. Rounds to nearest, ties to even. What is beyond
  /// the range of float8 and integers, infinity too, becomes their largest value; NaN stays NaN,
  /// and is 0 in integers.
  ConvertRow (*quantize)(DType from, DType to) noexcept;
  /// From any dtype of a cache to a plain float.
  ConvertRow (*dequantize)(DType from, DType to) noexcept;
  /// Largest magnitude in a row of plain floats, at most the largest float32; NaN is passed over.
  double (*largest)(DType from, const std::byte* row, std::int64_t size) noexcept;
  /// @param to  `[head_dim]` float64 if the row is, else float32.
  void (*rope)(const RopeRow& row, std::byte* to) noexcept;
  /// to = weight_a * a + weight_b * b. `to` may be `a` or `b`; null for nothing of a row.
  void (*merge)(DType dtype, const std::byte* a, double weight_a, const std::byte* b,
                double weight_b, std::byte* to, std::int64_t size) noexcept;
};

}  // namespace pagedkv::inline v0_1::cpu
