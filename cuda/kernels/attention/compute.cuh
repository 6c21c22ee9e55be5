#pragma once

// Scores, weights and sums of values: what a warp does with a tile of tokens.

#include <cstdint>

#include "cuda/kernels/attention/load.cuh"

namespace pagedkv::cuda::attention {

inline constexpr float kNothing = -INFINITY;

/// Sums are rescaled only when a maximum has grown by more than this, in units of log2: weights are
/// relative to a maximum that may be a little behind, so that most steps rescale nothing.
inline constexpr float kMargin = 8;

/// Where a warp and a lane stand.
template <class T>
struct Place {
  int lane = static_cast<int>(threadIdx.x) % kWarp;
  int group = lane / 4;     ///< its rows are this one and that of 8 more, of each 16
  int in_group = lane % 4;  ///< its quad of each 16 terms
  int warp = static_cast<int>(threadIdx.x) / kWarp;
  int team = warp / T::kTeamWarps;
  int row_warp = warp % T::kTeamWarps / T::kDimWarps;
  int first_dim = warp % T::kDimWarps * T::kWarpDims;  ///< of the values

  /// The first of the lane's two rows in the tile; the other is 8 further.
  int row = row_warp * 16 + group;
};

/// 0 for the maximum of nothing.
__device__ __forceinline__ float finite(float maximum) { return maximum == kNothing ? 0 : maximum; }

/// exp2 relative to a maximum.
__device__ __forceinline__ float weight_of(float score, float maximum) {
  return exp2_approx(score - finite(maximum));
}

/// cap * tanh(x), within a few units of float32's last place: near 0 by its series, because the
/// difference would leave nothing of what is there under a large cap.
__device__ __forceinline__ float capped(float x, float cap) {
  const float square = x * x;
  const float series =
      x * (1 - square * (1.0F / 3 - square * (2.0F / 15 - square * (17.0F / 315))));
  const float difference = 1 - __fdividef(2, 1 + exp2_approx(x * (2 * kLog2E)));
  return cap * (fabsf(x) < 0.25F ? series : difference);
}

__device__ __forceinline__ bool sees(const Params& p, const Item& item, const Row& row, int j) {
  if (j < 0 || (p.causal && j > row.position)) return false;
  if (p.window != 0 && j <= row.position - p.window && j >= p.sink_tokens) return false;
  const int among_new = j - item.sequence.context;
  if (p.tree_mask == nullptr || among_new < 0) return true;
  // One token alone may come with a mask of any width.
  if (row.token < 0 || (among_new >= p.tree_mask_stride && p.num_tokens != 1)) return false;
  return p.tree_mask[row.token * p.tree_mask_stride + among_new] != 0;
}

/// The running results of a warp: of each of its 16 rows, over the tokens so far.
template <class T>
class Results {
 public:
  using Math = typename T::Math;

  __device__ __forceinline__ Results(const Params& p, const Item& item, const std::byte* queries,
                                     const Row* rows)
      : p_(p),
        item_(item),
        queries_(queries + place.row_warp * T::kKeySteps * T::kQueryStep),
        rows_(rows + place.row) {
#pragma unroll
    for (int d = 0; d < T::kDimGroups; ++d) {
#pragma unroll
      for (int i = 0; i < 16; ++i) sums[d][i / 4][i % 4] = 0;
    }
    if constexpr (T::kKeepsQueries) {
#pragma unroll
      for (int k = 0; k < T::kKeySteps; ++k) kept_[k] = load_left(k);
    }
  }

  /// Whether the warp has any rows.
  [[nodiscard]] __device__ __forceinline__ bool has_rows() const {
    return 16 * place.row_warp < item_.num_rows;
  }

  /// Adds the 16 tokens of the stage from `first` on, which are those from `index` on of the span.
  __device__ __forceinline__ void add(const Stage<T>& stage, int first, int index) {
    Scores scores;
    multiply_keys(stage, first, scores);
    transform(stage, first, index, scores);
    raise_maxima(scores);
    weigh(scores);
    add_values(stage, first, scores);
  }

  /// After the last token: the weights of a row are with four lanes.
  __device__ __forceinline__ void complete() {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      weight[half] += __shfl_xor_sync(kAllLanes, weight[half], 1);
      weight[half] += __shfl_xor_sync(kAllLanes, weight[half], 2);
    }
  }

