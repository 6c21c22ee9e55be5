#pragma once

// Some tokens of a sequence at a time, found through its block table.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "pagedkv/cpu/attention_span.hpp"
#include "pagedkv/cpu/simd/vectors.hpp"

namespace pagedkv::inline v0_1::cpu::PAGEDKV_ISA_NAMESPACE {

/// Tokens a tile. Their keys and values, of 128 elements of 16 bits, fill half of a first-level
/// cache.
inline constexpr int kTileTokens = 64;
/// Room behind them, for products that go on to a whole block of registers.
inline constexpr int kTileMargin = 24;

/// Where the keys and values of consecutive tokens lie, for one head.
struct Tile {
  int size = 0;            ///< tokens
  std::int64_t first = 0;  ///< position of the first one
  const std::byte* k[kTileTokens + kTileMargin];
  const std::byte* v[kTileTokens + kTileMargin];
  float k_scale[kTileTokens];
  float v_scale[kTileTokens];
  const std::byte* k_rope[kTileTokens];  ///< MLA
};

/// The tiles of one item, one after the other.
class Tiles {
 public:
  Tiles(const AttentionCall& call, const AttentionItem& item) noexcept
      : call_(&call),
        head_(item.kv_head),
        table_(call.block_tables + item.span->seq * call.block_table_stride) {
    const AttentionSpan& span = *item.span;
    const std::int64_t piece = span.first_piece + item.piece;
    next_ = item.piece == 0 ? 0 : span.sinks;
    sinks_ = span.sinks;
    begin_ = std::max(span.begin, piece * span.piece);
    // The last product could pass 2^63 only where `piece` is a stand-in for "all".
    end_ = item.piece + 1 == span.num_pieces ? span.end : (piece + 1) * span.piece;
    if (next_ >= sinks_) next_ = begin_;
  }

  /// The next tile; its size is 0 after the last.
  void next(Tile& tile) noexcept {
    const bool in_sinks = next_ < sinks_ && next_ < begin_;
    const std::int64_t limit = in_sinks ? std::min(sinks_, begin_) : end_;
    // A tile ends at a multiple of its size, so that tiles do not depend on where an item begins.
    const std::int64_t stop =
        std::min(limit, next_ / kTileTokens * kTileTokens + std::int64_t{kTileTokens});
    tile.size = static_cast<int>(std::max<std::int64_t>(stop - next_, 0));
    tile.first = next_;
    fill(tile);
    next_ = std::max(next_, stop);
    if (in_sinks && next_ >= limit) next_ = begin_;
  }

 private:
  void fill(Tile& tile) const noexcept {
    const AttentionCall& call = *call_;
    const std::int64_t size = call.k_cache.block_size;
    const bool scaled = !call.k_scale.trivial() || !call.v_scale.trivial();
    int i = 0;
    while (i < tile.size) {
      const std::int64_t position = tile.first + i;
      const std::int64_t block = table_[position / size];
      const std::int64_t offset = position % size;
      const int first = i;
      const int stop = static_cast<int>(std::min<std::int64_t>(tile.size, i + (size - offset)));
      const std::byte* k = call.k_cache.row(block, head_, offset);
      const std::byte* v = call.v_cache.row(block, head_, offset);
      for (; i < stop; ++i) {
        tile.k[i] = k;
        tile.v[i] = v;
        k += call.k_cache.token_stride;
        v += call.v_cache.token_stride;
      }
      if (scaled) {
        fill_scales(call.k_scale, block, offset, first, stop, tile.k_scale);
        fill_scales(call.v_scale, block, offset, first, stop, tile.v_scale);
      }
      if (call.k_rope_cache.head_dim == 0) continue;
      const std::byte* rope = call.k_rope_cache.row(block, head_, offset);
      for (int j = first; j < stop; ++j, rope += call.k_rope_cache.token_stride) {
        tile.k_rope[j] = rope;
      }
    }
    if (tile.size == 0) return;
    // Blocks of tokens are computed whole: what is behind the last one repeats it, and is masked.
    for (int past = i; past < kTileTokens + kTileMargin; ++past) {
      tile.k[past] = tile.k[i - 1];
      tile.v[past] = tile.v[i - 1];
    }
  }

