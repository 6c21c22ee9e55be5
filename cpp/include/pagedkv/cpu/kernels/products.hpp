#pragma once

// The two products of attention for up to four rows of queries that share keys and values, over one
// tile: scores = keys . queries, results += weights . values. Keys and values are read where they lie.
// `FloatProducts` converts elements to floats; `IntegerProducts` multiplies int8 and int4 as integers,
// with queries and weights rounded to 15 bits.
//
// Scores and weights lie as [token][R], so that R rows of a few tokens fill a vector.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "pagedkv/cpu/kernels/rows.hpp"
#include "pagedkv/cpu/kernels/tile.hpp"

namespace pagedkv::inline v0_1::cpu::PAGEDKV_ISA_NAMESPACE {

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
      for (int i = 0; i < chunk; ++i) {
        const std::int64_t channel = c + E::channel(i / V::width, i % V::width);
        prepared[c + i] = channel < size ? query[channel] : T(0);
      }
    }
    return 1;
  }

  /// scores[t][r] = k[t] . queries[r], for the tokens of a tile rounded up to a whole vector.
  /// @param queries  `[R][stride]`, prepared.
  /// @param stride   `head_dim` rounded up to a chunk.
  template <int R>
  static void scores(const std::byte* const* k, int size, const Query* queries,
                     std::int64_t stride, T* scores, Prefetcher& ahead) noexcept {
    constexpr int tokens = V::width / R;
    constexpr std::int64_t bytes = bytes_of_elements(dtype, chunk);
    for (int t = 0; t < size; t += tokens) {
      ahead.until(t + tokens);
      V sums[V::width];
      for (V& sum : sums) sum = V::zero();
      const std::byte* const* rows = k + t;
      std::int64_t offset = 0;
      for (std::int64_t c = 0; c < stride; c += chunk, offset += bytes) {
        V key[tokens][E::vectors];
        for (int i = 0; i < tokens; ++i) E::load(rows[i] + offset, key[i]);
        for (int v = 0; v < E::vectors; ++v) {
          for (int r = 0; r < R; ++r) {
            const V query = V::load(queries + r * stride + c + v * V::width);
            for (int i = 0; i < tokens; ++i) {
              sums[i * R + r] = fma(query, key[i][v], sums[i * R + r]);
            }
          }
        }
      }
      V::sums(sums).store(scores + t * R);
    }
  }

  /// results[r] += weights[.][r] . v
  /// @param results  `[R][stride]`, in the order of chunks.
  template <int R>
  static void values(const std::byte* const* v, int size, T* weights, T* results,
                     std::int64_t stride, Prefetcher& ahead) noexcept {
    constexpr int vectors = std::max(8 / R, E::vectors);  // at a time: 8 sums
    constexpr int wide = vectors * V::width;
    const auto passes = static_cast<int>(stride / wide + 1);
    std::int64_t c = 0;
    int pass = 0;
    for (; c + wide <= stride; c += wide) {
      ahead.until(++pass * size / passes);
      columns<R, vectors>(v, size, weights, results + c, stride, c);
    }
    for (; c < stride; c += chunk) columns<R, E::vectors>(v, size, weights, results + c, stride, c);
    ahead.until(size);
  }

  /// The channel of a chunk that is i-th in results.
  static constexpr int channel(int i) noexcept {
    return E::channel(i / V::width, i % V::width);
  }

 private:
  template <int R, int vectors>
  static void columns(const std::byte* const* v, int size, const T* weights, T* results,
                      std::int64_t stride, std::int64_t column) noexcept {
    constexpr std::int64_t bytes = bytes_of_elements(dtype, chunk);
    const std::int64_t offset = bytes_of_elements(dtype, column);
    V sums[R][vectors];
    for (int r = 0; r < R; ++r) {
      for (int i = 0; i < vectors; ++i) sums[r][i] = V::load(results + r * stride + i * V::width);
    }
    for (int t = 0; t < size; ++t) {
      V weight[R];
      for (int r = 0; r < R; ++r) weight[r] = V::all(weights[t * R + r]);
      const std::byte* p = v[t] + offset;
      for (int i = 0; i < vectors; i += E::vectors, p += bytes) {
        V value[E::vectors];
        E::load(p, value);
        for (int r = 0; r < R; ++r) {
          for (int j = 0; j < E::vectors; ++j) {
            sums[r][i + j] = fma(weight[r], value[j], sums[r][i + j]);
          }
        }
      }
    }
    for (int r = 0; r < R; ++r) {
      for (int i = 0; i < vectors; ++i) sums[r][i].store(results + r * stride + i * V::width);
    }
  }
};

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
    const float largest = largest_magnitude(query, size, 1);
    const float inverse = largest > 0 ? kLargest / largest : 0;
    for (std::int64_t c = 0; c < size; c += chunk) {
      for (int i = 0; i < chunk; ++i) {
        const int lane = i % I16::width, vector = i / I16::width;
        const std::int64_t channel = c + (two_a_byte ? 2 * lane + vector : lane);
        prepared[c + i] = channel < size
                              ? static_cast<Query>(rounded(query[channel], inverse))
                              : Query{0};
      }
    }
    return largest / kLargest;
  }

  template <int R>
  static void scores(const std::byte* const* k, int size, const Query* queries,
                     std::int64_t stride, float* scores, Prefetcher& ahead) noexcept {
    constexpr int tokens = V::width / R;
    constexpr std::int64_t bytes = bytes_of_elements(dtype, chunk);
    for (int t = 0; t < size; t += tokens) {
      ahead.until(t + tokens);
      I32 sums[V::width];
      for (I32& sum : sums) sum = I32::zero();
      const std::byte* const* rows = k + t;
      std::int64_t offset = 0;
      for (std::int64_t c = 0; c < stride; c += chunk, offset += bytes) {
        I16 key[tokens][vectors];
        for (int i = 0; i < tokens; ++i) load(rows[i] + offset, key[i]);
        for (int v = 0; v < vectors; ++v) {
          for (int r = 0; r < R; ++r) {
            const I16 query = I16::load(queries + r * stride + c + v * I16::width);
            for (int i = 0; i < tokens; ++i) {
              sums[i * R + r] = dot_pairs(query, key[i][v], sums[i * R + r]);
            }
          }
        }
      }
      to_float(I32::sums(sums)).store(scores + t * R);
    }
  }

  /// As FloatProducts::values. The order within a chunk is that of `channel`.
  template <int R>
  static void values(const std::byte* const* v, int size, float* weights, float* results,
                     std::int64_t stride, Prefetcher& ahead) noexcept {
    // Weights become integers, relative to the tile's largest, those of two tokens side by side.
    float unit[R];
    alignas(64) std::int32_t pairs[(kTileTokens / 2 + 1) * R];
    round_weights<R>(weights, size, pairs, unit);
    constexpr int at_once = std::max(8 / (2 * R), vectors);
    constexpr int wide = at_once * I16::width;
    const auto passes = static_cast<int>(stride / wide + 1);
    std::int64_t c = 0;
    int pass = 0;
    for (; c + wide <= stride; c += wide) {
      ahead.until(++pass * size / passes);
      columns<R, at_once>(v, size, pairs, unit, results + c, stride, c);
    }
    for (; c < stride; c += chunk) {
      columns<R, vectors>(v, size, pairs, unit, results + c, stride, c);
    }
    ahead.until(size);
  }

  /// The channel of a chunk that is i-th in results.
  static constexpr int channel(int i) noexcept {
    const int vector = i / I16::width, half = i % I16::width / I32::width;
    const int lane = I16::zip_channel(half, i % I32::width);
    return two_a_byte ? 2 * lane + vector : lane;
  }

 private:
  /// NaN where one is not finite.
  static float largest_magnitude(const float* x, std::int64_t size, std::int64_t step) noexcept {
    float largest = 0;
    bool finite = true;
    for (std::int64_t i = 0; i < size * step; i += step) {
      const float magnitude = std::fabs(x[i]);
      finite = finite && magnitude <= std::numeric_limits<float>::max();
      largest = std::max(largest, magnitude);
    }
    return finite ? largest : std::numeric_limits<float>::quiet_NaN();
  }

  /// 0 for all values of a row that is not finite: its unit is NaN.
  static std::int32_t rounded(float x, float inverse) noexcept {
    return inverse > 0 ? static_cast<std::int32_t>(std::nearbyint(x * inverse)) : 0;
  }

  template <int R>
  static void round_weights(const float* weights, int size, std::int32_t* pairs,
                            float (&unit)[R]) noexcept {
    for (int r = 0; r < R; ++r) {
      const float largest = largest_magnitude(weights + r, size, R);
      const float inverse = largest > 0 ? kLargest / largest : 0;
      unit[r] = largest / kLargest;
      for (int t = 0; t < size; t += 2) {
        const std::int32_t first = rounded(weights[t * R + r], inverse);
        const std::int32_t second = t + 1 < size ? rounded(weights[(t + 1) * R + r], inverse) : 0;
        pairs[t / 2 * R + r] = static_cast<std::int32_t>(
            (static_cast<std::uint32_t>(first) & 0xffffU) | static_cast<std::uint32_t>(second) << 16);
      }
    }
  }

  template <int R, int at_once>
  static void columns(const std::byte* const* v, int size, const std::int32_t* pairs,
                      const float (&unit)[R], float* results, std::int64_t stride,
                      std::int64_t column) noexcept {
    constexpr std::int64_t bytes = bytes_of_elements(dtype, chunk);
    const std::int64_t offset = bytes_of_elements(dtype, column);
    I32 sums[R][2 * at_once];
    for (auto& row : sums) {
      for (I32& sum : row) sum = I32::zero();
    }
    for (int t = 0; t < size; t += 2) {
      const std::byte* p = v[t] + offset;
      // The weight beside the last of an odd number is 0, whatever it is multiplied by.
      const std::byte* q = v[std::min(t + 1, size - 1)] + offset;
      for (int i = 0; i < at_once; i += vectors, p += bytes, q += bytes) {
        I16 a[vectors], b[vectors];
        load(p, a);
        load(q, b);
        for (int j = 0; j < vectors; ++j) {
          I16 low, high;
          I16::zip(a[j], b[j], low, high);
          for (int r = 0; r < R; ++r) {
            const I16 pair = I16::all_pairs(pairs[t / 2 * R + r]);
            sums[r][2 * (i + j)] = dot_pairs(low, pair, sums[r][2 * (i + j)]);
            sums[r][2 * (i + j) + 1] = dot_pairs(high, pair, sums[r][2 * (i + j) + 1]);
          }
        }
      }
    }
    for (int r = 0; r < R; ++r) {
      for (int i = 0; i < 2 * at_once; ++i) {
        float* to = results + r * stride + i * I32::width;
        fma(to_float(sums[r][i]), F32::all(unit[r]), F32::load(to)).store(to);
      }
    }
  }
};

}  // namespace pagedkv::inline v0_1::cpu::PAGEDKV_ISA_NAMESPACE
