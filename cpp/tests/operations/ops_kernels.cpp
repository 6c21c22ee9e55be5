#include "ops_kernels.hpp"

#if defined(PAGEDKV_TESTS_DISPATCH)
#include "pagedkv/cpu/dispatch.hpp"
#else
#include "pagedkv/cpu/kernels/native.hpp"
#endif

namespace pagedkv_test {

const pagedkv::cpu::Kernels& test_kernels() {
#if defined(PAGEDKV_TESTS_DISPATCH)
  return pagedkv::cpu::kernels();
#else
  return pagedkv::cpu::native_kernels();
#endif
}

}  // namespace pagedkv_test
