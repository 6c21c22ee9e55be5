#pragma once

// The two products of attention for up to four rows of queries that share keys and values, over one
// tile: scores = keys . queries, results += weights . values. Keys and values are read where they
// lie. `FloatProducts` converts elements to floats; `IntegerProducts` multiplies int8 and int4 as
// integers, with queries and weights rounded to 15 bits.
//
// Scores and weights lie as [token][R], so that R rows of a few tokens fill a vector.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "pagedkv/cpu/kernels/rows.hpp"
#include "pagedkv/cpu/kernels/tile.hpp"
#include "pagedkv/detail/macros.hpp"

namespace pagedkv::inline v0_1::cpu::PAGEDKV_ISA_NAMESPACE {

/// Has `x` in a register here: a load that is used more than once is not folded into each use, and
/// a sum is not copied around.
template <class V>
inline void keep(V& x) noexcept {
#if defined(__GNUC__) && (defined(__x86_64__) || defined(__aarch64__)) && \
    !defined(PAGEDKV_SIMD_GENERIC)
#if defined(__x86_64__)  // "v": all registers of AVX-512
  asm("" : "+v"(x.v));
#else
  asm("" : "+w"(x.v));
#endif
#else
  static_cast<void>(x);
#endif
}

/// Sums that are built up at a time, of chunks of so many vectors: enough to hide the latency of a
/// product, few enough for the registers.
template <class V, int vectors>
inline constexpr int kSums =
    V::num_registers >= 32 ? (V::width >= 16 ? 16 : 24) : (vectors == 1 ? 12 : 8);

/// scores[i] = the sum of the lanes of sums[i]; writes up to a whole vector more.
template <int count, class V, class T>
inline void store_sums(const V (&sums)[count], T* scores) noexcept {
  PAGEDKV_UNROLL
  for (int i = 0; i < count; i += V::width) {
    V part[V::width];
    PAGEDKV_UNROLL
    for (int j = 0; j < V::width; ++j) part[j] = sums[i + j < count ? i + j : count - 1];
    if constexpr (std::is_same_v<V, I32>) {
      to_float(V::sums(part)).store(scores + i);
    } else {
      V::sums(part).store(scores + i);
    }
  }
}

/// `size` rounded up to a multiple of `step`.
[[nodiscard]] constexpr std::int64_t round_up(std::int64_t size, std::int64_t step) noexcept {
  return (size + step - 1) / step * step;
}

/// Products of floats; doubles for float64.
template <DType dtype>
struct FloatProducts {
  using E = Elements<dtype>;
  using V = typename E::Vector;
  using T = typename V::Scalar;
  using Query = T;
  static constexpr int chunk = E::chunk;
  static constexpr bool integer = false;

  /// Puts `size` values of a query into the order of chunks, zeros behind them.
  /// @returns what scores are to be multiplied by.
  static T prepare(const T* query, std::int64_t size, Query* prepared) noexcept {
    for (std::int64_t c = 0; c < size; c += chunk) {
      T part[chunk] = {};
      std::copy_n(query + c, std::min<std::int64_t>(chunk, size - c), part);
      PAGEDKV_UNROLL
      for (int i = 0; i < chunk; ++i) prepared[c + i] = part[channel(i)];
    }
    return 1;
  }

