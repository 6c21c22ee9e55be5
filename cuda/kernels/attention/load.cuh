#pragma once

// From device memory to shared memory: queries, and tiles of keys and values by way of the block
// table.

#include <cstddef>
#include <cstdint>

#include "cuda/kernels/attention/schedule.cuh"

namespace pagedkv::cuda::attention {

inline constexpr float kLog2E = 1.44269504088896340736F;

/// Four elements of a row of queries, as floats.
__device__ __forceinline__ float4 load_query(const Params& p, const std::byte* row, int dim) {
  if (p.aligned_rows) {
    switch (p.q_dtype) {
      case DType::float32: return Stored<DType::float32, float4>::load(row + dim * 4);
      case DType::float16: return Stored<DType::float16, float4>::load(row + dim * 2);
      default: return Stored<DType::bfloat16, float4>::load(row + dim * 2);
    }
  }
  const auto element = [&](int i) {
    if (p.q_dtype == DType::float32) return reinterpret_cast<const float*>(row)[dim + i];
    const std::uint32_t bits = reinterpret_cast<const unsigned short*>(row)[dim + i];
    return p.q_dtype == DType::float16 ? unpack_half(bits).x : unpack_bfloat(bits).x;
  };
  return make_float4(element(0), element(1), element(2), element(3));
}

/// Puts the queries of an item into shared memory, a warp a row, and what is known of the rows.
/// Rows and dims that are not there are zeros.
template <class T>
__device__ inline void load_queries(const Params& p, const Item& item, std::byte* queries,
                                    Row* rows) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  for (int r = static_cast<int>(threadIdx.x) / kWarp; r < T::kRows; r += T::kThreads / kWarp) {
    const bool there = r < item.num_rows;
    const int row = item.first_row + r, query = row / p.group;
    const int token = item.sequence.first_query + query;
    const int head = item.kv_head * p.group + row % p.group;
    const std::byte* const q = p.q.data + token * p.q.token_stride + head * p.q.head_stride;
    const std::byte* const q_rope =
        p.q_rope.data + token * p.q_rope.token_stride + head * p.q_rope.head_stride;
    const auto load = [&](int dim) {
      if (!there || dim >= p.head_dim + p.rope_dim) return make_float4(0, 0, 0, 0);
      return dim < p.head_dim ? load_query(p, q, dim) : load_query(p, q_rope, dim - p.head_dim);
    };
    float unit = 1;
    if (T::Math::kScalesQueries && p.q_dtype == DType::bfloat16) {
      float largest = 0;
      for (int dim = 4 * lane; dim < T::kKeyDims; dim += 4 * kWarp) {
        const float4 x = load(dim);
        largest = max(largest, max(max(fabsf(x.x), fabsf(x.y)), max(fabsf(x.z), fabsf(x.w))));
      }
#pragma unroll
      for (int other = 16; other != 0; other /= 2) {
        largest = max(largest, __shfl_xor_sync(kAllLanes, largest, other));
      }
      // A power of two, so that no bit is lost; none for 0, and for what is not finite.
      const std::uint32_t exponent = __float_as_uint(largest) & 0x7f800000U;
      if (exponent != 0 && exponent < 0x7f000000U) unit = __uint_as_float(exponent);
    }
    const float per_unit = 1 / unit;
    for (int dim = 4 * lane; dim < T::kKeyDims; dim += 4 * kWarp) {
      const float4 x = load(dim);
      std::byte* const to = queries + (r / 16 * T::kKeySteps + dim / 16) * T::kQueryStep;
      T::Math::put(to, r % 8 * 4 + dim / 4 % 4, r / 8 % 2,
                   T::Math::quad(make_float4(x.x * per_unit, x.y * per_unit, x.z * per_unit,
                                             x.w * per_unit)));
    }
    if (lane == 0) {
      Row known;
      known.score_factor = p.score_scale * unit;
      known.slope = there && p.alibi_slopes != nullptr ? p.alibi_slopes[head] * kLog2E : 0;
      known.position = item.sequence.context + query;
      known.token = there ? token : -1;
      known.head = head;
      rows[r] = known;
    }
  }
}

/// A tile of tokens of one team, as it lies in shared memory.
template <class T>
struct Stage {
  std::byte* keys;
  std::byte* values;
  float* k_factors;
  float* v_factors;
  int* positions;  ///< of each token in its sequence, -1 where there is none

  explicit __device__ __forceinline__ Stage(std::byte* at)
      : keys(at),
        values(T::kValuesAreKeys ? at : at + T::kKeyTile),
        k_factors(reinterpret_cast<float*>(at + T::kKeyTile + T::kValueTile)),
        v_factors(k_factors + T::kTokens),
        positions(reinterpret_cast<int*>(v_factors + T::kTokens)) {}
};

/// The token that a lane looks up, and the id of its block.
struct Token {
  int position;  ///< -1: none
  int index;     ///< of its block in the sequence
  int block;
  int slot;
};

/// The block id is on its way when this returns: what needs it comes later.
__device__ __forceinline__ Token look_up(const Params& p, const Item& item, int i) {
  if (i >= item.last) return {-1, 0, 0, 0};
  const int position = item.span.position(i);
  const int index = p.block_shift >= 0 ? position >> p.block_shift : position / p.block_size;
  return {position, index, p.block_tables[item.seq * p.block_table_stride + index],
          position - index * p.block_size};
}

