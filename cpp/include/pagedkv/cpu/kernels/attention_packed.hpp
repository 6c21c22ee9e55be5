#pragma once

// Attention of many rows: chunked prefill, large groups, MLA. A tile is converted to floats once
// for all rows, and both products are matrix products blocked in registers:
//
//   scores  [token][row]  = keys [token][d] x queries [d][row]
//   results [row][d]     += weights [token][row] x values [token][d]
//
// The queries are transposed once, so that neither product moves values between lanes, and each row
// of the softmax is a lane.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "pagedkv/cpu/kernels/partials.hpp"
#include "pagedkv/cpu/kernels/products.hpp"
#include "pagedkv/cpu/kernels/scratch.hpp"
#include "pagedkv/cpu/kernels/softmax.hpp"
#include "pagedkv/cpu/kernels/tile.hpp"
#include "pagedkv/detail/macros.hpp"

namespace pagedkv::inline v0_1::cpu::PAGEDKV_ISA_NAMESPACE {

/// Most rows of a span of the packed kernel: their queries and results stay in the second-level
/// cache.
inline constexpr int kPackedRows = 128;

/// The block of a product that is held in registers: so many rows, two vectors wide.
inline constexpr int kBlockRows = F32::num_registers >= 32 ? 12 : 6;
inline constexpr int kBlockColumns = 2 * F32::width;
/// Added to the length of rows that are read down a column: of a power of two they would all fall
/// into a few sets of the cache.
inline constexpr std::int64_t kSkew = 16;

/// c[i][0..kBlockColumns) (+)= sum over d of a[i * a_row + d * a_step] * b[d * b_row + ...]
template <bool add, int rows>
PAGEDKV_NOINLINE inline void block_product(const float* a, std::int64_t a_row, std::int64_t a_step,
                                           const float* b, std::int64_t b_row, std::int64_t depth,
                                           float* c, std::int64_t c_row) noexcept {
  F32 sums[rows][2];
  PAGEDKV_UNROLL
  for (int i = 0; i < rows; ++i) {
    PAGEDKV_UNROLL
    for (std::int64_t j = 0; j < 2; ++j) {
      sums[i][j] = add ? F32::load(c + i * c_row + j * F32::width) : F32::zero();
    }
  }
  for (std::int64_t d = 0; d < depth; ++d, a += a_step, b += b_row) {
    const F32 b0 = F32::load(b), b1 = F32::load(b + F32::width);
    PAGEDKV_UNROLL
    for (int i = 0; i < rows; ++i) {
      F32 x = F32::all(a[i * a_row]);
      keep(x);
      sums[i][0] = fma(x, b0, sums[i][0]);
      sums[i][1] = fma(x, b1, sums[i][1]);
    }
  }
  PAGEDKV_UNROLL
  for (int i = 0; i < rows; ++i) {
    PAGEDKV_UNROLL
    for (std::int64_t j = 0; j < 2; ++j) sums[i][j].store(c + i * c_row + j * F32::width);
  }
}

/// block_product for 1 to kBlockRows rows, known at run time.
template <bool add, int most = kBlockRows>
inline void block_product(int rows, const float* a, std::int64_t a_row, std::int64_t a_step,
                          const float* b, std::int64_t b_row, std::int64_t depth, float* c,
                          std::int64_t c_row) noexcept {
  if (rows == most) return block_product<add, most>(a, a_row, a_step, b, b_row, depth, c, c_row);
  if constexpr (most > 1) {
    block_product<add, most - 1>(rows, a, a_row, a_step, b, b_row, depth, c, c_row);
  }
}

/// One item of up to kPackedRows rows. `dtype` is that of the cache.
template <DType dtype>
class PackedRows {
 public:
  PackedRows(const AttentionCall& call, const AttentionItem& item, Scratch& scratch) noexcept
      : call_(call),
        span_(*item.span),
        item_(item),
        rows_(span_.num_rows),
        row_stride_(round_up(rows_, kBlockColumns)),
        depth_(call.k_cache.head_dim + call.q_rope.head_dim),
        v_dim_(call.v_cache.head_dim),
        shares_(call.q_rope.head_dim != 0),
        score_stride_(row_stride_ + kSkew),
        value_stride_(round_up(v_dim_, kBlockColumns)),
        key_stride_(std::max(round_up(depth_, 16), shares_ ? value_stride_ : 0) + kSkew),
        queries_(scratch.take<float>(row_stride_ * depth_)),
        keys_(scratch.take<float>(kTileTokens * key_stride_)),
        tile_values_(shares_ ? keys_ : scratch.take<float>(kTileTokens * tile_value_stride())),
        scores_(scratch.take<float>(kTileTokens * score_stride_)),
        results_(scratch.take<float>(row_stride_ * value_stride_)),
        reference_(scratch.take<float>(row_stride_)),
        sum_(scratch.take<float>(row_stride_)),
        slope_(scratch.take<float>(row_stride_)),
        offset_(scratch.take<float>(row_stride_)),
        position_(scratch.take<std::int32_t>(row_stride_)),
        lowest_(scratch.take<std::int32_t>(row_stride_)) {
    constexpr float nothing = -std::numeric_limits<float>::infinity();
    std::fill_n(keys_, kTileTokens * key_stride_, 0.0F);
    std::fill_n(tile_values_, kTileTokens * tile_value_stride(), 0.0F);
    std::fill_n(results_, row_stride_ * value_stride_, 0.0F);
    std::fill_n(reference_, row_stride_, nothing);
    std::fill_n(sum_, row_stride_, 0.0F);
    base_ = row_position(call, span_, 0);
    float row[2 * kMaxHeadDim];
    for (std::int64_t r = 0; r < row_stride_; ++r) {
      const std::int64_t at = std::min(r, rows_ - 1);
      const std::int64_t position = row_position(call, span_, at);
      position_[r] = static_cast<std::int32_t>(position);
      lowest_[r] = call.window == 0 ? std::numeric_limits<std::int32_t>::min()
                                    : static_cast<std::int32_t>(position - call.window + 1);
      slope_[r] = call.alibi_slopes == nullptr ? 0 : call.alibi_slopes[head_of(at)];
      offset_[r] = static_cast<float>(base_ - position);
      read_query(call.q.dtype, call.q.row(token_of(at), head_of(at)), row, call.q.head_dim);
      if (shares_) {
        read_query(call.q.dtype, call.q_rope.row(token_of(at), head_of(at)), row + call.q.head_dim,
                   call.q_rope.head_dim);
      }
      const auto scale = static_cast<float>(call.scale);
      // Panels of kBlockColumns rows: [panel][d][row]
      float* panel = queries_ + r / kBlockColumns * kBlockColumns * depth_ + r % kBlockColumns;
      for (std::int64_t d = 0; d < depth_; ++d) panel[d * kBlockColumns] = row[d] * scale;
    }
  }