  /// scores[t][r] = k[t] . queries[r], for the tokens of a tile rounded up to a whole vector.
  /// @param queries  `[R][stride]`, prepared.
  /// @param stride   `head_dim` rounded up to a chunk.
  template <int R>
  PAGEDKV_NOINLINE static void scores(const std::byte* const* k, int size, const Query* queries,
                                      std::int64_t stride, T* scores, const Ahead& ahead) noexcept {
    constexpr int tokens = kSums<V, E::vectors> / R;
    constexpr std::int64_t bytes = bytes_of_elements(dtype, chunk);
    Pace pace(ahead, (stride + tokens - 1) / tokens, 0);
    for (std::int64_t t = 0; t < size; t += tokens) {
      V sums[tokens * R];
      PAGEDKV_UNROLL
      for (V& sum : sums) sum = V::zero();
      const std::byte* const* rows = k + t;
      std::int64_t offset = 0;
      pace.restart();
      for (std::int64_t c = 0; c < stride; c += chunk, offset += bytes) {
        V key[tokens][E::vectors];
        pace.at(c);
        PAGEDKV_UNROLL
        for (int i = 0; i < tokens; ++i) E::load(rows[i] + offset, key[i]);
        PAGEDKV_UNROLL
        for (int v = 0; v < E::vectors; ++v) {
          PAGEDKV_UNROLL
          for (int r = 0; r < R; ++r) {
            V query = V::load(queries + r * stride + c + v * V::width);
            keep(query);
            PAGEDKV_UNROLL
            for (int i = 0; i < tokens; ++i) {
              sums[i * R + r] = fma(query, key[i][v], sums[i * R + r]);
            }
          }
        }
      }
      store_sums<tokens * R>(sums, scores + t * R);
    }
  }

  /// results[r] += weights[.][r] . v
  /// @param results  `[R][stride]`, in the order of chunks.
  template <int R>
  static void values(const std::byte* const* v, int size, T* weights, T* results,
                     std::int64_t stride, const Ahead& ahead) noexcept {
    constexpr int vectors = std::max(8 / R, E::vectors);  // at a time: 8 sums
    constexpr int wide = vectors * V::width;
    std::int64_t c = 0;
    for (; c + wide <= stride; c += wide) {
      columns<R, vectors>(v, size, weights, results + c, stride, c, ahead);
    }
    for (; c < stride; c += chunk) {
      columns<R, E::vectors>(v, size, weights, results + c, stride, c, ahead);
    }
  }

  /// The channel of a chunk that is i-th in results.
  static constexpr int channel(int i) noexcept { return E::channel(i / V::width, i % V::width); }

 private:
  template <int R, int vectors>
  PAGEDKV_NOINLINE static void columns(const std::byte* const* v, int size, const T* weights,
                                       T* results, std::int64_t stride, std::int64_t column,
                                       const Ahead& ahead) noexcept {
    constexpr std::int64_t bytes = bytes_of_elements(dtype, chunk);
    const std::int64_t offset = bytes_of_elements(dtype, column);
    constexpr std::int64_t wide = std::int64_t{vectors} * V::width;
    Pace pace(ahead, stride / wide, column / wide * size / (stride / wide));
    V sums[R][vectors];
    PAGEDKV_UNROLL
    for (int r = 0; r < R; ++r) {
      PAGEDKV_UNROLL
      for (int i = 0; i < vectors; ++i) sums[r][i] = V::load(results + r * stride + i * V::width);
    }
    for (int t = 0; t < size; ++t, weights += R) {
      pace.at(t);
      V weight[R];
      PAGEDKV_UNROLL
      for (int r = 0; r < R; ++r) weight[r] = V::all(weights[r]);
      const std::byte* p = v[t] + offset;
      PAGEDKV_UNROLL
      for (int i = 0; i < vectors; i += E::vectors, p += bytes) {
        V value[E::vectors];
        E::load(p, value);
        PAGEDKV_UNROLL
        for (int r = 0; r < R; ++r) {
          PAGEDKV_UNROLL
          for (int j = 0; j < E::vectors; ++j) {
            sums[r][i + j] = fma(weight[r], value[j], sums[r][i + j]);
          }
        }
      }
    }
    PAGEDKV_UNROLL
    for (int r = 0; r < R; ++r) {
      PAGEDKV_UNROLL
      for (int i = 0; i < vectors; ++i) sums[r][i].store(results + r * stride + i * V::width);
    }
  }
};

#if defined(PAGEDKV_SIMD_BF16)
/// Products of bfloat16 keys with bfloat16 queries, by the processor's own: keys need not become
/// floats. Values, whose weights are floats, do.
struct BfloatProducts : FloatProducts<DType::bfloat16> {
  using Query = std::uint16_t;
  static_assert(chunk == BF16::width);