  Place<T> place;
  float maximum[2] = {kNothing, kNothing};  ///< of the scores of either row, of a little ago
  float weight[2] = {0, 0};                 ///< sum of the weights, relative to it
  /// Sums of values, relative to it and in units of `unit`: [d][i][2 h + c] is row g + 8 h and dim
  /// 32 d + 4 (2 t + c) + i of the warp's.
  float sums[T::kDimGroups][4][4];
  float unit = 1;  ///< largest factor of a value so far, where values have factors

 private:
  /// A lane's eight scores: [n][2 h + c] is row g + 8 h and token 8 n + 2 t + c of 16.
  using Scores = float[2][4];
  [[nodiscard]] __device__ __forceinline__ int token(int i) const {
    return i / 4 * 8 + 2 * place.in_group + i % 2;
  }
  [[nodiscard]] __device__ __forceinline__ const Row& row_of(int i) const {
    return rows_[i / 2 % 2 * 8];
  }

  [[nodiscard]] __device__ __forceinline__ typename Math::Left load_left(int k) const {
    return Math::left(queries_ + k * T::kQueryStep, place.lane);
  }
  [[nodiscard]] __device__ __forceinline__ typename Math::Left left_of(int k) const {
    if constexpr (T::kKeepsQueries) {
      return kept_[k];
    } else {
      return load_left(k);
    }
  }

  __device__ __forceinline__ void multiply_keys(const Stage<T>& stage, int first,
                                                Scores& scores) const {
    const int size = T::Stored::element_bytes(p_);
    const int dims = p_.head_dim + p_.rope_dim;
    const std::byte* const key =
        stage.keys + (first + place.group) * T::kKeyStride + 4 * place.in_group * size;
#pragma unroll
    for (int i = 0; i < 8; ++i) scores[i / 4][i % 4] = 0;
#pragma unroll
    for (int k = 0; k < T::kKeySteps; ++k) {
      if (16 * k % kDimsAtATime == 0 && 16 * k >= dims) break;
      const std::byte* const at = key + 16 * k * size;
      const auto query = left_of(k);
      Math::multiply(scores[0], query, Math::right(T::Stored::load(p_.cache_dtype, at)));
      Math::multiply(scores[1], query,
                     Math::right(T::Stored::load(p_.cache_dtype, at + 8 * T::kKeyStride)));
    }
  }

  /// From products to scores in units of log2, -inf where a query does not see a token.
  __device__ __forceinline__ void transform(const Stage<T>& stage, int first, int index,
                                            Scores& scores) const {
    const float factor[2] = {rows_[0].score_factor, rows_[8].score_factor};
#pragma unroll
    for (int i = 0; i < 8; ++i) scores[i / 4][i % 4] *= factor[i / 2 % 2];
    if (p_.k_factors.data != nullptr) {
#pragma unroll
      for (int i = 0; i < 8; ++i) scores[i / 4][i % 4] *= stage.k_factors[first + token(i)];
    }
    if (p_.cap != 0) {
#pragma unroll
      for (int i = 0; i < 8; ++i) scores[i / 4][i % 4] = capped(scores[i / 4][i % 4], p_.cap);
    }
    if (p_.alibi_slopes != nullptr) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int distance = stage.positions[first + token(i)] - row_of(i).position;
        scores[i / 4][i % 4] += row_of(i).slope * static_cast<float>(distance);
      }
    }
    if (sees_all(stage, first, index)) return;
    unsigned seen = 0;
