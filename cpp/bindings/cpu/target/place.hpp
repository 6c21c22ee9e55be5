#pragma once

// Whose arrays the operations of the module `_core` take: the CPU's.

#include <pybind11/numpy.h>

#include <cstddef>
#include <optional>
#include <utility>
#include <vector>

#include "dlpack.hpp"

namespace pagedkv::python::target {

inline constexpr const char* kTaken = "memory of the CPU";

/// Whether operations run on arrays of that device.
[[nodiscard]] constexpr bool takes(dlpack::Device device) noexcept {
  return dlpack::is_host(device);
}

/// The device of an array of NumPy's.
[[nodiscard]] inline dlpack::Device device_of(pybind11::handle) noexcept {
  return {dlpack::kCpu, 0};
}

/// What `__dlpack__` is told of the stream that the operation runs on; None: nothing.
[[nodiscard]] inline pybind11::object stream_for_dlpack(pybind11::handle, dlpack::Device) {
  return pybind11::none();
}

/// A new array beside one that is not torch's, and where it lies; nothing: NumPy makes it.
[[nodiscard]] inline std::optional<std::pair<pybind11::object, std::byte*>> make_beside(
    const char*, pybind11::handle, const pybind11::dtype&, const std::vector<pybind11::ssize_t>&) {
  return std::nullopt;
}

}  // namespace pagedkv::python::target
