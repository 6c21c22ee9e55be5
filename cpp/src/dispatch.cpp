// Which of the compiled kernels run.

#include "pagedkv/cpu/dispatch.hpp"

#include <string>

namespace pagedkv::inline v0_1::cpu {

// One of each that CMake compiled isa.cpp for.
#define PAGEDKV_COMPILED(isa)      \
  namespace isa {                  \
  const Kernels& table() noexcept; \
  }
#include "compiled_isas.inc"
#undef PAGEDKV_COMPILED

const Kernels& kernels_for(Isa isa) {
  const Kernels* found = nullptr;
  std::string names;
#define PAGEDKV_COMPILED(name)                          \
  if (name::table().isa == isa) found = &name::table(); \
  names += (names.empty() ? "" : ", ") + std::string(isa_name(name::table().isa));
#include "compiled_isas.inc"
#undef PAGEDKV_COMPILED
  if (found == nullptr) {
    detail::throw_unsupported("cpu.kernels_for", "instruction set " + std::string(isa_name(isa)) +
                                                     "; expected one that was compiled: " + names);
  }
  return *found;
}

const Kernels& kernels() {
  static const Kernels& chosen = kernels_for(isa_chosen());
  return chosen;
}

}  // namespace pagedkv::inline v0_1::cpu