  /// `query` holds numbers of bfloat16.
  static float prepare(const float* query, std::int64_t size, Query* prepared) noexcept {
    std::fill_n(prepared, round_up(size, chunk), Query{0});
    for (std::int64_t i = 0; i < size; ++i) prepared[i] = to_bfloat16(query[i]);
    return 1;
  }

  template <int R>
  PAGEDKV_NOINLINE static void scores(const std::byte* const* k, int size, const Query* queries,
                                      std::int64_t stride, float* scores,
                                      const Ahead& ahead) noexcept {
    constexpr int tokens = kSums<F32, 1> / R;
    Pace pace(ahead, (stride + tokens - 1) / tokens, 0);
    for (std::int64_t t = 0; t < size; t += tokens) {
      F32 sums[tokens * R];
      PAGEDKV_UNROLL
      for (F32& sum : sums) sum = F32::zero();
      const std::byte* const* rows = k + t;
      pace.restart();
      for (std::int64_t c = 0; c < stride; c += chunk) {
        pace.at(c);
        BF16 key[tokens];
        PAGEDKV_UNROLL
        for (int i = 0; i < tokens; ++i) {
          key[i] = BF16::load(rows[i] + bytes_of_elements(DType::bfloat16, c));
        }
        PAGEDKV_UNROLL
        for (int r = 0; r < R; ++r) {
          const BF16 query = BF16::load(queries + r * stride + c);
          PAGEDKV_UNROLL
          for (int i = 0; i < tokens; ++i) {
            sums[i * R + r] = dot_pairs(query, key[i], sums[i * R + r]);
          }
        }
      }
      store_sums<tokens * R>(sums, scores + t * R);
    }
  }
};
#endif

/// Products of integers of 16 bits, for int8 and int4.
template <DType dtype>
struct IntegerProducts {
  static constexpr bool two_a_byte = dtype == DType::int4;
  using V = F32;
  using T = float;
  using Query = std::int16_t;
  static constexpr int vectors = two_a_byte ? 2 : 1;
  static constexpr int chunk = vectors * I16::width;
  static constexpr bool integer = true;
  /// Largest magnitude of a query or a weight: sums of 512 products of 8 bits stay below 2^31.
  static constexpr float kLargest = 16383;

  static void load(const std::byte* p, I16 (&x)[vectors]) noexcept {
    if constexpr (two_a_byte) {
      I16::from_i4_pairs(p, x[0], x[1]);
    } else {
      x[0] = I16::from_i8(p);
    }
  }

  /// As FloatProducts::prepare; rounds to integers.
  static float prepare(const float* query, std::int64_t size, Query* prepared) noexcept {
    float unit[1];
    units<1>(query, size, unit);
    const F32 inverse = F32::all(inverse_of(unit[0]));
    for (std::int64_t c = 0; c < size; c += chunk) {
      float part[chunk] = {};
      std::copy_n(query + c, std::min<std::int64_t>(chunk, size - c), part);
      std::int32_t rounded[chunk];
      for (int i = 0; i < chunk; i += F32::width) {
        to_int(F32::load(part + i) * inverse).store(rounded + i);
      }
      for (int i = 0; i < chunk; ++i) {
        const int lane = i % I16::width, vector = i / I16::width;
        prepared[c + i] = static_cast<Query>(rounded[two_a_byte ? 2 * lane + vector : lane]);
      }
    }
    return unit[0];
  }

