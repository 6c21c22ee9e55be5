#pragma once

// Attention of few rows: decode, and a few drafts. Four query heads of a group go together over
// each tile, and the heads of a group take turns while it is in the first-level cache, so that keys
// and values are read from memory once, and never copied.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <limits>
#include <optional>

#include "pagedkv/cpu/kernels/partials.hpp"
#include "pagedkv/cpu/kernels/products.hpp"
#include "pagedkv/cpu/kernels/scratch.hpp"
#include "pagedkv/cpu/kernels/softmax.hpp"
#include "pagedkv/cpu/kernels/tile.hpp"

namespace pagedkv::inline v0_1::cpu::PAGEDKV_ISA_NAMESPACE {

/// `R` rows of an item.
template <class Products, int R>
class DirectRows {
 public:
  using V = typename Products::V;
  using T = typename Products::T;
  using Query = typename Products::Query;

  /// @param first  of the rows, within the span. Rows past the span's last repeat it.
  DirectRows(const AttentionCall& call, const AttentionItem& item, std::int64_t first,
             Scratch& scratch)
      : call_(call),
        span_(*item.span),
        item_(item),
        first_(first),
        rows_(std::min<std::int64_t>(R, span_.num_rows - first)),
        query_stride_(round_up(call.k_cache.head_dim, Products::chunk)),
        value_stride_(round_up(call.v_cache.head_dim, Products::chunk)),
        queries_(scratch.take<Query>(R * query_stride_)),
        values_(scratch.take<T>(R * value_stride_)) {
    state_.reset();
    std::fill_n(values_, R * value_stride_, T(0));
    T row[kMaxHeadDim];
    for (int r = 0; r < R; ++r) {
      const std::int64_t at = first_ + std::min<std::int64_t>(r, rows_ - 1);
      const std::int64_t token = token_of(at);
      read_query(call.q.dtype, call.q.row(token, head_of(at)), row, call.q.head_dim);
      unit_[r] = Products::prepare(row, call.q.head_dim, queries_ + r * query_stride_);
      // The products of floats are those of scaled queries only here: int8 scales are a token's.
      unit_[r] *= static_cast<T>(call.scale);
    }
  }

  /// @param next  the tile after it, which is prefetched.
  void add(const Tile& tile, const Tile& next) noexcept {
    alignas(64) T weights[(kTileTokens + kTileMargin) * R + V::width];
    const Ahead values_ahead{tile.v, static_cast<std::int64_t>(call_.v_cache.row_bytes())};
    Products::template scores<R>(tile.k, tile.size, queries_, query_stride_, weights, values_ahead);
    adjust(tile, weights);
    T factor[R];
    const int padded = static_cast<int>(round_up(tile.size, V::width / R));
    if (softmax_step<V, R>(weights, padded, state_, factor)) rescale(factor);
    if (!call_.v_scale.trivial()) {
      for (int t = 0; t < tile.size; ++t) {
        for (int r = 0; r < R; ++r) weights[t * R + r] *= static_cast<T>(tile.v_scale[t]);
      }
    }
    const Ahead keys_ahead{next.k, static_cast<std::int64_t>(call_.k_cache.row_bytes())};
    Products::template values<R>(tile.v, tile.size, weights, values_, value_stride_, keys_ahead);
  }

  /// Writes what was summed up: the result, or a part of it.
  void finish() noexcept {
    const std::int64_t size = call_.v_cache.head_dim;
    constexpr int chunk = Products::chunk;
    T row[kMaxHeadDim + chunk];
    for (int r = 0; r < rows_; ++r) {
      const T* values = values_ + r * value_stride_;
      for (std::int64_t c = 0; c < size; c += chunk) {
        PAGEDKV_UNROLL
        for (int i = 0; i < chunk; ++i) row[c + Products::channel(i)] = values[c + i];
      }
      if (item_.partial == nullptr) {
        finish_row(call_, span_, item_.kv_head, first_ + r, row, state_.reference[r],
                   state_.sum[r]);
        continue;
      }
      const Partial<T> partial(item_.partial, span_.num_rows, size);
      std::copy_n(row, size, partial.values + (first_ + r) * size);
      partial.reference[first_ + r] = state_.reference[r];
      partial.sum[first_ + r] = state_.sum[r];
    }
  }

