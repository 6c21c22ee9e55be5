#pragma once

// Whose arrays the operations of the module `_cuda` take: torch's, CuPy's and others' on a CUDA
// device, ordered by the stream that their library is at.

#include <pybind11/numpy.h>

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "dlpack.hpp"
#include "pagedkv/core/errors.hpp"

namespace pagedkv::python::target {

inline constexpr const char* kTaken = "a CUDA device";

/// Whether operations run on arrays of that device.
[[nodiscard]] constexpr bool takes(dlpack::Device device) noexcept {
  return device.type == dlpack::kCuda || device.type == dlpack::kCudaManaged;
}

/// The device of an array of NumPy's.
[[nodiscard]] inline dlpack::Device device_of(pybind11::handle) noexcept {
  return {dlpack::kCpu, 0};
}

/// Whether an array's class is of that library.
[[nodiscard]] inline bool is_of(pybind11::handle array, const char* library) {
  const auto module = pybind11::type::handle_of(array).attr("__module__").cast<std::string>();
  return module.rfind(library, 0) == 0 &&
         (module[std::string(library).size()] == '.' || module == library);
}

/// The stream, a cudaStream_t as a number, that the array's library puts its work on: torch's and
/// CuPy's current one, else the default stream (0), which other libraries synchronise with.
[[nodiscard]] inline std::uintptr_t current_stream(pybind11::handle array, std::int32_t device) {
  namespace py = pybind11;
  if (is_of(array, "torch") || py::hasattr(array, "is_cuda")) {
    const py::object cuda = py::module_::import("torch").attr("cuda");
    return cuda.attr("current_stream")(device).attr("cuda_stream").cast<std::uintptr_t>();
  }
  if (is_of(array, "cupy")) {
    const py::object cuda = py::module_::import("cupy").attr("cuda");
    const py::object stream = cuda.attr("get_current_stream")(device);
    return stream.attr("ptr").cast<std::uintptr_t>();
  }
  return 0;
}

/// What `__dlpack__` is told of the stream that the operation runs on; None: nothing.
[[nodiscard]] inline pybind11::object stream_for_dlpack(pybind11::handle array,
                                                        dlpack::Device device) {
  if (!takes(device)) return pybind11::none();
  const std::uintptr_t stream = current_stream(array, device.id);
  constexpr std::uintptr_t legacy_default = 1;  // what DLPack calls the default stream
  return pybind11::int_(stream == 0 ? legacy_default : stream);
}

/// A new array beside one that is not torch's, and where it lies.
/// @throws UnsupportedError for libraries whose arrays cannot be made here.
[[nodiscard]] inline std::optional<std::pair<pybind11::object, std::byte*>> make_beside(
    const char* where, pybind11::handle like, const pybind11::dtype& dtype,
    const std::vector<pybind11::ssize_t>& shape) {
  namespace py = pybind11;
  if (!is_of(like, "cupy")) {
    detail::throw_unsupported(where, "no out for arrays of " +
                                         py::str(py::type::handle_of(like)).cast<std::string>() +
                                         "; expected out, or arrays of torch or CuPy");
  }
  py::object made = py::module_::import("cupy").attr("empty")(shape, dtype);
  auto* const data =
      reinterpret_cast<std::byte*>(made.attr("data").attr("ptr").cast<std::uintptr_t>());
  return std::pair(std::move(made), data);
}

}  // namespace pagedkv::python::target
