#pragma once

// The tilings, chosen by what fits: two blocks a multiprocessor for decode (so that one loads while
// the other begins or ends), 160 KiB of shared memory, 255 registers.

#include "cuda/kernels/attention/attend.cuh"
#include "cuda/kernels/attention/variants.hpp"

namespace pagedkv::cuda::attention {

template <class T>
[[nodiscard]] Variant variant_of() {
  static_assert(SharedLayout<T>::kBytes <= 160 * 1024);
  return {&attend_kernel<T>, T::kThreads, SharedLayout<T>::kBytes, T::kRows, T::kRoundTokens};
}

/// Blocks that a multiprocessor of 228 KiB holds, 1 KiB of each taken.
template <class T>
constexpr int kBlocks = 228 * 1024 / (SharedLayout<T>::kBytes + 1024);

/// Terms of 16 bits. Template arguments of `Tiling` after the dims: row tiles, row warps, dim
/// warps, teams, tokens, stages.
template <class Math, class Stored>
[[nodiscard]] Variants make_variants() {
  constexpr bool bytes = Stored::kMostBytes == 1;
  Variants v;
  v.decode[0] = variant_of<Tiling<Math, Stored, 64, 64, 1, 1, 4, 16, 3>>();
  v.decode[1] = variant_of<Tiling<Math, Stored, 128, 128, 1, 1, 4, 16, bytes ? 4 : 3>>();
  v.decode[2] = variant_of<Tiling<Math, Stored, 256, 256, 1, 1, 2, 16, bytes ? 4 : 3>>();
  v.tiled[0] = variant_of<Tiling<Math, Stored, 64, 64, 8, 1, 1, 32, 3>>();
  v.tiled[1] = variant_of<Tiling<Math, Stored, 128, 128, 8, 1, 1, 32, 3>>();
  v.tiled[2] = variant_of<Tiling<Math, Stored, 256, 256, 4, 1, 1, 32, 2>>();
  v.wide = variant_of<Tiling<Math, Stored, 512, 512, 4, 2, 1, 16, 2>>();
  v.latent = variant_of<Tiling<Math, Stored, 576, 512, 4, 2, 1, 16, 3>>();
  v.wide_latent = variant_of<Tiling<Math, Stored, 1024, 512, 2, 4, 1, 16, 2>>();
  static_assert(kBlocks<Tiling<Math, Stored, 64, 64, 1, 1, 4, 16, 3>> >= 3);
  static_assert(kBlocks<Tiling<Math, Stored, 128, 128, 1, 1, 4, 16, 3>> >= 2);
  return v;
}

/// Terms of 32 bits.
template <class Stored>
[[nodiscard]] Variants make_float32_variants() {
  using Math = Float32;
  Variants v;
  v.decode[0] = variant_of<Tiling<Math, Stored, 64, 64, 1, 1, 4, 16, 2>>();
  v.decode[1] = variant_of<Tiling<Math, Stored, 128, 128, 1, 1, 2, 16, 2>>();
  v.decode[2] = variant_of<Tiling<Math, Stored, 256, 256, 1, 1, 2, 16, 2>>();
  v.tiled[0] = variant_of<Tiling<Math, Stored, 64, 64, 4, 1, 1, 32, 2>>();
  v.tiled[1] = variant_of<Tiling<Math, Stored, 128, 128, 4, 1, 1, 32, 2>>();
  v.tiled[2] = variant_of<Tiling<Math, Stored, 256, 256, 4, 1, 1, 16, 2>>();
  v.wide = variant_of<Tiling<Math, Stored, 512, 512, 1, 4, 1, 16, 1>>();
  v.latent = variant_of<Tiling<Math, Stored, 576, 512, 1, 4, 1, 16, 2>>();
  v.wide_latent = variant_of<Tiling<Math, Stored, 1024, 512, 1, 4, 1, 16, 1>>();
  return v;
}

}  // namespace pagedkv::cuda::attention
