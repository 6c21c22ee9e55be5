#pragma once

// Multi-head latent attention caches one latent row and one rotary row a token, for all heads.

#include <cstdint>

#include "pagedkv/cpu/write_kv.hpp"
#include "pagedkv/ops/write_kv_call.hpp"

namespace pagedkv::inline v0_1::cpu {

/// Writes the latent and the rotary rows of n tokens to their slots, as `write_kv` does. Errors
/// name `ckv` as k, `kpe` as v. O(bytes).
/// @param where  the function that errors name.
/// Throws what `write_kv` does.
template <Executor E>
void mla_write(const MlaWriteCall& call, E& executor, const Kernels& kernels,
               const char* where = "cpu.mla_write") {
  write_kv(as_write_kv(call), executor, kernels, where);
}

}  // namespace pagedkv::inline v0_1::cpu