  [[nodiscard]] static std::size_t bytes_needed(const AttentionCall& call) noexcept {
    const std::int64_t depth = call.k_cache.head_dim + call.q_rope.head_dim;
    const std::int64_t width = round_up(call.v_cache.head_dim, kBlockColumns);
    const std::int64_t rows = round_up(kPackedRows, kBlockColumns);
    const std::int64_t tile = round_up(depth, 16) + 2 * width + rows + 3 * kSkew;
    const std::int64_t floats = rows * (depth + width + 6) + kTileTokens * tile;
    constexpr std::size_t arrays = 11;  // each ends with a cache line
    return static_cast<std::size_t>(floats) * sizeof(float) + arrays * 64;
  }

  void add(const Tile& tile, const Tile& next) noexcept {
    for (int t = 0; t < tile.size; ++t) {
      float* key = keys_ + t * key_stride_;
      read_row<dtype>(tile.k[t], key, call_.k_cache.head_dim);
      if (shares_) {
        read_row<dtype>(tile.k_rope[t], key + call_.k_cache.head_dim, call_.q_rope.head_dim);
      } else {
        read_row<dtype>(tile.v[t], tile_values_ + t * tile_value_stride(), v_dim_);
      }
    }
    for (int t = 0; t < tile.size; t += kBlockRows) {
      for (int i = t; i < std::min(t + kBlockRows, next.size); ++i) {
        prefetch_row(next.k[i], call_.k_cache);
        if (!shares_) prefetch_row(next.v[i], call_.v_cache);
      }
      for (std::int64_t r = 0; r < row_stride_; r += kBlockColumns) {
        block_product<false>(std::min(kBlockRows, tile.size - t), keys_ + t * key_stride_,
                             key_stride_, 1, queries_ + r * depth_, kBlockColumns, depth_,
                             scores_ + t * score_stride_ + r, score_stride_);
      }
    }
    adjust(tile);
    for (std::int64_t r = 0; r < row_stride_; r += F32::width) soften(tile.size, r);
    if (!call_.v_scale.trivial()) {
      for (int t = 0; t < tile.size; ++t) scale_token(t, tile.v_scale[t]);
    }
    for (std::int64_t r = 0; r < rows_; r += kBlockRows) {
      for (std::int64_t c = 0; c < value_stride_; c += kBlockColumns) {
        block_product<true>(static_cast<int>(std::min<std::int64_t>(kBlockRows, rows_ - r)),
                            scores_ + r, 1, score_stride_, tile_values_ + c, tile_value_stride(),
                            tile.size, results_ + r * value_stride_ + c, value_stride_);
      }
    }
  }

