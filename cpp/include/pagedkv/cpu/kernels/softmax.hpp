#pragma once

// One tile's step of the online softmax (Milakov and Gimelshein, 2018), with lazy rescaling: sums
// are kept relative to a reference that follows the maximum only when that has grown by more than a
// margin (as in FlashAttention-4), so that most tiles rescale nothing.

#include <cmath>
#include <cstdint>
#include <limits>

#include "pagedkv/cpu/kernels/math.hpp"
#include "pagedkv/cpu/simd/vectors.hpp"

namespace pagedkv::inline v0_1::cpu::PAGEDKV_ISA_NAMESPACE {

/// By how much scores may pass the reference: weights stay below e^8.
inline constexpr double kRescaleMargin = 8;

/// What is known of `R` rows: `reference` (-inf at first) and the sum of e^(score - reference).
template <class T, int R>
struct SoftmaxState {
  T reference[R];
  T sum[R];

  void reset() noexcept {
    for (int r = 0; r < R; ++r) {
      reference[r] = -std::numeric_limits<T>::infinity();
      sum[r] = 0;
    }
  }
};

/// Turns the scores of one tile, `[size][R]`, into weights, in place. `size * R` is a multiple of
/// the vector's width. `factor[r]` is what earlier sums of row r are to be multiplied by.
/// @returns whether a factor is not 1.
template <class V, int R>
inline bool softmax_step(typename V::Scalar* scores, int size,
                         SoftmaxState<typename V::Scalar, R>& state,
                         typename V::Scalar (&factor)[R]) noexcept {
  using T = typename V::Scalar;
  constexpr int tokens = V::width / R;  // a vector
  const int count = size * R;
  V top = V::load(scores);
  for (int i = V::width; i < count; i += V::width) top = max(top, V::load(scores + i));
  T lanes[V::width];
  top.store(lanes);
  bool rescale = false;
  T reference[V::width];
  for (int r = 0; r < R; ++r) {
    T highest = lanes[r];
    for (int t = 1; t < tokens; ++t)
      highest = lanes[t * R + r] > highest ? lanes[t * R + r] : highest;
    factor[r] = 1;
    if (highest > state.reference[r] + T(kRescaleMargin)) {
      // The first time there is nothing to keep.
      const bool first = state.reference[r] == -std::numeric_limits<T>::infinity();
      factor[r] = first ? T(0) : static_cast<T>(std::exp(state.reference[r] - highest));
      state.reference[r] = highest;
      state.sum[r] *= factor[r];
      rescale = true;
    }
    // A row that has seen nothing yet has no reference; its scores are -inf, its weights 0.
    const T used =
        state.reference[r] == -std::numeric_limits<T>::infinity() ? T(0) : state.reference[r];
    for (int t = 0; t < tokens; ++t) reference[t * R + r] = used;
  }
  const V subtracted = V::load(reference);
  V sum = V::zero();
  for (int i = 0; i < count; i += V::width) {
    const V weight = exp(V::load(scores + i) - subtracted);
    weight.store(scores + i);
    sum = sum + weight;
  }
  sum.store(lanes);
  for (int r = 0; r < R; ++r) {
    for (int t = 0; t < tokens; ++t) state.sum[r] += lanes[t * R + r];
  }
  return rescale;
}

}  // namespace pagedkv::inline v0_1::cpu::PAGEDKV_ISA_NAMESPACE
