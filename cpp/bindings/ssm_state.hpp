#pragma once

#include <cstddef>
#include <span>

#include "arrays.hpp"
#include "pagedkv/core/ssm_state_spec.hpp"

namespace pagedkv::python {

/// A view `[num_layers, num_heads, head_dim, d_state]` of recurrent state.
[[nodiscard]] AnyArray ssm_view(std::span<const std::byte> state, const SsmStateSpec& spec,
                                py::handle owner, bool writable);

/// A view `[num_layers, conv_dim, d_conv - 1]` of convolution history.
[[nodiscard]] AnyArray conv_view(std::span<const std::byte> state, const SsmStateSpec& spec,
                                 py::handle owner, bool writable);

}  // namespace pagedkv::python
