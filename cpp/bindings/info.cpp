#include <string>

#include "bindings.hpp"
#include "cuda/status.hpp"
#include "metal/status.hpp"
#include "pagedkv/cpu/dispatch.hpp"
#include "pagedkv/cpu/isa.hpp"
#include "pagedkv/cpu/thread_pool.hpp"
#include "pagedkv/version.hpp"

namespace pagedkv::python {
namespace {

#if defined(__clang__)
constexpr const char* kCompiler = "clang " __clang_version__;
#elif defined(__GNUC__)
constexpr const char* kCompiler = "gcc " __VERSION__;
#elif defined(_MSC_VER)
#define PAGEDKV_STRINGIZE_(x) #x
#define PAGEDKV_STRINGIZE(x) PAGEDKV_STRINGIZE_(x)
constexpr const char* kCompiler = "msvc " PAGEDKV_STRINGIZE(_MSC_FULL_VER);
#else
constexpr const char* kCompiler = "unknown";
#endif

/// True, or the reason why the backend cannot be used.
py::object usable(const std::string& status) {
  if (status.empty()) return py::bool_(true);
  return py::str(status);
}

/// Where each backend's kernels have run in the tests of this version.
py::dict kernels_ran() {
  py::dict ran;
  ran["cpu"] = "on processors with x86-64-v2 and avx2; avx512, avx512_bf16 and neon in emulation";
  ran["cuda"] = "in emulation on the CPU, on no device yet";
  ran["metal"] = "in emulation on the CPU, on no device yet";
  return ran;
}

py::typing::Dict<py::str, py::object> build_info() {
  py::list found;
  for (const auto isa : cpu::isa_found()) found.append(std::string(cpu::isa_name(isa)));
  py::dict backends;
  backends["cpu"] = true;
  backends["cuda"] = usable(cuda::status());
  backends["metal"] = usable(metal::status());

  py::typing::Dict<py::str, py::object> info;
  info["version"] = pagedkv::version;
  info["compiler"] = kCompiler;
  info["build_type"] = PAGEDKV_BUILD_TYPE;
  info["isa_found"] = found;
  info["isa_chosen"] = std::string(cpu::isa_name(cpu::kernels().isa));
  info["backends"] = backends;
  info["kernels_ran"] = kernels_ran();
  info["threads"] = cpu::num_processors();
  return info;
}

}  // namespace

void register_info(py::module_& m) {
  m.attr("__version__") = pagedkv::version;
  m.def(
      "build_info", &build_info,
      "What was built and what this machine offers: version, compiler, build type, instruction "
      "sets found and chosen, backends (True, or why not), where their kernels have run, threads.");
}

}  // namespace pagedkv::python