  void finish() noexcept {
    for (std::int64_t r = 0; r < rows_; ++r) {
      float* values = results_ + r * value_stride_;
      if (item_.partial == nullptr) {
        finish_row(call_, span_, item_.kv_head, r, values, reference_[r], sum_[r]);
        continue;
      }
      const Partial<float> partial(item_.partial, span_.num_rows, v_dim_);
      std::copy_n(values, v_dim_, partial.values + r * v_dim_);
      partial.reference[r] = reference_[r];
      partial.sum[r] = sum_[r];
    }
  }

 private:
  [[nodiscard]] std::int64_t token_of(std::int64_t row) const noexcept {
    return call_.first_query(span_.seq) + (span_.first_row + row) / call_.group_size();
  }
  [[nodiscard]] std::int64_t head_of(std::int64_t row) const noexcept {
    return item_.kv_head * call_.group_size() + (span_.first_row + row) % call_.group_size();
  }
  [[nodiscard]] std::int64_t tile_value_stride() const noexcept {
    return shares_ ? key_stride_ : value_stride_ + kSkew;
  }

  static void prefetch_row(const std::byte* row, const CacheView& cache) noexcept {
    const auto bytes = static_cast<std::int64_t>(cache.row_bytes());
    for (std::int64_t i = 0; i < bytes; i += 64) prefetch(row + i);
  }

  void scale_token(int t, float by) noexcept {
    float* row = scores_ + t * score_stride_;
    const F32 factor = F32::all(by);
    for (std::int64_t r = 0; r < row_stride_; r += F32::width) {
      (F32::load(row + r) * factor).store(row + r);
    }
  }

