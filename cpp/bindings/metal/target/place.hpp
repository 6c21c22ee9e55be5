#pragma once

// Whose arrays the operations of the module `_metal` take: its own, which are arrays of NumPy in
// memory that the processor and the device share, and those of libraries whose tensors tell where
// in a buffer of Metal's they lie.

#include <pybind11/numpy.h>

#include <cstddef>
#include <optional>
#include <utility>
#include <vector>

#include "dlpack.hpp"
#include "target/memory.hpp"

namespace pagedkv::python::target {

inline constexpr const char* kTaken = "arrays of pagedkv.metal";

/// Whether operations run on arrays of that device.
[[nodiscard]] constexpr bool takes(dlpack::Device device) noexcept {
  return device.type == dlpack::kMetal;
}

/// The device of an array of NumPy's: Metal for memory of a buffer of the device.
[[nodiscard]] inline dlpack::Device device_of(pybind11::handle array) {
  const auto data = pybind11::reinterpret_borrow<pybind11::array>(array).data();
  return {queue().owns(data) ? dlpack::kMetal : dlpack::kCpu, 0};
}

/// What `__dlpack__` is told of the stream that the operation runs on; None: nothing.
[[nodiscard]] inline pybind11::object stream_for_dlpack(pybind11::handle, dlpack::Device) {
  return pybind11::none();
}

/// A new array in memory of the device, which it keeps.
[[nodiscard]] inline pybind11::array make_array(const pybind11::dtype& dtype,
                                                const std::vector<pybind11::ssize_t>& shape) {
  std::size_t bytes = static_cast<std::size_t>(dtype.itemsize());
  for (const pybind11::ssize_t size : shape) bytes *= static_cast<std::size_t>(size);
  auto memory = std::make_unique<std::shared_ptr<void>>(allocate(bytes));
  void* const data = memory->get();
  const pybind11::capsule owner(
      memory.release(), [](void* kept) { delete static_cast<std::shared_ptr<void>*>(kept); });
  return pybind11::array(dtype, shape, data, owner);
}

/// A new array beside one that is not torch's, and where it lies.
[[nodiscard]] inline std::optional<std::pair<pybind11::object, std::byte*>> make_beside(
    const char*, pybind11::handle, const pybind11::dtype& dtype,
    const std::vector<pybind11::ssize_t>& shape) {
  pybind11::array made = make_array(dtype, shape);
  auto* const data = static_cast<std::byte*>(made.mutable_data());
  return std::pair<pybind11::object, std::byte*>(
      pybind11::module_::import("pagedkv.metal").attr("_as_array")(made), data);
}

}  // namespace pagedkv::python::target
