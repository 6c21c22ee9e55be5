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

  /// The first of the lane's rows in the m-th tile of 16. Row tiles are dealt out to the warps in
  /// turns, so that few rows keep many warps busy.
  [[nodiscard]] __device__ __forceinline__ int row(int m) const {
    return (m * T::kRowWarps + row_warp) * 16 + group;
  }
};

/// exp2 relative to a maximum, which is -inf where nothing was seen.
__device__ __forceinline__ float weight_of(float score, float maximum) {
  return exp2_approx(score - (maximum == kNothing ? 0 : maximum));
}

/// cap * tanh(x). The error is one of the result's size, not of small x: it is added to other
/// scores.
__device__ __forceinline__ float capped(float x, float cap) {
  return cap * (1 - __fdividef(2, 1 + exp2_approx(x * (2 * kLog2E))));
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

/// The running results of a warp: of each of its rows, over the tokens so far.
template <class T>
class Results {
 public:
  using Math = typename T::Math;

  __device__ __forceinline__ Results(const Params& p, const Item& item, const std::byte* queries,
                                     const Row* rows)
      : p_(p), item_(item), queries_(queries), rows_(rows) {
#pragma unroll
    for (int m = 0; m < T::kRowTiles; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        maximum[m][half] = kNothing;
        weight[m][half] = 0;
        factor_[m][half] = rows[place.row(m) + 8 * half].score_factor;
      }
#pragma unroll
      for (int d = 0; d < T::kDimGroups; ++d) {
#pragma unroll
        for (int i = 0; i < 16; ++i) sums[m][d][i / 4][i % 4] = 0;
      }
    }
    if constexpr (Math::kKeepsQueries && kFewQueries) {
#pragma unroll
      for (int m = 0; m < T::kRowTiles; ++m) {
#pragma unroll
        for (int k = 0; k < T::kKeySteps; ++k) kept_[m][k] = load_left(m, k);
      }
    }
  }

  /// Adds the 16 tokens of the stage from `first` on, which are those from `index` on of the span.
  __device__ __forceinline__ void add(const Stage<T>& stage, int first, int index) {
    float scores[T::kRowTiles][2][4];
    multiply_keys(stage, first, scores);
    transform(stage, first, index, scores);
    raise_maxima(scores);
    weigh(scores);
    add_values(stage, first, scores);
  }

  /// After the last token: the weights of a row are with four lanes.
  __device__ __forceinline__ void complete() {
#pragma unroll
    for (int m = 0; m < T::kRowTiles; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float& sum = weight[m][half];
        sum += __shfl_xor_sync(kAllLanes, sum, 1);
        sum += __shfl_xor_sync(kAllLanes, sum, 2);
      }
    }
  }

  Place<T> place;
  float maximum[T::kRowTiles][2];  ///< of the scores of rows g and g + 8, of a little ago
  float weight[T::kRowTiles][2];   ///< sum of the weights, relative to it
  /// Sums of values, relative to it and in units of `unit`. [d][i][2 h + c] is row g + 8 h and dim
  /// 32 d + 4 (2 t + c) + i of the warp's.
  float sums[T::kRowTiles][T::kDimGroups][4][4];
  float unit = 1;  ///< largest factor of a value so far, where values have factors

 private:
  /// Registers hold the queries of up to 256 dims, and not beside the sums of 32 rows of 256.
  static constexpr bool kFewQueries = T::kKeyDims <= 256;

  /// The i-th score of a lane: of its rows and tokens.
  static constexpr int kScores = T::kRowTiles * 8;
  struct At {
    int m, n, half, c;
    explicit __device__ __forceinline__ At(int i)
        : m(i / 8), n(i / 4 % 2), half(i / 2 % 2), c(i % 2) {}
    [[nodiscard]] __device__ __forceinline__ int i() const { return 2 * half + c; }
  };
  [[nodiscard]] __device__ __forceinline__ int token(const At& at) const {
    return 8 * at.n + 2 * place.in_group + at.c;
  }
  [[nodiscard]] __device__ __forceinline__ const Row& row_of(const At& at) const {
    return rows_[place.row(at.m) + 8 * at.half];
  }

  [[nodiscard]] __device__ __forceinline__ typename Math::Left load_left(int m, int k) const {
    using Quad = typename Math::Quad;
    const std::byte* const at = queries_ + place.row(m) * T::kQueryStride +
                                (16 * k + 4 * place.in_group) * Math::kElementBytes;
    return Math::left(*reinterpret_cast<const Quad*>(at),
                      *reinterpret_cast<const Quad*>(at + 8 * T::kQueryStride));
  }

  [[nodiscard]] __device__ __forceinline__ bool has_rows(int m) const {
    return place.row(m) - place.group < item_.num_rows;
  }

  __device__ __forceinline__ void multiply_keys(const Stage<T>& stage, int first,
                                                float (&scores)[T::kRowTiles][2][4]) {
    const int size = T::Stored::element_bytes(p_);
    const int dims = p_.head_dim + p_.rope_dim;
    const std::byte* const key =
        stage.keys + (first + place.group) * T::kKeyStride + 4 * place.in_group * size;
#pragma unroll
    for (int m = 0; m < T::kRowTiles; ++m) {
#pragma unroll
      for (int i = 0; i < 8; ++i) scores[m][i / 4][i % 4] = 0;
    }
#pragma unroll
    for (int k = 0; k < T::kKeySteps; ++k) {
      if (16 * k % kDimsAtATime == 0 && 16 * k >= dims) break;
      const std::byte* const at = key + 16 * k * size;
      const auto low = Math::right(T::Stored::load(p_.cache_dtype, at));
      const auto high = Math::right(T::Stored::load(p_.cache_dtype, at + 8 * T::kKeyStride));
#pragma unroll
      for (int m = 0; m < T::kRowTiles; ++m) {
        if (m > 0 && !has_rows(m)) break;
        const auto query = left_of(m, k);
        Math::multiply(scores[m][0], query, low);
        Math::multiply(scores[m][1], query, high);
      }
    }
  }

  [[nodiscard]] __device__ __forceinline__ typename Math::Left left_of(int m, int k) const {
    if constexpr (Math::kKeepsQueries && kFewQueries) {
      return kept_[m][k];
    } else {
      return load_left(m, k);
    }
  }

  /// From products to scores in units of log2, -inf where a query does not see a token.
  __device__ __forceinline__ void transform(const Stage<T>& stage, int first, int index,
                                            float (&scores)[T::kRowTiles][2][4]) const {
#pragma unroll
    for (int i = 0; i < kScores; ++i) {
      const At at(i);
      float& score = scores[at.m][at.n][at.i()];
      score *= factor_[at.m][at.half];
      if (p_.k_factors.data != nullptr) score *= stage.k_factors[first + token(at)];
    }
    if (p_.cap != 0) {
#pragma unroll
      for (int i = 0; i < kScores; ++i) {
        const At at(i);
        float& score = scores[at.m][at.n][at.i()];
        score = capped(score, p_.cap);
      }
    }
    if (p_.alibi_slopes != nullptr) {
#pragma unroll
      for (int i = 0; i < kScores; ++i) {
        const At at(i);
        const Row& row = row_of(at);
        scores[at.m][at.n][at.i()] +=
            row.slope * static_cast<float>(stage.positions[first + token(at)] - row.position);
      }
    }
    if (sees_all(stage, first, index)) return;
    unsigned seen = 0;
#pragma unroll 1
    for (int i = 0; i < kScores; ++i) {
      const At at(i);
      if (sees(p_, item_, row_of(at), stage.positions[first + token(at)])) seen |= 1U << i;
    }
#pragma unroll
    for (int i = 0; i < kScores; ++i) {
      const At at(i);
      if ((seen >> i & 1U) == 0) scores[at.m][at.n][at.i()] = kNothing;
    }
  }

  /// Whether every row of the tile sees all 16 tokens, without a look at each.
  [[nodiscard]] __device__ __forceinline__ bool sees_all(const Stage<T>& stage, int first,
                                                         int index) const {
    if (!__all_sync(kAllLanes, stage.positions[first + place.lane % kStepTokens] >= 0)) {
      return false;
    }
    const Span& span = item_.span;
    const int context = item_.sequence.context;
    const int from = span.position(index), to = span.position(index + kStepTokens - 1);
    const int lowest = context + item_.first_row / p_.group;
    const int highest = context + (item_.first_row + item_.num_rows - 1) / p_.group;
    return (!p_.causal || to <= lowest) &&
           (p_.window == 0 || from > highest - p_.window || to < p_.sink_tokens) &&
           (p_.tree_mask == nullptr || to < context);
  }

  __device__ __forceinline__ void raise_maxima(const float (&scores)[T::kRowTiles][2][4]) {
    float highest[T::kRowTiles][2];
    bool grown = false;
#pragma unroll
    for (int m = 0; m < T::kRowTiles; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float(&s)[2][4] = scores[m];
        float most =
            max(max(s[0][2 * half], s[0][2 * half + 1]), max(s[1][2 * half], s[1][2 * half + 1]));
        most = max(most, __shfl_xor_sync(kAllLanes, most, 1));
        most = max(most, __shfl_xor_sync(kAllLanes, most, 2));
        highest[m][half] = most > maximum[m][half] + kMargin ? most : maximum[m][half];
        grown = grown || highest[m][half] != maximum[m][half];
      }
    }
    if (!__any_sync(kAllLanes, grown)) return;
