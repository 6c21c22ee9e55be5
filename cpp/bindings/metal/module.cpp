// The extension module of Metal's operations: those of pagedkv.ops on arrays of pagedkv.metal.

#include <cstdlib>
#include <string>

#include "bindings.hpp"
#include "target/operations.hpp"
#include "target/place.hpp"

namespace pagedkv::python {

// PAGEDKV_DEVICE_CHECKS=1 has them on from the start.
bool& target::device_checks() {
  static bool checks = [] {
    const char* const text = std::getenv("PAGEDKV_DEVICE_CHECKS");
    return text != nullptr && std::string(text) == "1";
  }();
  return checks;
}

bool& target::waits() {
  static bool wait = true;
  return wait;
}

}  // namespace pagedkv::python

PYBIND11_MODULE(PAGEDKV_MODULE, m) {
  using namespace pagedkv::python;
  m.doc() = "The operations of pagedkv.ops on Metal devices; import pagedkv instead.";
  register_errors(m);
  register_ops_attention(m);
  register_ops_data(m);
  m.def(
      "empty",
      [](const std::vector<py::ssize_t>& shape, const py::dtype& dtype) {
        return target::make_array(dtype, shape);
      },
      py::arg("shape"), py::arg("dtype"), "See pagedkv.metal.empty.");
  m.def(
      "owns", [](const py::array& array) { return target::queue().owns(array.data()); },
      py::arg("array"), "Whether an array lies in memory of the device.");
  m.def(
      "synchronize",
      [] {
        const WithoutGil released;
        const target::Turn turn;
        target::queue().wait();
      },
      "See pagedkv.metal.synchronize.");
  m.def(
      "set_waits", [](bool waits) { target::waits() = waits; }, py::arg("waits"),
      "See pagedkv.metal.set_waits.");
  m.def(
      "set_device_checks", [](bool checks) { target::device_checks() = checks; }, py::arg("checks"),
      "Whether each operation from now on raises what its kernels found: ids, slots and lengths "
      "out "
      "of range. At first: whether PAGEDKV_DEVICE_CHECKS is 1.");
}
