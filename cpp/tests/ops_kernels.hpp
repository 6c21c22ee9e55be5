#pragma once

// The kernels that the tests of operations run. Compiled once: they take the compiler a while.

#include "pagedkv/cpu/kernels.hpp"

namespace pagedkv_test {

[[nodiscard]] const pagedkv::cpu::Kernels& test_kernels();

}  // namespace pagedkv_test
