#pragma once

// The kernels of the library `pagedkv::kernels`, compiled for several instruction sets. Who uses
// the headers alone takes `native_kernels()` of cpu/kernels/native.hpp.

#include "pagedkv/cpu/isa.hpp"
#include "pagedkv/cpu/kernels.hpp"

namespace pagedkv::inline v0_1::cpu {

/// The kernels of the instruction set that `PAGEDKV_ISA` names, else of the strongest that this
/// processor has and that was compiled; decided at the first call.
/// @throws UnsupportedError when `PAGEDKV_ISA` names one that is not both.
[[nodiscard]] const Kernels& kernels();

/// Those of `isa`, which this processor must have.
/// @throws UnsupportedError when it was not compiled.
[[nodiscard]] const Kernels& kernels_for(Isa isa);

}  // namespace pagedkv::inline v0_1::cpu
