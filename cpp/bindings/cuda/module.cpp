// The extension module of CUDA's operations: those of pagedkv.ops on arrays of a CUDA device.

#include <cuda_runtime.h>

#include <cstdlib>
#include <string>

#include "bindings.hpp"
#include "target/operations.hpp"

namespace pagedkv::python {

// PAGEDKV_DEVICE_CHECKS=1 has them on from the start.
bool& target::device_checks() {
  static bool checks = [] {
    const char* const text = std::getenv("PAGEDKV_DEVICE_CHECKS");
    return text != nullptr && std::string(text) == "1";
  }();
  return checks;
}

namespace {

int device_count() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

}  // namespace
}  // namespace pagedkv::python

PYBIND11_MODULE(PAGEDKV_MODULE, m) {
  using namespace pagedkv::python;
  m.doc() = "The operations of pagedkv.ops on CUDA devices; import pagedkv instead.";
  register_errors(m);
  register_ops_attention(m);
  register_ops_data(m);
  m.def("device_count", &device_count, "How many CUDA devices there are; 0 without a driver.");
  m.def(
      "set_device_checks", [](bool checks) { target::device_checks() = checks; }, py::arg("checks"),
      "Whether each operation from now on waits for its kernels and raises what they found: ids, "
      "slots and lengths out of range. At first: whether PAGEDKV_DEVICE_CHECKS is 1.");
}