/// The least power of two from `x` on, but at most `most`, which is one.
__host__ __device__ constexpr int power_of_two_up_to(int x, int most) {
  int power = 1;
  while (power < x && power < most) power *= 2;
  return power;
}

/// Copies tiles of keys and values, for one team and one item.
template <class T>
class Loader {
 public:
  __device__ __forceinline__ Loader(const Params& p, const Item& item, Source* sources, int thread)
      : p_(p), item_(item), sources_(sources), thread_(thread) {}

  /// Tokens from `first` on are the next to be looked up: by the team's first lanes.
  __device__ __forceinline__ void look_up_next(int first) {
    if (thread_ < T::kTokens) token_ = look_up(p_, item_, first + thread_);
  }

  /// Tells the team where the tokens that were looked up lie. A barrier stands between this and
  /// `copy`, and one before the next time.
  __device__ __forceinline__ void publish() {
    if (thread_ >= T::kTokens) return;
    Token& t = token_;
    if (t.position >= 0 && (t.block < 0 || t.block >= p_.num_blocks)) {
      report(p_.errors, Mistake::block, t.block, item_.seq * p_.block_table_stride + t.index, 0,
             p_.num_blocks);
      t.position = -1;
    }
    const auto row = [&](const Cache& cache) {
      return cache.data + t.block * cache.block_stride + item_.kv_head * cache.head_stride +
             t.slot * cache.token_stride;
    };
    sources_[thread_] = t.position < 0 ? Source{} : Source{row(p_.k), row(p_.v), row(p_.k_rope)};
  }

  /// Starts to copy the tokens that were published. What is not there becomes zeros: a weight of 0
  /// times a NaN that happened to lie there would be one. So do the dims that keys have no more of.
  __device__ __forceinline__ void copy(const Stage<T>& stage) const {
    const int size = T::Stored::element_bytes(p_);
    const int k = p_.head_dim * size, rope = p_.rope_dim * size, v = p_.v_head_dim * size;
    const int k_end = divide_up(p_.head_dim + p_.rope_dim, kDimsAtATime) * kDimsAtATime * size;
    constexpr int most = T::Stored::kMostBytes;
    if constexpr (T::kValuesAreKeys) {
      copy_part<T::kValueDims * most>(stage.keys, T::kKeyStride, k, k, &Source::k);
      copy_part<(T::kKeyDims - T::kValueDims + kDimsAtATime) * most>(
          stage.keys + k, T::kKeyStride, rope, k_end - k, &Source::k_rope);
    } else {
      copy_part<T::kKeyDims * most>(stage.keys, T::kKeyStride, k, k_end, &Source::k);
      copy_part<T::kValueDims * most>(stage.values, T::kValueStride, v, v, &Source::v);
    }
    if (thread_ >= T::kTokens) return;
    stage.positions[thread_] = token_.position;
    const auto copy_factor = [&](const Factors& factors, float* to) {
      if (factors.data == nullptr) return;
      const bool there = token_.position >= 0;
      const float* const from = factors.data + token_.block * factors.block_stride +
                                item_.kv_head * factors.head_stride +
                                token_.slot * factors.slot_stride;
      cp_async<4>(to + thread_, there ? from : factors.data, there ? 4 : 0);
    };
    copy_factor(p_.k_factors, stage.k_factors);
    copy_factor(p_.v_factors, stage.v_factors);
  }

 private:
  /// Copies one part of each row, `length` bytes, and zeros up to `end`.
  /// @tparam room  what `end` is at most.
  template <int room>
  __device__ __forceinline__ void copy_part(std::byte* tile, int stride, int length, int end,
                                            const std::byte* Source::*which) const {
    constexpr int chunk = 16;
    if (p_.copy_bytes == chunk) {
      // A thread has one chunk of every so many rows, so that one addition finds the next.
      constexpr int threads = power_of_two_up_to(divide_up(room, chunk), T::kTeamThreads);
      for (int at = thread_ % threads * chunk; at < end; at += threads * chunk) {
        std::byte* const to = tile + at;
        constexpr int rows = T::kTeamThreads / threads;  // at a time
        constexpr int times = divide_up(T::kTokens, rows);
        constexpr int together = times < 4 ? times : 4;  // the loads of where they are overlap
#pragma unroll
        for (int i = 0; i < times; i += together) {
          const std::byte* from[together];
#pragma unroll
          for (int j = 0; j < together; ++j) {
            from[j] = sources_[min((i + j) * rows + thread_ / threads, T::kTokens - 1)].*which;
          }
#pragma unroll
          for (int j = 0; j < together; ++j) {
            const int token = (i + j) * rows + thread_ / threads;
            if (rows > T::kTokens && token >= T::kTokens) break;
            const bool there = from[j] != nullptr && at < length;
            cp_async<chunk>(to + token * stride, there ? from[j] + at : p_.k.data,
                            there ? chunk : 0);
          }
        }
      }
      return;
    }
    // Other alignments are rare.
#pragma unroll 1
    for (int i = thread_; i < T::kTokens * end; i += T::kTeamThreads) {
      const int token = i / end, at = i % end;
      const std::byte* const row = sources_[token].*which;
      tile[token * stride + at] = row != nullptr && at < length ? row[at] : std::byte{0};
    }
  }

  const Params& p_;
  const Item& item_;
  Source* sources_;
  int thread_;
  Token token_{-1, 0, 0, 0};
};

}  // namespace pagedkv::cuda::attention
