#pragma once

// The compiled kernels: one source a pair of dtypes, `Variants` each.

#include "cuda/kernels/attention/params.cuh"

namespace pagedkv::cuda::attention {

/// One kernel, and what the host has to know of its `Tiling`.
struct Variant {
  void (*kernel)(const Params) = nullptr;
  int threads = 0;
  int shared_bytes = 0;
  int rows = 0;          ///< of a tile of queries
  int round_tokens = 0;  ///< `Tiling::kRoundTokens`
};

/// Kernels for head dims of up to 64, 128 and 256, and wider ones.
struct Variants {
  Variant decode[3];    ///< up to `kFewRows`: warps take turns at the tokens
  Variant tiled[3];     ///< many rows: warps take rows
  Variant wide;         ///< any number of rows, up to 512 dims
  Variant latent;       ///< MLA: values of up to 512 dims, second parts of up to 64
  Variant wide_latent;  ///< second parts of up to 512
};

// By what is multiplied, and what is stored.
const Variants& float16_variants();
const Variants& bfloat16_variants();
const Variants& float32_variants();
const Variants& e4m3_variants();   ///< of 16-bit queries
const Variants& e5m2_variants();   ///< likewise
const Variants& int8_variants();   ///< likewise
const Variants& mixed_variants();  ///< any pair, in float32

}  // namespace pagedkv::cuda::attention
