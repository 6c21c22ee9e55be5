#pragma once

// The kernels that the tests of operations run: those that `PAGEDKV_ISA` names of the library's,
// or, where it is not linked, those of the tests' own flags.

#include "pagedkv/cpu/kernels.hpp"

namespace pagedkv_test {

[[nodiscard]] const pagedkv::cpu::Kernels& test_kernels();

}  // namespace pagedkv_test