  template <int R>
  PAGEDKV_NOINLINE static void scores(const std::byte* const* k, int size, const Query* queries,
                                      std::int64_t stride, float* scores,
                                      const Ahead& ahead) noexcept {
    // Sums of integers wait for an addition alone: fewer hide it.
    constexpr int tokens = kSums<V, 2> / R;
    constexpr std::int64_t bytes = bytes_of_elements(dtype, chunk);
    Pace pace(ahead, (stride + tokens - 1) / tokens, 0);
    for (std::int64_t t = 0; t < size; t += tokens) {
      I32 sums[tokens * R];
      PAGEDKV_UNROLL
      for (I32& sum : sums) sum = I32::zero();
      const std::byte* const* rows = k + t;
      std::int64_t offset = 0;
      pace.restart();
      for (std::int64_t c = 0; c < stride; c += chunk, offset += bytes) {
        I16 key[tokens][vectors];
        pace.at(c);
        PAGEDKV_UNROLL
        for (int i = 0; i < tokens; ++i) load(rows[i] + offset, key[i]);
        PAGEDKV_UNROLL
        for (std::int64_t v = 0; v < vectors; ++v) {
          PAGEDKV_UNROLL
          for (int r = 0; r < R; ++r) {
            I16 query = I16::load(queries + r * stride + c + v * I16::width);
            keep(query);
            PAGEDKV_UNROLL
            for (int i = 0; i < tokens; ++i) {
              sums[i * R + r] = dot_pairs(query, key[i][v], sums[i * R + r]);
              keep(sums[i * R + r]);
            }
          }
        }
      }
      store_sums<tokens * R>(sums, scores + t * R);
    }
  }

  /// As FloatProducts::values. The order within a chunk is that of `channel`.
  template <int R>
  static void values(const std::byte* const* v, int size, float* weights, float* results,
                     std::int64_t stride, const Ahead& ahead) noexcept {
    // Weights become integers, relative to the tile's largest, those of two tokens side by side.
    float unit[R];
    alignas(64) std::int32_t pairs[(kTileTokens / 2 + 1) * R];
    round_weights<R>(weights, size, pairs, unit);
    constexpr int at_once = std::max(8 / (2 * R), vectors);
    constexpr int wide = at_once * I16::width;
    std::int64_t c = 0;
    for (; c + wide <= stride; c += wide) {
      columns<R, at_once>(v, size, pairs, unit, results + c, stride, c, ahead);
    }
    for (; c < stride; c += chunk) {
      columns<R, vectors>(v, size, pairs, unit, results + c, stride, c, ahead);
    }
  }

  /// The channel of a chunk that is i-th in results.
  static constexpr int channel(int i) noexcept {
    const int vector = i / I16::width, half = i % I16::width / I32::width;
    const int lane = I16::zip_channel(half, i % I32::width);
    return two_a_byte ? 2 * lane + vector : lane;
  }

 private:
  /// What `size` values are divided by so that they become integers: their largest magnitude over
  /// kLargest, NaN where one of them is.
  template <int step>
  static void units(const float* x, std::int64_t size, float (&unit)[step]) noexcept {
    // Lane i holds values of row i % step; a row of its own has them all.
    F32 largest = F32::zero(), sum = F32::zero();
    std::int64_t i = 0;
    for (; i + F32::width <= size; i += F32::width) {
      const F32 magnitude = abs(F32::load(x + i));
      largest = max(largest, magnitude);
      sum = sum + magnitude;
    }
    float lanes[F32::width], sums[F32::width];
    largest.store(lanes);
    sum.store(sums);
    for (int j = 0; i < size && j < F32::width; ++i, ++j) {
      lanes[j] = std::max(lanes[j], std::fabs(x[i]));
      sums[j] += std::fabs(x[i]);
    }
    for (int r = 0; r < step; ++r) {
      float most = 0, all = 0;
      for (int j = r; j < F32::width; j += step) {
        most = std::max(most, lanes[j]);
        all += sums[j];
      }
      unit[r] = all == all ? most / kLargest : all;
    }
  }

