#pragma once

// Multi-head latent attention caches one latent row and one rotary row a token, for all heads.

#include <cstdint>

#include "pagedkv/cpu/write_kv.hpp"

namespace pagedkv::inline v0_1::cpu {

/// The arguments of `mla_write`. All have one head.
struct MlaWriteCall {
  RowsView ckv;         ///< `[num_tokens, 1, kv_lora_rank]`
  RowsView kpe;         ///< `[num_tokens, 1, rope_dim]`
  CacheView ckv_cache;  ///< `[num_blocks, 1, block_size, kv_lora_rank]`
  CacheView
      kpe_cache;  ///< `[num_blocks, 1, block_size, rope_dim]`; may interleave with `ckv_cache`
  ScaleView ckv_scale;
  ScaleView kpe_scale;
  const std::int64_t* slot_mapping = nullptr;  ///< `[num_tokens]`; `kNoSlot`: the token is skipped
};

/// Writes the latent and the rotary rows of n tokens to their slots, as `write_kv` does. Errors
/// name `ckv` as k, `kpe` as v. O(bytes).
/// @param where  the function that errors name.
/// @throws as `write_kv`.
template <Executor E>
void mla_write(const MlaWriteCall& call, E& executor, const Kernels& kernels,
               const char* where = "cpu.mla_write") {
  write_kv(WriteKvCall{call.ckv, call.kpe, call.ckv_cache, call.kpe_cache, call.ckv_scale,
                       call.kpe_scale, call.slot_mapping},
           executor, kernels, where);
}

}  // namespace pagedkv::inline v0_1::cpu
