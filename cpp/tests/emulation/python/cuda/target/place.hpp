#pragma once

// Whose arrays the emulated module of CUDA's operations takes: the CPU's, whose memory is also that
// of the emulated device.

#include "cpp/bindings/cpu/target/place.hpp"

namespace pagedkv::python::target {

/// The default stream: the emulation does what it is given at once.
[[nodiscard]] constexpr std::uintptr_t current_stream(pybind11::handle, std::int32_t) noexcept {
  return 0;
}

}  // namespace pagedkv::python::target
