// Paged attention and MLA on the host's side: which kernels, with which numbers.

#include <algorithm>
#include <bit>
#include <cstdint>
#include <limits>
#include <map>
#include <mutex>
#include <string>
#include <utility>

#include "cuda/error_word.hpp"
#include "cuda/host.hpp"
#include "cuda/kernels/attention/variants.hpp"
#include "cuda/launch.hpp"
#include "cuda/operations.hpp"
#include "cuda/workspace.hpp"
#include "pagedkv/ops/check_attention.hpp"

namespace pagedkv::cuda {
namespace {

using attention::Params;
using attention::Variant;
using attention::Variants;

/// Fewer tokens than these are not worth a thread block and a merge.
constexpr std::int64_t kLeastShareTokens = 128;

/// Batch invariant, a sequence of few rows is cut into as many pieces at most, of as many tokens at
/// least.
struct Pieces {
  int most;
  std::int64_t least_tokens;
};
constexpr Pieces kDecodePieces{32, 512};
constexpr Pieces kWidePieces{8, 1024};

constexpr double kLog2E = 1.44269504088896340736;

std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

/// The kernels for what is multiplied and stored.
const Variants& variants_for(DType q, DType cache) {
  const bool narrow = q != DType::float32;
  if (q == cache && q == DType::float16) return attention::float16_variants();
  if (q == cache && q == DType::bfloat16) return attention::bfloat16_variants();
  if (q == cache && q == DType::float32) return attention::float32_variants();
  if (narrow && cache == DType::float8_e4m3) return attention::e4m3_variants();
  if (narrow && cache == DType::float8_e5m2) return attention::e5m2_variants();
  if (narrow && cache == DType::int8) return attention::int8_variants();
  return attention::mixed_variants();
}

/// A kernel, and which sequences it is for: those with `fewest` to `most` rows.
struct Launch {
  const Variant* variant;
  Pieces pieces;
  int fewest;
  int most;
};

attention::Rows rows_of(const RowsView& view) {
  return {view.data, view.token_stride, view.head_stride};
}
attention::Cache cache_of(const CacheView& view) {
  return {view.data, view.block_stride, view.head_stride, view.token_stride};
}
attention::Factors factors_of(const ScaleView& view) {
  return {view.data, view.block_stride, view.head_stride, view.slot_stride};
}
float factor_of(const ScaleView& view) { return view.data == nullptr ? view.value : 1.0F; }

/// @throws UnsupportedError where a number that kernels hold in 32 bits has more.
int narrow(const char* where, const char* what, std::int64_t number) {
  if (number > std::numeric_limits<std::int32_t>::max()) {
    pagedkv::detail::throw_unsupported(
        where, std::string(what) + " of " + std::to_string(number) + "; expected less than 2^31");
  }
  return static_cast<int>(number);
}

int copy_bytes(const AttentionCall& call) {
  const bool mla = call.q_rope.head_dim != 0;
  const auto alignment = [](const CacheView& cache) {
    return std::min(row_alignment(cache),
                    common_alignment({static_cast<std::int64_t>(cache.row_bytes())}));
  };
  int bytes = std::min(alignment(call.k_cache), alignment(call.v_cache));
  if (mla) bytes = std::min(bytes, alignment(call.k_rope_cache));
  return bytes == 16 ? bytes : 1;
}

Params params_of(const AttentionCall& call, const char* where) {
  const bool mla = call.q_rope.head_dim != 0;
  Params p;
  p.q = rows_of(call.q);
  p.out = rows_of(call.out);
  p.lse = call.lse;
  p.k = cache_of(call.k_cache);
  if (mla) {
    p.q_rope = rows_of(call.q_rope);
    p.k_rope = cache_of(call.k_rope_cache);
    p.rope_dim = static_cast<int>(call.q_rope.head_dim);
  } else {
    p.v = cache_of(call.v_cache);
  }
  p.k_factors = factors_of(call.k_scale);
  p.v_factors = factors_of(call.v_scale);
  p.q_dtype = call.q.dtype;
  p.cache_dtype = call.k_cache.dtype;
  p.head_dim = static_cast<int>(call.q.head_dim);
  p.v_head_dim = static_cast<int>(call.v_cache.head_dim);
  p.num_kv_heads = narrow(where, "num_kv_heads", call.k_cache.num_heads);
  p.group = narrow(where, "query heads a head of keys", call.group_size());
  p.block_size = narrow(where, "block_size", call.k_cache.block_size);
  const auto size = static_cast<std::uint32_t>(p.block_size);
  p.block_shift = std::has_single_bit(size) ? std::countr_zero(size) : -1;
  p.num_blocks = narrow(where, "num_blocks", call.k_cache.num_blocks);
  p.copy_bytes = copy_bytes(call);
  p.aligned_rows =
      loads_wide(call.q, 4) && loads_wide(call.out, 4) && (!mla || loads_wide(call.q_rope, 4));
  p.block_tables = call.block_tables;
  p.block_table_stride = call.block_table_stride;
  p.seq_lens = call.seq_lens;
  p.query_start_loc = call.query_start_loc;
  p.num_seqs = narrow(where, "num_seqs", call.num_seqs);
  p.num_tokens = narrow(where, "tokens of q", call.q.num_tokens);
  narrow(where, "rows, tokens times heads of q,", call.q.num_tokens * call.q.num_heads);
  constexpr std::int64_t most = std::numeric_limits<std::int32_t>::max();
  const std::int64_t blocks = std::min(call.max_blocks, most);
  p.max_length = static_cast<int>(std::min(blocks * call.k_cache.block_size, most - 1024));
  const double scale = call.scale * static_cast<double>(factor_of(call.k_scale));
  const auto cap = static_cast<double>(call.softcap);
  p.score_scale = static_cast<float>(cap == 0 ? scale * kLog2E : scale / cap);
  p.cap = static_cast<float>(cap * kLog2E);
  p.value_scale = factor_of(call.v_scale);
  p.causal = call.causal;
  p.window = static_cast<int>(call.window);
  p.sink_tokens = static_cast<int>(std::min(call.sink_tokens, most));
  p.sink_logits = call.sink_logits;
  p.alibi_slopes = call.alibi_slopes;
  p.tree_mask = call.tree_mask;
  p.tree_mask_stride = call.tree_mask_stride;
  return p;
}

/// Thread blocks of a kernel that run at a time: asked for once.
int resident_blocks(const Variant& variant, int device, const char* where) {
  static std::mutex mutex;
  static std::map<std::pair<int, const Variant*>, int> known;
  const std::lock_guard lock(mutex);
  int& blocks = known[{device, &variant}];
  if (blocks != 0) return blocks;
  int processors = 0, of_each = 0;
  expect_success(where, "cudaDeviceGetAttribute",
                 cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device));
  expect_success(where, "cudaFuncSetAttribute",
                 cudaFuncSetAttribute(variant.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      variant.shared_bytes));
  expect_success(where, "cudaOccupancyMaxActiveBlocksPerMultiprocessor",
                 cudaOccupancyMaxActiveBlocksPerMultiprocessor(
                     &of_each, variant.kernel, variant.threads,
                     static_cast<std::size_t>(variant.shared_bytes)));
  return blocks = processors * std::max(of_each, 1);
}

void run(const Launch& launch_of, Params p, bool batch_invariant, const Stream& stream,
         const char* where) {
  const Variant& variant = *launch_of.variant;
  p.fewest_rows = launch_of.fewest;
  p.most_rows = launch_of.most;
  // At most so many units, of so many rounds, whatever the lengths.
  const std::int64_t rows = std::int64_t{p.num_tokens} * p.group;
  const std::int64_t tiles = std::min(p.num_seqs, p.num_tokens) +
                             (launch_of.most <= variant.rows ? 0 : rows / variant.rows);
  const std::int64_t units = tiles * p.num_kv_heads;
  const std::int64_t rounds =
      std::max<std::int64_t>(divide_up(p.max_length, variant.round_tokens), 1);
  std::int64_t line = units * rounds, slots = 0;
  if (batch_invariant) {
    const auto least =
        static_cast<int>(divide_up(launch_of.pieces.least_tokens, variant.round_tokens));
    p.piece_rounds = least;
    p.most_pieces = launch_of.pieces.most;
    const std::int64_t pieces = std::min<std::int64_t>(p.most_pieces, divide_up(rounds, least));
    const std::int64_t of_each = divide_up(std::max(attention::kFewRows, p.group), variant.rows);
    line = units * pieces;
    if (pieces > 1) {
      slots = std::min(p.num_seqs, p.num_tokens) * of_each * pieces * p.num_kv_heads;
    }
  } else {
    p.least_share = static_cast<int>(divide_up(kLeastShareTokens, variant.round_tokens));
  }
  const std::int64_t grid = std::min<std::int64_t>(resident_blocks(variant, stream.device, where),
                                                   divide_up(line, p.least_share));
  if (!batch_invariant) slots = 2 * grid + 1;
  p.slot_floats = divide_up(std::int64_t{variant.rows} * (p.v_head_dim + 2), 32) * 32;
  const Workspace memory = workspace(stream, static_cast<std::size_t>(slots * p.slot_floats),
                                     static_cast<std::size_t>(slots), where);
  p.partials = memory.partials;
  p.arrivals = memory.arrivals;
  launch(where, variant.kernel, dim3(static_cast<unsigned>(grid)),
         dim3(static_cast<unsigned>(variant.threads)),
         static_cast<std::size_t>(variant.shared_bytes), stream.handle, p);
}

}  // namespace

