// How a call of attention is cut into threadgroups, and their memory.

#include <algorithm>
#include <limits>

#include "metal/dispatches.hpp"
#include "metal/operations.hpp"
#include "pagedkv/ops/check_attention.hpp"

namespace pagedkv::metal {

using namespace detail_dispatches;

namespace {

/// Pieces of one sequence, at most: where its bits may depend on nothing else, and otherwise.
constexpr std::uint32_t kInvariantPieces = 32;
constexpr std::uint32_t kMostPieces = 128;
/// Threadgroups that keep every core of the largest device busy.
constexpr std::uint32_t kEnoughGroups = 1024;

/// The tile of a threadgroup: rows of queries by tokens.
struct Tile {
  std::uint32_t rows;
  std::uint32_t tokens;
  std::uint32_t simdgroups;
  std::size_t shared_bytes;
};

/// @param rows  of queries that may share keys and values.
Tile tile_for(std::uint32_t key_channels, std::uint32_t value_dim, std::uint64_t rows) {
  using kernels::kMaxSums;
  const std::uint32_t widest = std::max(key_channels, value_dim);
  Tile tile{8, widest <= 128 ? 32U : widest <= 256 ? 16U : 8U, 4, 0};
  // A simdgroup holds kMaxSums matrices of sums; up to 8 simdgroups share the tile.
  while (tile.rows < rows && tile.rows < 64 && tile.rows * 2 * value_dim <= 8 * kMaxSums * 64) {
    tile.rows *= 2;
  }
  if (tile.rows == 64 || tile.rows * value_dim > tile.simdgroups * kMaxSums * 64) {
    tile.simdgroups = 8;
  }
  const std::size_t stage = std::size_t{tile.tokens} * (widest + 4);
  const std::size_t floats =
      stage + std::size_t{tile.rows} * tile.tokens + tile.rows + tile.tokens + 4;
  tile.shared_bytes = (floats * sizeof(float) + 15) / 16 * 16;
  return tile;
}

/// @throws UnsupportedError for what the kernels do not compute.
void check_supported(const AttentionCall& call, const char* where) {
  (void)element_type(where, "q", call.q.dtype);
  (void)element_type(where, "k_cache", call.k_cache.dtype);
  if (call.k_scale.data != nullptr || call.v_scale.data != nullptr) {
    detail::throw_unsupported(where, "arrays of scales on Metal; expected a number, or none");
  }
  const std::int64_t channels = call.k_cache.head_dim + call.k_rope_cache.head_dim;
  if (channels > 8 * std::int64_t{kernels::kMaxQueryTiles}) {
    detail::throw_unsupported(where, "keys of " + std::to_string(channels) +
                                         " channels in two parts on Metal; expected at most 576");
  }
  if (call.num_seqs != 0 && call.seq_lens == nullptr) {
    detail::throw_shape(where, "no seq_lens; expected one a sequence");
  }
}

kernels::AttentionParams params_of(const AttentionCall& call, const char* where) {
  constexpr std::int64_t most = std::numeric_limits<std::int32_t>::max();
  kernels::AttentionParams p{};
  p.q = rows(call.q);
  p.q_rope = rows(call.q_rope);
  p.out = rows(call.out);
  p.k = cache(call.k_cache);
  p.v = cache(call.v_cache);
  p.k_rope = cache(call.k_rope_cache);
  p.block_table_stride = call.block_table_stride;
  p.tree_mask_stride = call.tree_mask_stride;
  p.num_seqs = narrow(where, "num_seqs", call.num_seqs);
  p.num_tokens = narrow(where, "q with tokens", call.q.num_tokens);
  p.num_blocks = narrow(where, "num_blocks", call.k_cache.num_blocks);
  p.max_blocks = narrow(where, "max_blocks", call.block_tables == nullptr ? 0 : call.max_blocks);
  p.num_q_heads = narrow(where, "num_q_heads", call.q.num_heads);
  p.window = static_cast<std::uint32_t>(call.window);
  p.sink_tokens = static_cast<std::uint32_t>(std::min(call.sink_tokens, most));
  p.causal = call.causal ? 1 : 0;
  p.has_starts = call.query_start_loc != nullptr ? 1 : 0;
  p.has_sink_logits = call.sink_logits != nullptr ? 1 : 0;
  p.has_slopes = call.alibi_slopes != nullptr ? 1 : 0;
  p.has_tree_mask = call.tree_mask != nullptr ? 1 : 0;
  p.wants_lse = call.lse != nullptr ? 1 : 0;
  p.scale = static_cast<float>(call.scale) * call.k_scale.value;
  p.value_scale = call.v_scale.value;
  p.softcap = call.softcap;
  return p;
}

/// Into how many pieces sequences may be cut. Lengths are not known here: what a row of the block
/// table has room for is their limit.
void cut(const AttentionCall& call, bool batch_invariant, kernels::AttentionParams& p) {
  const std::int64_t tokens = std::min<std::int64_t>(call.max_blocks * call.k_cache.block_size,
                                                     std::numeric_limits<std::int32_t>::max());
  const auto most = static_cast<std::uint32_t>(
      std::max<std::int64_t>(tokens + kernels::kPieceTokens - 1, 1) / kernels::kPieceTokens);
  std::uint32_t wanted = kInvariantPieces;
  if (!batch_invariant) {
    const std::int64_t groups = std::max<std::int64_t>(call.num_seqs * call.k_cache.num_heads, 1);
    wanted = static_cast<std::uint32_t>(
        std::clamp<std::int64_t>(kEnoughGroups / groups, 1, kMostPieces));
  }
  p.max_pieces = std::clamp(most, 1U, wanted);
  if (p.max_pieces == 1) return;
  const std::uint32_t queries = p.has_starts != 0 ? p.num_tokens : 1;
  p.split_queries = std::min<std::uint32_t>(kernels::kSplitQueries, queries);
}

}  // namespace

void attend(const AttentionCall& call, bool batch_invariant, Queue& queue, const char* where) {
  check_attention_arrays(where, call);
  check_supported(call, where);
  kernels::AttentionParams params = params_of(call, where);
  if (params.num_tokens == 0 || params.num_seqs == 0) return;
  cut(call, batch_invariant, params);

  const auto group = static_cast<std::uint32_t>(call.group_size());
  const auto value_dim = static_cast<std::uint32_t>(call.v_cache.head_dim);
  const auto key_dim = static_cast<std::uint32_t>(call.k_cache.head_dim);
  const auto rope_dim = static_cast<std::uint32_t>(call.k_rope_cache.head_dim);
  (void)narrow(where, "rows of queries", std::int64_t{params.num_tokens} * group);
  const std::uint64_t most_queries =
      params.num_tokens - std::min(params.num_seqs, params.num_tokens) + 1;
  const Tile tile = tile_for(key_dim + rope_dim, value_dim, most_queries * group);

  Dispatch attention("attend");
  attention.set(Constant::row_type, element_type(where, "q", call.q.dtype));
  attention.set(Constant::cache_type, element_type(where, "k_cache", call.k_cache.dtype));
  const std::size_t vector = 4 * dtype_bits(call.k_cache.dtype) / 8;
  const bool vectors = aligned(vector, call.k_cache) && aligned(vector, call.v_cache) &&
                       (rope_dim == 0 || aligned(vector, call.k_rope_cache));
  attention.set(Constant::vector, vectors ? 4 : 1);
  attention.set(Constant::block_size, narrow(where, "block_size", call.k_cache.block_size));
  attention.set(Constant::key_dim, key_dim);
  attention.set(Constant::rope_dim, rope_dim);
  attention.set(Constant::value_dim, value_dim);
  attention.set(Constant::group, group);
  attention.set(Constant::tile_rows, tile.rows);
  attention.set(Constant::tile_tokens, tile.tokens);
  attention.set(Constant::simdgroups, tile.simdgroups);
  attention.shared_bytes = tile.shared_bytes;
  attention.threads = {tile.simdgroups * kernels::kSimdWidth, 1, 1};
  // As many tiles as sequences_of_tile counts: see kernels/sequences.h.
  const std::uint64_t tiles =
      params.has_starts == 0
          ? std::uint64_t{params.num_seqs} * ceil_div(group, tile.rows)
          : std::uint64_t{params.num_tokens} * group / tile.rows + params.num_seqs;
  attention.groups = {static_cast<std::uint32_t>(call.k_cache.num_heads),
                      narrow(where, "tiles of queries", static_cast<std::int64_t>(tiles)),
                      params.max_pieces};

  float* partials = nullptr;
  if (params.split_queries != 0) {
    const std::size_t parts = detail::checked_product(
        where, {params.num_seqs, params.split_queries, params.num_q_heads, params.max_pieces});
    partials = static_cast<float*>(queue.workspace(
        detail::checked_product(where, {parts, value_dim + std::size_t{2}, sizeof(float)})));
  }
  attention.add_params(params);
  for (const void* array :
       {static_cast<const void*>(call.q.data), static_cast<const void*>(call.q_rope.data),
        static_cast<const void*>(call.out.data), static_cast<const void*>(call.lse),
        static_cast<const void*>(call.k_cache.data),
        static_cast<const void*>(call.k_rope_cache.data),
        static_cast<const void*>(call.v_cache.data), static_cast<const void*>(call.block_tables),
        static_cast<const void*>(call.seq_lens), static_cast<const void*>(call.query_start_loc),
        static_cast<const void*>(call.sink_logits), static_cast<const void*>(call.alibi_slopes),
        static_cast<const void*>(call.tree_mask), static_cast<const void*>(partials),
        static_cast<const void*>(queue.error_word())}) {
    attention.add_array(array);
  }
  queue.dispatch(attention);
  if (partials == nullptr) return queue.commit();

  Dispatch merge("merge_pieces");
  merge.constants = attention.constants;
  cover_rows(
      merge, params.num_q_heads,
      narrow(where, "queries of sequences", std::int64_t{params.num_seqs} * params.split_queries));
  merge.add_params(params);
  merge.add_array(call.out.data);
  merge.add_array(call.lse);
  merge.add_array(call.seq_lens);
  merge.add_array(call.query_start_loc);
  merge.add_array(call.sink_logits);
  merge.add_array(partials);
  merge.add_array(queue.error_word());
  queue.dispatch(merge);
  queue.commit();
}

}  // namespace pagedkv::metal