  /// The scales of tokens [first, stop) of a tile, whose slots begin with `offset`.
  void fill_scales(const ScaleView& scale, std::int64_t block, std::int64_t offset, int first,
                   int stop, float* to) const noexcept {
    const float* from = &scale.value;
    if (scale.data != nullptr) {
      from = scale.data + block * scale.block_stride + head_ * scale.head_stride +
             offset * scale.slot_stride;
    }
    if (scale.data == nullptr || scale.slot_stride == 0) {
      std::fill(to + first, to + stop, *from);
    } else if (scale.slot_stride == 1) {
      std::copy_n(from, stop - first, to + first);
    } else {
      for (int i = first; i < stop; ++i, from += scale.slot_stride) to[i] = *from;
    }
  }

  const AttentionCall* call_;
  std::int64_t head_;
  const std::int32_t* table_;
  std::int64_t next_, sinks_, begin_, end_;
};

/// Asks for a line of a cache, which is at `p` or after it.
inline void prefetch(const std::byte* p) noexcept {
#if defined(__GNUC__)
  __builtin_prefetch(p);
#elif defined(_M_X64)
  _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0);
#else
  static_cast<void>(p);
#endif
}

/// Rows that are wanted next. Products ask for one of them now and then: many at once would fill
/// the queue of misses, and work and memory would wait for each other; lines of many rows in turn
/// would have memory change its pages.
struct Ahead {
  const std::byte* const* rows;
  std::int64_t bytes;  ///< of a row

  void ask(std::int64_t row) const noexcept {
    const std::byte* p = rows[row];
    for (std::int64_t i = 0; i < bytes; i += 64) prefetch(p + i);
  }
};

/// Asks for a row of `Ahead` each `every` of whatever is counted, from row `first` on.
class Pace {
 public:
  Pace(const Ahead& ahead, std::int64_t every, std::int64_t first) noexcept
      : ahead_(ahead), every_(every), next_(first) {}

  /// Counting begins anew.
  void restart() noexcept { due_ = 0; }
  void at(std::int64_t count) noexcept {
    if (count < due_) return;
    ahead_.ask(next_++);
    due_ += every_;
  }

 private:
  const Ahead ahead_;
  std::int64_t every_, next_, due_ = 0;
};

/// The position of row r of a span.
[[nodiscard]] inline std::int64_t row_position(const AttentionCall& call, const AttentionSpan& span,
                                               std::int64_t row) noexcept {
  const std::int64_t token = (span.first_row + row) / call.group_size();
  return call.seq_lens[span.seq] - call.query_len(span.seq) + token;
}

/// Whether the query at `position`, new token `query` of the call, sees token j.
[[nodiscard]] inline bool visible(const AttentionCall& call, std::int64_t seq, std::int64_t query,
                                  std::int64_t position, std::int64_t j) noexcept {
  if (call.causal && j > position) return false;
  if (call.window != 0 && j <= position - call.window && j >= call.sink_tokens) return false;
  if (call.tree_mask != nullptr) {
    const std::int64_t among = j - (call.seq_lens[seq] - call.query_len(seq));
    if (among >= 0 && call.tree_mask[query * call.tree_mask_stride + among] == 0) return false;
  }
  return true;
}

/// Whether each of these rows sees each token of [first, first + size).
[[nodiscard]] inline bool all_visible(const AttentionCall& call, const AttentionSpan& span,
                                      std::int64_t first_row, std::int64_t num_rows,
                                      std::int64_t first, std::int64_t size) noexcept {
  const std::int64_t lowest = row_position(call, span, first_row);
  const std::int64_t highest = row_position(call, span, first_row + num_rows - 1);
  const std::int64_t last = first + size - 1;
  if (call.causal && last > lowest) return false;
  if (call.window != 0 && first <= highest - call.window && last >= call.sink_tokens) return false;
  const std::int64_t context = call.seq_lens[span.seq] - call.query_len(span.seq);
  return call.tree_mask == nullptr || last < context;
}

}  // namespace pagedkv::inline v0_1::cpu::PAGEDKV_ISA_NAMESPACE