void attend(const AttentionCall& call, bool batch_invariant, const Stream& stream,
            const char* where) {
  check_attention_arrays(where, call);
  expect_supported(where, "q", call.q.dtype);
  expect_supported(where, "k_cache", call.k_cache.dtype);
  if (call.q.num_tokens == 0 || call.num_seqs == 0) return;
  const CurrentDevice current(where, stream.device);
  Params p = params_of(call, where);
  p.errors = error_word(stream, where);
  const Variants& variants = variants_for(call.q.dtype, call.k_cache.dtype);
  const std::int64_t dims = std::max(call.k_cache.head_dim, call.v_cache.head_dim);
  // Rows of a sequence: those of one token, or unknown here.
  const int fewest = call.query_start_loc == nullptr ? p.group : 1;
  const int most = call.query_start_loc == nullptr ? p.group : p.num_tokens * p.group;
  if (p.rope_dim != 0) {
    const Variant& latent = p.rope_dim <= 64 ? variants.latent : variants.wide_latent;
    return run({&latent, kWidePieces, 1, most}, p, batch_invariant, stream, where);
  }
  if (dims > 256) {
    return run({&variants.wide, kWidePieces, 1, most}, p, batch_invariant, stream, where);
  }
  const std::size_t width = dims <= 64 ? 0 : dims <= 128 ? 1 : 2;
  constexpr int few = attention::kFewRows;
  if (fewest <= few) {
    run({&variants.decode[width], kDecodePieces, 1, few}, p, batch_invariant, stream, where);
  }
  if (most > few) {
    const Launch tiled{&variants.tiled[width], kWidePieces, few + 1, most};
    run(tiled, p, batch_invariant, stream, where);
  }
}

}  // namespace pagedkv::cuda