#pragma unroll 1
    for (int i = 0; i < 8; ++i) {
      if (sees(p_, item_, row_of(i), stage.positions[first + token(i)])) seen |= 1U << i;
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      if ((seen >> i & 1U) == 0) scores[i / 4][i % 4] = kNothing;
    }
  }

  /// Whether every row of the tile sees all 16 tokens, without a look at each.
  [[nodiscard]] __device__ __forceinline__ bool sees_all(const Stage<T>& stage, int first,
                                                         int index) const {
    if (!__all_sync(kAllLanes, stage.positions[first + place.lane % kStepTokens] >= 0)) {
      return false;
    }
    const int from = item_.span.position(index);
    const int to = item_.span.position(index + kStepTokens - 1);
    return (!p_.causal || to <= item_.lowest) &&
           (p_.window == 0 || from > item_.highest - p_.window || to < p_.sink_tokens) &&
           (p_.tree_mask == nullptr || to < item_.sequence.context);
  }

  __device__ __forceinline__ void raise_maxima(const Scores& scores) {
    float raised[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int i = 2 * half;
      float most = max(max(scores[0][i], scores[0][i + 1]), max(scores[1][i], scores[1][i + 1]));
      most = max(most, __shfl_xor_sync(kAllLanes, most, 1));
      most = max(most, __shfl_xor_sync(kAllLanes, most, 2));
      raised[half] = most > maximum[half] + kMargin ? most : maximum[half];
    }
    const bool any = raised[0] != maximum[0] || raised[1] != maximum[1];
    if (!__any_sync(kAllLanes, any)) return;
    const float scale[2] = {weight_of(maximum[0], raised[0]), weight_of(maximum[1], raised[1])};
    rescale(scale);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      weight[half] *= scale[half];
      maximum[half] = raised[half];
    }
  }

  __device__ __forceinline__ void rescale(const float (&scale)[2]) {
#pragma unroll
    for (int d = 0; d < T::kDimGroups; ++d) {
#pragma unroll
      for (int i = 0; i < 16; ++i) sums[d][i / 4][i % 4] *= scale[i % 4 / 2];
    }
  }

  __device__ __forceinline__ void weigh(Scores& scores) {
    const float base[2] = {finite(maximum[0]), finite(maximum[1])};
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      float& x = scores[i / 4][i % 4];
      x = exp2_approx(x - base[i / 2 % 2]);
      weight[i / 2 % 2] += x;
    }
  }

  /// sums += weights * values. Factors of values go into the weights, in units of the largest so
  /// far: a weight times a small factor might be too small for 16 bits.
  __device__ __forceinline__ void add_values(const Stage<T>& stage, int first, Scores& weights) {
    if (p_.v_factors.data != nullptr) apply_factors(stage.v_factors + first, weights);
    const auto left = Math::left(weights);
    const int size = T::Stored::element_bytes(p_);
    const std::byte* const value = stage.values + (first + 2 * place.in_group) * T::kValueStride +
                                   (place.first_dim + 4 * place.group) * size;
#pragma unroll
    for (int d = 0; d < T::kDimGroups; ++d) {
      if (32 * d % kDimsAtATime == 0 && place.first_dim + 32 * d >= p_.v_head_dim) break;
      const auto load = [&](int token) {
        return T::Stored::load(p_.cache_dtype, value + token * T::kValueStride + 32 * d * size);
      };
      const typename Math::Quad tokens[4] = {load(0), load(1), load(8), load(9)};
      typename Math::Right right[4];
      Math::transpose(right, tokens);
      Math::accumulate(sums[d], left, right);
    }
  }

  __device__ __forceinline__ void apply_factors(const float* factors, Scores& weights) {
    float mine[4];
    float largest = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      mine[i] = factors[i / 2 * 8 + 2 * place.in_group + i % 2];
      largest = max(largest, fabsf(mine[i]));
    }
    largest = max(largest, __shfl_xor_sync(kAllLanes, largest, 1));
    largest = max(largest, __shfl_xor_sync(kAllLanes, largest, 2));
    // Before the first factor that is not 0, sums are 0 whatever their unit.
    if (largest > (has_unit_ ? unit : 0)) {
      const float both = has_unit_ ? __fdividef(unit, largest) : 1;
      const float scale[2] = {both, both};
      rescale(scale);
      unit = largest;
      has_unit_ = true;
    }
    const float per_unit = __fdividef(1, unit);
#pragma unroll
    for (int i = 0; i < 8; ++i) weights[i / 4][i % 4] *= mine[i / 4 * 2 + i % 2] * per_unit;
  }

  const Params& p_;
  const Item& item_;
  const std::byte* queries_;  ///< of the warp's rows
  const Row* rows_;           ///< the lane's first
  bool has_unit_ = false;
  typename Math::Left kept_[T::kKeepsQueries ? T::kKeySteps : 1];
};

}  // namespace pagedkv::cuda::attention