#pragma unroll
    for (int m = 0; m < T::kRowTiles; ++m) {
      const float scale[2] = {weight_of(maximum[m][0], highest[m][0]),
                              weight_of(maximum[m][1], highest[m][1])};
      rescale(m, scale);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        weight[m][half] *= scale[half];
        maximum[m][half] = highest[m][half];
      }
    }
  }

  __device__ __forceinline__ void rescale(int m, const float (&scale)[2]) {
#pragma unroll
    for (int d = 0; d < T::kDimGroups; ++d) {
#pragma unroll
      for (int i = 0; i < 16; ++i) sums[m][d][i / 4][i % 4] *= scale[i % 4 / 2];
    }
  }

  __device__ __forceinline__ void weigh(float (&scores)[T::kRowTiles][2][4]) {
#pragma unroll
    for (int m = 0; m < T::kRowTiles; ++m) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int half = i % 4 / 2;
        float& x = scores[m][i / 4][i % 4];
        x = weight_of(x, maximum[m][half]);
        weight[m][half] += x;
      }
    }
  }

  /// sums += weights * values. Factors of values go into the weights, in units of the largest so
  /// far: a weight times a small factor might be too small for 16 bits.
  __device__ __forceinline__ void add_values(const Stage<T>& stage, int first,
                                             float (&weights)[T::kRowTiles][2][4]) {
    if (p_.v_factors.data != nullptr) apply_factors(stage.v_factors + first, weights);
    typename Math::Left left[T::kRowTiles];
#pragma unroll
    for (int m = 0; m < T::kRowTiles; ++m) left[m] = Math::left(weights[m]);
    const int size = T::Stored::element_bytes(p_);
    const std::byte* const value = stage.values + (first + 2 * place.in_group) * T::kValueStride +
                                   (place.first_dim + 4 * place.group) * size;
#pragma unroll
    for (int d = 0; d < T::kDimGroups; ++d) {
      if (32 * d % kDimsAtATime == 0 && place.first_dim + 32 * d >= p_.v_head_dim) break;
      const std::byte* const at = value + 32 * d * size;
      const typename Math::Quad tokens[4] = {
          T::Stored::load(p_.cache_dtype, at),
          T::Stored::load(p_.cache_dtype, at + T::kValueStride),
          T::Stored::load(p_.cache_dtype, at + 8 * T::kValueStride),
          T::Stored::load(p_.cache_dtype, at + 9 * T::kValueStride)};
      typename Math::Right right[4];
      Math::transpose(right, tokens);
#pragma unroll
      for (int m = 0; m < T::kRowTiles; ++m) {
        if (m > 0 && !has_rows(m)) break;
        Math::accumulate(sums[m][d], left[m], right);
      }
    }
  }

  __device__ __forceinline__ void apply_factors(const float* factors,
                                                float (&weights)[T::kRowTiles][2][4]) {
    float mine[4];
    float largest = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      mine[i] = factors[i / 2 * 8 + 2 * place.in_group + i % 2];
      largest = max(largest, fabsf(mine[i]));
    }
    largest = max(largest, __shfl_xor_sync(kAllLanes, largest, 1));
    largest = max(largest, __shfl_xor_sync(kAllLanes, largest, 2));
    if (!has_unit_ || largest > unit) {
      // Before the first factor that is not 0, sums are 0 whatever their unit.
      const float both = has_unit_ ? unit / largest : 1;
      const float scale[2] = {both, both};
      if (has_unit_) {
#pragma unroll
        for (int m = 0; m < T::kRowTiles; ++m) rescale(m, scale);
      }
      if (largest > 0) {
        unit = largest;
        has_unit_ = true;
      }
    }
    const float per_unit = 1 / unit;
#pragma unroll
    for (int m = 0; m < T::kRowTiles; ++m) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        weights[m][i / 4][i % 4] *= mine[i / 4 * 2 + i % 2] * per_unit;
      }
    }
  }

  const Params& p_;
  const Item& item_;
  const std::byte* queries_;
  const Row* rows_;
  float factor_[T::kRowTiles][2];
  bool has_unit_ = false;
  typename Math::Left kept_[Math::kKeepsQueries && kFewQueries ? T::kRowTiles : 1]
                           [Math::kKeepsQueries && kFewQueries ? T::kKeySteps : 1];
};

}  // namespace pagedkv::cuda::attention
