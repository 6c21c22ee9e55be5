#pragma once

#include <cstddef>
#include <string>

#include "pagedkv/core/dtype.hpp"
#include "pagedkv/core/errors.hpp"
#include "pagedkv/detail/checked_math.hpp"

namespace pagedkv::inline v0_1 {

/// What one request's slot of recurrent state holds, over all layers: the state
/// `[num_layers, num_heads, head_dim, d_state]` and the inputs that the causal convolution still
/// needs, `[num_layers, conv_dim, d_conv - 1]` (none for a d_conv of 1).
struct SsmStateSpec {
  std::size_t num_layers = 0;
  std::size_t num_heads = 0;
  std::size_t head_dim = 0;
  std::size_t d_state = 0;
  std::size_t conv_dim = 0;
  std::size_t d_conv = 1;
  DType dtype = DType::float32;

  /// @throws ShapeError for a dimension of 0 (conv_dim alone may be 0) or a size that overflows,
  ///         UnsupportedError for int4: states are computed with element by element.
  void validate() const {
    constexpr const char* where = "SsmStateSpec";
    if (num_layers == 0) detail::throw_zero(where, "num_layers");
    if (num_heads == 0) detail::throw_zero(where, "num_heads");
    if (head_dim == 0) detail::throw_zero(where, "head_dim");
    if (d_state == 0) detail::throw_zero(where, "d_state");
    if (d_conv == 0) detail::throw_zero(where, "d_conv");
    if (dtype == DType::int4) {
      detail::throw_unsupported(where, "dtype int4; expected one of at least 8 bits");
    }
    const std::size_t element = dtype_bits(dtype) / 8;
    static_cast<void>(detail::checked_sum(
        where, detail::checked_product(where, {num_layers, num_heads, head_dim, d_state, element}),
        detail::checked_product(where, {num_layers, conv_dim, d_conv - 1, element})));
  }

  /// Bytes of the recurrent state of a valid spec.
  [[nodiscard]] std::size_t ssm_bytes() const noexcept {
    return num_layers * num_heads * head_dim * d_state * (dtype_bits(dtype) / 8);
  }
  /// Bytes of the convolution history of a valid spec.
  [[nodiscard]] std::size_t conv_bytes() const noexcept {
    return num_layers * conv_dim * (d_conv - 1) * (dtype_bits(dtype) / 8);
  }

  /// `SsmStateSpec(num_layers=2, num_heads=4, ..., dtype=float32)`
  [[nodiscard]] std::string repr() const {
    return "SsmStateSpec(num_layers=" + std::to_string(num_layers) +
           ", num_heads=" + std::to_string(num_heads) + ", head_dim=" + std::to_string(head_dim) +
           ", d_state=" + std::to_string(d_state) + ", conv_dim=" + std::to_string(conv_dim) +
           ", d_conv=" + std::to_string(d_conv) + ", dtype=" + std::string(dtype_name(dtype)) + ")";
  }

  friend bool operator==(const SsmStateSpec&, const SsmStateSpec&) = default;
};

}  // namespace pagedkv::inline v0_1
