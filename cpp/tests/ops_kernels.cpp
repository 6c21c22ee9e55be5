#include "ops_kernels.hpp"

#include "pagedkv/cpu/kernels/native.hpp"

namespace pagedkv_test {

const pagedkv::cpu::Kernels& test_kernels() { return pagedkv::cpu::native_kernels(); }

}  // namespace pagedkv_test