  [[nodiscard]] static float inverse_of(float unit) noexcept { return unit > 0 ? 1 / unit : 0; }

  /// `[size][R]` weights as integers, those of two tokens in the halves of one.
  template <int R>
  static void round_weights(float* weights, int size, std::int32_t* pairs,
                            float (&unit)[R]) noexcept {
    if (size % 2 != 0) std::fill_n(weights + std::int64_t{size} * R, R, 0.0F);
    units<R>(weights, size * R, unit);
    float lanes[F32::width];
    for (int i = 0; i < F32::width; ++i) lanes[i] = inverse_of(unit[i % R]);
    const F32 inverse = F32::load(lanes);
    alignas(64) std::int32_t rounded[(kTileTokens + 1) * R + F32::width];
    const int count = (size + 1) / 2 * 2 * R;
    for (int i = 0; i < count; i += F32::width) {
      to_int(F32::load(weights + i) * inverse).store(rounded + i);
    }
    for (int t = 0; t < count; t += 2 * R) {
      PAGEDKV_UNROLL
      for (int r = 0; r < R; ++r) {
        const auto first = static_cast<std::uint32_t>(rounded[t + r]);
        const auto second = static_cast<std::uint32_t>(rounded[t + R + r]);
        pairs[t / 2 + r] = static_cast<std::int32_t>((first & 0xffffU) | second << 16);
      }
    }
  }

  template <int R, int at_once>
  PAGEDKV_NOINLINE static void columns(const std::byte* const* v, int size,
                                       const std::int32_t* pairs, const float (&unit)[R],
                                       float* results, std::int64_t stride, std::int64_t column,
                                       const Ahead& ahead) noexcept {
    constexpr std::int64_t bytes = bytes_of_elements(dtype, chunk);
    const std::int64_t offset = bytes_of_elements(dtype, column);
    constexpr std::int64_t wide = std::int64_t{at_once} * I16::width;
    Pace pace(ahead, stride / wide, column / wide * size / (stride / wide));
    I32 sums[R][2 * at_once];
    PAGEDKV_UNROLL
    for (auto& row : sums) {
      PAGEDKV_UNROLL
      for (I32& sum : row) sum = I32::zero();
    }
    // The weight beside the last of an odd number is 0, and its row that of the last.
    for (int t = 0; t < size; t += 2, pairs += R) {
      pace.at(t);
      const std::byte* p = v[t] + offset;
      const std::byte* q = v[t + 1] + offset;
      PAGEDKV_UNROLL
      for (int i = 0; i < at_once; i += vectors, p += bytes, q += bytes) {
        I16 a[vectors], b[vectors];
        load(p, a);
        load(q, b);
        PAGEDKV_UNROLL
        for (int j = 0; j < vectors; ++j) {
          I16 low, high;
          I16::zip(a[j], b[j], low, high);
          PAGEDKV_UNROLL
          for (int r = 0; r < R; ++r) {
            const I16 pair = I16::all_pairs(pairs[r]);
            sums[r][2 * (i + j)] = dot_pairs(low, pair, sums[r][2 * (i + j)]);
            sums[r][2 * (i + j) + 1] = dot_pairs(high, pair, sums[r][2 * (i + j) + 1]);
            keep(sums[r][2 * (i + j)]);
            keep(sums[r][2 * (i + j) + 1]);
          }
        }
      }
    }
    PAGEDKV_UNROLL
    for (int r = 0; r < R; ++r) {
      PAGEDKV_UNROLL
      for (std::int64_t i = 0; i < std::int64_t{2} * at_once; ++i) {
        float* to = results + r * stride + i * I32::width;
        fma(to_float(sums[r][i]), F32::all(unit[r]), F32::load(to)).store(to);
      }
    }
  }
};

}  // namespace pagedkv::inline v0_1::cpu::PAGEDKV_ISA_NAMESPACE