 private:
  [[nodiscard]] std::int64_t token_of(std::int64_t row) const noexcept {
    return call_.first_query(span_.seq) + (span_.first_row + row) / call_.group_size();
  }
  [[nodiscard]] std::int64_t head_of(std::int64_t row) const noexcept {
    return item_.kv_head * call_.group_size() + (span_.first_row + row) % call_.group_size();
  }

  /// From products to scores: scales, soft cap, bias, mask.
  void adjust(const Tile& tile, T* scores) const noexcept {
    constexpr T hidden = -std::numeric_limits<T>::infinity();
    const int padded = static_cast<int>(round_up(tile.size, V::width / R));
    T lanes[V::width];
    for (int i = 0; i < V::width; ++i) lanes[i] = unit_[i % R];
    const V unit = V::load(lanes);
    for (int i = 0; i < padded * R; i += V::width) (V::load(scores + i) * unit).store(scores + i);
    if (!call_.k_scale.trivial()) {
      for (int t = 0; t < tile.size; ++t) {
        for (int r = 0; r < R; ++r) scores[t * R + r] *= static_cast<T>(tile.k_scale[t]);
      }
    }
    if (call_.softcap != 0) {
      const V cap = V::all(static_cast<T>(call_.softcap));
      for (int i = 0; i < padded * R; i += V::width) {
        (tanh(V::load(scores + i) / cap) * cap).store(scores + i);
      }
    }
    if (call_.alibi_slopes != nullptr) {
      for (int r = 0; r < rows_; ++r) {
        const T slope = static_cast<T>(call_.alibi_slopes[head_of(first_ + r)]);
        const std::int64_t position = row_position(call_, span_, first_ + r);
        for (int t = 0; t < tile.size; ++t) {
          scores[t * R + r] += slope * static_cast<T>(tile.first + t - position);
        }
      }
    }
    if (!all_visible(call_, span_, first_, rows_, tile.first, tile.size)) {
      for (int r = 0; r < rows_; ++r) {
        const std::int64_t position = row_position(call_, span_, first_ + r);
        for (int t = 0; t < tile.size; ++t) {
          if (!visible(call_, span_.seq, token_of(first_ + r), position, tile.first + t)) {
            scores[t * R + r] = hidden;
          }
        }
      }
    }
    std::fill(scores + tile.size * R, scores + padded * R, hidden);
  }

  void rescale(const T (&factor)[R]) noexcept {
    for (int r = 0; r < R; ++r) {
      if (factor[r] == 1) continue;
      const V by = V::all(factor[r]);
      T* row = values_ + r * value_stride_;
      for (std::int64_t i = 0; i < value_stride_; i += V::width) {
        (V::load(row + i) * by).store(row + i);
      }
    }
  }

  const AttentionCall& call_;
  const AttentionSpan& span_;
  const AttentionItem& item_;
  std::int64_t first_, rows_, query_stride_, value_stride_;
  Query* queries_;
  T* values_;
  T unit_[R];
  SoftmaxState<T, R> state_;
};

/// Copies of a tile's rows with zeros behind them, for rows that do not end with a chunk.
template <class Products>
class PaddedRows {
 public:
  PaddedRows(const AttentionCall& call, Scratch& scratch)
      : k_bytes_(call.k_cache.row_bytes()),
        v_bytes_(call.v_cache.row_bytes()),
        k_room_(padded(call.k_cache)),
        v_room_(padded(call.v_cache)),
        k_(k_room_ == k_bytes_ ? nullptr : room(scratch, k_room_)),
        v_(v_room_ == v_bytes_ ? nullptr : room(scratch, v_room_)) {}

