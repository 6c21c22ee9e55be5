// Which of the compiled kernels run.

#include "pagedkv/cpu/dispatch.hpp"

#include <optional>
#include <string>

namespace pagedkv::inline v0_1::cpu {

// One of each that CMake compiled isa.cpp for.
#define PAGEDKV_COMPILED(isa)      \
  namespace isa {                  \
  const Kernels& table() noexcept; \
  }
#include "compiled_isas.inc"
#undef PAGEDKV_COMPILED

namespace {

/// Null where it was not compiled.
const Kernels* find(Isa isa) noexcept {
#define PAGEDKV_COMPILED(name) \
  if (name::table().isa == isa) return &name::table();
#include "compiled_isas.inc"
#undef PAGEDKV_COMPILED
  return nullptr;
}

// Not every compiler knows every set: the strongest that was found may not be there.
const Kernels& choose() {
  if (const std::optional<Isa> forced = isa_forced()) return kernels_for(*forced);
  const Kernels* strongest = nullptr;
  for (const Isa isa : isa_found()) {
    if (const Kernels* kernels = find(isa)) strongest = kernels;
  }
  return strongest == nullptr ? kernels_for(isa_found().back()) : *strongest;
}

}  // namespace

const Kernels& kernels_for(Isa isa) {
  if (const Kernels* found = find(isa)) return *found;
  std::string names;
#define PAGEDKV_COMPILED(name) \
  names += (names.empty() ? "" : ", ") + std::string(isa_name(name::table().isa));
#include "compiled_isas.inc"
#undef PAGEDKV_COMPILED
  detail::throw_unsupported("cpu.kernels_for", "instruction set " + std::string(isa_name(isa)) +
                                                   "; expected one that was compiled: " + names);
}

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

}  // namespace pagedkv::inline v0_1::cpu
