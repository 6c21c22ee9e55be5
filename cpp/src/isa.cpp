// The kernels of one instruction set: compiled once for each, with its flags.

#include "pagedkv/cpu/kernels/native.hpp"

namespace pagedkv::inline v0_1::cpu::PAGEDKV_ISA_NAMESPACE {

const Kernels& table() noexcept { return native_kernels(); }

}  // namespace pagedkv::inline v0_1::cpu::PAGEDKV_ISA_NAMESPACE