  /// From products to scores: scales, soft cap, bias, mask.
  void adjust(const Tile& tile) noexcept {
    constexpr float hidden = -std::numeric_limits<float>::infinity();
    const bool masks = !all_visible(call_, span_, 0, rows_, tile.first, tile.size);
    const bool scales = !call_.k_scale.trivial();
    if (!masks && !scales && call_.softcap == 0 && call_.alibi_slopes == nullptr) return;
    const F32 cap = F32::all(call_.softcap);
    for (int t = 0; t < tile.size; ++t) {
      const std::int64_t position = tile.first + t;
      float* row = scores_ + t * score_stride_;
      if (scales) scale_token(t, tile.k_scale[t]);
      if (call_.softcap != 0) {
        for (std::int64_t r = 0; r < row_stride_; r += F32::width) {
          (tanh(F32::load(row + r) / cap) * cap).store(row + r);
        }
      }
      if (call_.alibi_slopes != nullptr) {
        const F32 distance = F32::all(static_cast<float>(position - base_));
        for (std::int64_t r = 0; r < row_stride_; r += F32::width) {
          const F32 bias = F32::load(slope_ + r) * (distance + F32::load(offset_ + r));
          (F32::load(row + r) + bias).store(row + r);
        }
      }
      if (!masks) continue;
      const I32 j = I32::all(static_cast<std::int32_t>(position));
      const F32 out = F32::all(hidden);
      const bool windowed = call_.window != 0 && position >= call_.sink_tokens;
      for (std::int64_t r = 0; r < row_stride_; r += F32::width) {
        F32 score = F32::load(row + r);
        if (call_.causal) score = select_greater(j, I32::load(position_ + r), out, score);
        if (windowed) score = select_greater(I32::load(lowest_ + r), j, out, score);
        score.store(row + r);
      }
      if (call_.tree_mask == nullptr) continue;
      for (std::int64_t r = 0; r < rows_; ++r) {
        if (!visible(call_, span_.seq, token_of(r), position_[r], position)) row[r] = hidden;
      }
    }
  }

  /// The step of the online softmax for one vector of rows; see softmax.hpp.
  void soften(int size, std::int64_t r) noexcept {
    constexpr float nothing = -std::numeric_limits<float>::infinity();
    float* scores = scores_ + r;
    F32 top = F32::load(scores);
    for (int t = 1; t < size; ++t) top = max(top, F32::load(scores + t * score_stride_));
    float highest[F32::width], used[F32::width];
    top.store(highest);
    for (int i = 0; i < F32::width; ++i) {
      float& reference = reference_[r + i];
      if (highest[i] > reference + static_cast<float>(kRescaleMargin)) {
        const float factor = std::exp(reference - highest[i]);
        reference = highest[i];
        sum_[r + i] *= factor;
        float* values = results_ + (r + i) * value_stride_;
        const F32 by = F32::all(factor);
        for (std::int64_t c = 0; c < value_stride_; c += F32::width) {
          (F32::load(values + c) * by).store(values + c);
        }
      }
      used[i] = reference == nothing ? 0 : reference;
    }
    const F32 subtracted = F32::load(used);
    F32 sum = F32::load(sum_ + r);
    for (int t = 0; t < size; ++t) {
      const F32 weight = exp(F32::load(scores + t * score_stride_) - subtracted);
      weight.store(scores + t * score_stride_);
      sum = sum + weight;
    }
    sum.store(sum_ + r);
  }

  const AttentionCall& call_;
  const AttentionSpan& span_;
  const AttentionItem& item_;
  std::int64_t rows_, row_stride_, depth_, v_dim_;
  bool shares_;  ///< the values are the first part of the keys (MLA)
  std::int64_t score_stride_, value_stride_, key_stride_, base_;
  float *queries_, *keys_, *tile_values_, *scores_, *results_, *reference_, *sum_, *slope_,
      *offset_;
  std::int32_t *position_, *lowest_;
};

template <DType dtype>
inline void attend_packed(const AttentionCall& call, const AttentionItem& item,
                          std::byte* memory) noexcept {
  Scratch scratch(memory);
  PackedRows<dtype> rows(call, item, scratch);
  Tile tiles[2];
  Tiles source(call, item);
  source.next(tiles[0]);
  for (int now = 0; tiles[now].size != 0; now ^= 1) {
    source.next(tiles[now ^ 1]);
    rows.add(tiles[now], tiles[now ^ 1]);
  }
  rows.finish();
}

}  // namespace pagedkv::inline v0_1::cpu::PAGEDKV_ISA_NAMESPACE