  void apply(Tile& tile) const noexcept {
    if (k_ != nullptr) {
      copy(tile.k, tile.size, k_, k_bytes_, k_room_);
      std::fill(tile.k + tile.size, std::end(tile.k), tile.k[tile.size - 1]);
    }
    if (v_ != nullptr) {
      copy(tile.v, tile.size, v_, v_bytes_, v_room_);
      std::fill(tile.v + tile.size, std::end(tile.v), tile.v[tile.size - 1]);
    }
  }

  [[nodiscard]] static std::size_t bytes_needed(const AttentionCall& call) noexcept {
    return (padded(call.k_cache) + padded(call.v_cache)) * kTileTokens + 128;
  }

 private:
  static std::size_t padded(const CacheView& cache) noexcept {
    return static_cast<std::size_t>(
        bytes_of_elements(cache.dtype, round_up(cache.head_dim, Products::chunk)));
  }
  static std::byte* room(Scratch& scratch, std::size_t bytes) {
    const auto size = static_cast<std::int64_t>(bytes * kTileTokens);
    std::byte* memory = scratch.take<std::byte>(size);
    std::fill_n(memory, size, std::byte{0});
    return memory;
  }
  static void copy(const std::byte** rows, int size, std::byte* to, std::size_t bytes,
                   std::size_t room) noexcept {
    for (int t = 0; t < size; ++t, to += room) {
      std::memcpy(to, rows[t], bytes);
      rows[t] = to;
    }
  }

  std::size_t k_bytes_, v_bytes_, k_room_, v_room_;
  std::byte *k_, *v_;
};

/// Most rows that are read directly; more pay for converting a tile to floats first.
inline constexpr int kDirectRows = 8;

/// Working memory of `attend_direct`, in bytes.
template <class Products>
[[nodiscard]] inline std::size_t direct_scratch(const AttentionCall& call) noexcept {
  using T = typename Products::T;
  using Query = typename Products::Query;
  const std::int64_t k_stride = round_up(call.k_cache.head_dim, Products::chunk);
  const std::int64_t v_stride = round_up(call.v_cache.head_dim, Products::chunk);
  return (kDirectRows + 4) *
             (Scratch::bytes_for<Query>(k_stride) + Scratch::bytes_for<T>(v_stride)) +
         PaddedRows<Products>::bytes_needed(call);
}

/// One item of at most `kDirectRows` rows.
template <class Products>
inline void attend_direct(const AttentionCall& call, const AttentionItem& item,
                          std::byte* memory) noexcept {
  constexpr int most = std::min(4, Products::V::width);
  Scratch scratch(memory);
  const PaddedRows<Products> padding(call, scratch);

  std::optional<DirectRows<Products, most>> wide[kDirectRows / most];
  std::optional<DirectRows<Products, std::min(2, most)>> two;
  std::optional<DirectRows<Products, 1>> one;
  const auto rows = static_cast<int>(item.span->num_rows);
  int count = 0, done = 0;
  for (; rows - done > 2 || rows - done == most; done += most) {
    wide[count++].emplace(call, item, done, scratch);
  }
  if (rows - done == 2) two.emplace(call, item, done, scratch);
  if (rows - done == 1) one.emplace(call, item, done, scratch);

  Tile tiles[2];
  Tiles source(call, item);
  source.next(tiles[0]);
  for (int now = 0; tiles[now].size != 0; now ^= 1) {
    Tile& tile = tiles[now];
    source.next(tiles[now ^ 1]);
    const Tile& next = tiles[now ^ 1].size != 0 ? tiles[now ^ 1] : tile;
    padding.apply(tile);
    for (int i = 0; i < count; ++i) wide[i]->add(tile, next);
    if (two) two->add(tile, next);
    if (one) one->add(tile, next);
  }
  for (int i = 0; i < count; ++i) wide[i]->finish();
  if (two) two->finish();
  if (one) one->finish();
}

}  // namespace pagedkv::inline v0_1::cpu::PAGEDKV_ISA_NAMESPACE
