#pragma once

#include <string>

#include "bindings.hpp"
#include "cuda/status.hpp"
#include "metal/status.hpp"
#include "pagedkv/cpu/backend.hpp"

namespace pagedkv::python {

/// @throws UnsupportedError, with the reason, for a device other than the CPU.
inline void expect_cpu(const char* where, const py::str& device) {
  const std::string name = text(device);
  if (name == "cpu") return;
  std::string reason = "expected cpu, cuda or metal";
  if (name == "cuda") reason = cuda::status();
  if (name == "metal") reason = metal::status();
  if (reason.empty()) reason = "expected cpu: in Python these objects keep their memory there";
  pagedkv::detail::throw_unsupported(where, "device '" + name + "'; " + reason);
}

/// The CPU has one context, which Python writes as None.
/// @throws UnsupportedError for anything else.
inline cpu::Context cpu_context(const char* where, const NoContext& ctx) {
  if (!ctx.is_none()) {
    pagedkv::detail::throw_unsupported(
        where, "a ctx of type " + text(py::type::of(ctx)) + "; expected None on the CPU");
  }
  return {};
}

}  // namespace pagedkv::python
