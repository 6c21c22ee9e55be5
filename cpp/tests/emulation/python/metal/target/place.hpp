#pragma once

// Whose arrays the emulated module of Metal's operations takes: the CPU's, whose memory is also
// that of the emulated device.

#include "cpp/bindings/cpu/target/place.hpp"

namespace pagedkv::python::target {

/// A new array of NumPy's.
[[nodiscard]] inline pybind11::array make_array(const pybind11::dtype& dtype,
                                                const std::vector<pybind11::ssize_t>& shape) {
  return pybind11::array(dtype, shape);
}

}  // namespace pagedkv::python::target
