// Attention over paged keys and values, for decode and prefill.
//
// A row is a query of one head: row r of a sequence is query token r / kGroup, head r % kGroup of
// the group that shares a head of keys and values. A threadgroup does a tile of kTileRows rows, for
// one head of keys and values and one piece of the tokens: a decode's tile is the heads of a group,
// a prefill's also holds several query tokens. Either way each key and value is read once for all
// of them, a tile of tokens at a time, into threadgroup memory, wherever their blocks lie; products
// are of 8 x 8 matrices, the softmax is online.
//
// Tokens that a row does not see are left out by selection, never by a weight of 0: what their
// slots hold does not reach the row, NaN neither.

#include "metal/kernels/sequences.h"
#include "metal/kernels/softmax.h"

inline uint key_channels() { return kKeyDim + kRopeDim; }
/// Floats of a row of the tile of keys or values: 4 more than its channels, so that the rows that a
/// matrix is loaded from lie in different banks.
inline uint stage_width() { return max(key_channels(), kValueDim) + 4; }

/// The threadgroup's memory, of as many bytes as `tile_for` in metal/attention.cpp says.
struct Shared {
  threadgroup float* stage;    ///< [kTileTokens, stage_width()] keys, then values
  threadgroup float* scores;   ///< [kTileRows, kTileTokens] scores, then weights
  threadgroup float* factors;  ///< [kTileRows] of what was summed before; at last of the result
  threadgroup uint* present;   ///< [kTileTokens] whether there is such a token
  threadgroup atomic_uint* unusual;  ///< whether a value of the tile is infinite or NaN
};

inline Shared shared_of(threadgroup float* memory) {
  Shared shared;
  shared.stage = memory;
  shared.scores = shared.stage + kTileTokens * stage_width();
  shared.factors = shared.scores + kTileRows * kTileTokens;
  shared.present = (threadgroup uint*)(shared.factors + kTileRows);
  shared.unusual = (threadgroup atomic_uint*)(shared.present + kTileTokens);
  return shared;
}

/// What a threadgroup does.
struct Work {
  Sequence sequence;
  uint seq;
  uint kv_head;
  uint first_row;  ///< of the sequence
  uint num_rows;
  uint padded_rows;  ///< to whole matrices; the others are left out
  uint begin;        ///< the rows see tokens [begin, end), and those below `sinks`
  uint end;
  uint sinks;
};

/// Row r of a tile.
struct Row {
  uint query;  ///< of the sequence
  uint token;  ///< of the call: the same query
  uint head;   ///< of queries
};

inline Row row_of(Work work, uint r) {
  Row row;
  row.query = (work.first_row + r) / kGroup;
  row.token = work.sequence.first_query + row.query;
  row.head = work.kv_head * kGroup + (work.first_row + r) % kGroup;
  return row;
}

/// Whether row r of the tile sees token j, which is there.
inline bool sees(constant AttentionParams& p, Work work, device const uchar* tree_mask,
                 device atomic_uint* errors, uint r, uint j) {
  const Row row = row_of(work, r);
  const uint position = work.sequence.context + row.query;
  if (p.causal != 0 && j > position) return false;
  if (p.window != 0 && j + p.window <= position && j >= p.sink_tokens) return false;
  if (p.has_tree_mask == 0 || j < work.sequence.context) return true;
  const uint among = j - work.sequence.context;
  if (long(among) >= p.tree_mask_stride) {
    report(errors, kBadShape);
    return false;
  }
  return tree_mask[row.token * p.tree_mask_stride + among] != 0;
}

/// Four channels of a row, whose address is aligned only where kVector says so.
inline float4 load_channels(device const uchar* row, uint i) {
  if (kVector >= 4) return load4(row, kCacheType, i);
  return float4(load(row, kCacheType, i), load(row, kCacheType, i + 1),
                load(row, kCacheType, i + 2), load(row, kCacheType, i + 3));
}

/// The block of token j: -1 where no row wants the token, or none can have it.
inline int block_of(constant AttentionParams& p, Work work, device const int* block_tables,
                    device atomic_uint* errors, uint j) {
  const bool wanted = j < work.end && (j >= work.begin || j < work.sinks);
  if (!wanted) return -1;
  const int block = block_tables[work.seq * p.block_table_stride + long(j / kBlockSize)];
  if (block >= 0 && uint(block) < p.num_blocks) return block;
  report(errors, kBadIndex);
  return -1;
}

/// Keys of tokens [first, first + kTileTokens) to the stage; zeros for those that are not there.
inline void stage_keys(constant AttentionParams& p, Work work, Shared shared,
                       device const uchar* keys, device const uchar* rope_keys,
                       device const int* block_tables, device atomic_uint* errors, uint first,
                       uint thread_index) {
  constexpr uint width = 4;
  const uint parts = key_channels() / width;
  for (uint i = thread_index; i < kTileTokens * parts; i += kSimdgroups * kSimdWidth) {
    const uint t = i / parts, c = i % parts * width, j = first + t;
    const int block = block_of(p, work, block_tables, errors, j);
    float4 x = float4(0);
    if (block >= 0 && c < kKeyDim) {
      x = load_channels(keys + row_of_block(p.k, uint(block), work.kv_head, j % kBlockSize), c);
    } else if (block >= 0) {
      x = load_channels(
          rope_keys + row_of_block(p.k_rope, uint(block), work.kv_head, j % kBlockSize),
          c - kKeyDim);
    }
    *(threadgroup float4*)(shared.stage + t * stage_width() + c) = x;
    if (c == 0) shared.present[t] = block >= 0 ? 1 : 0;
  }
}

/// Values likewise.
inline void stage_values(constant AttentionParams& p, Work work, Shared shared,
                         device const uchar* values, device const int* block_tables,
                         device atomic_uint* errors, uint first, uint thread_index) {
  constexpr uint width = 4;
  const uint parts = kValueDim / width;
  bool unusual = false;
  for (uint i = thread_index; i < kTileTokens * parts; i += kSimdgroups * kSimdWidth) {
    const uint t = i / parts, c = i % parts * width, j = first + t;
    const int block = block_of(p, work, block_tables, errors, j);
    float4 x = float4(0);
    if (block >= 0) {
      x = load_channels(values + row_of_block(p.v, uint(block), work.kv_head, j % kBlockSize), c);
    }
    unusual = unusual || !is_finite(x.x) || !is_finite(x.y) || !is_finite(x.z) || !is_finite(x.w);
    *(threadgroup float4*)(shared.stage + t * stage_width() + c) = x;
  }
  if (unusual) atomic_store_explicit(shared.unusual, 1u, memory_order_relaxed);
}

/// Which part of the tile a thread's simdgroup has, and which elements of matrices are a lane's.
struct Part {
  uint simdgroup;
  uint lane;
  // Simdgroup s has the 8 rows of matrix s % matrices. Those that have the same rows share out the
  // tokens of scores and the channels of sums: every `step`-th 8 of them, from number `first` on.
  uint row;
  uint first;
  uint step;
  // Metal does not say which two elements of a matrix a lane has.
  uint element_row[2];
  uint element_column[2];
};

inline Part part_of(Shared shared, uint thread_index, uint simdgroup, uint lane) {
  Part part;
  const uint matrices = kTileRows / 8;
  part.simdgroup = simdgroup;
  part.lane = lane;
  part.row = simdgroup % matrices * 8;
  part.first = simdgroup / matrices;
  part.step = kSimdgroups / matrices;
  // A matrix that holds the places of its elements tells.
  if (thread_index < 64) shared.scores[thread_index] = float(thread_index);
  threadgroup_barrier(mem_flags::mem_threadgroup);
  simdgroup_float8x8 places;
  simdgroup_load(places, shared.scores, 8);
  for (uint e = 0; e < 2; ++e) {
    const uint place = uint(places.thread_elements()[e]);
    part.element_row[e] = place / 8;
    part.element_column[e] = place % 8;
  }
  return part;  // scores are not written before the barrier behind the first tile's keys
}

// Matrices are in registers as long as no index into an array of them is computed: loops over them
// run to a constant, so that they unroll whole, and leave out what a call has not. Where the
// pipeline's constants tell, nothing is left of it.

/// Whether a simdgroup has an n-th matrix of sums, of channels [c, c + 8).
inline bool has_sums(Part part, uint n, thread uint& c) {
  c = (part.first + n * part.step) * 8;
  return n * part.step * 8 < kValueDim && c < kValueDim;
}

/// Whether a simdgroup has an n-th row to weigh, row r of the tile.
inline bool has_row(Work work, Part part, uint n, thread uint& r) {
  r = part.simdgroup + n * kSimdgroups;
  return n * kSimdgroups < kTileRows && r < work.padded_rows;
}

/// The queries of the simdgroup's 8 rows, [kMaxQueryTiles] of 8 channels.
inline void load_queries(constant AttentionParams& p, Work work, Part part, device const uchar* q,
                         device const uchar* q_rope, thread simdgroup_float8x8* queries) {
#pragma unroll
  for (uint c = 0; c < kMaxQueryTiles; ++c) {
    if (c * 8 >= key_channels()) continue;
    for (uint e = 0; e < 2; ++e) {
      const uint r = part.row + part.element_row[e], channel = c * 8 + part.element_column[e];
      float x = 0;
      if (r < work.num_rows) {
        const Row row = row_of(work, r);
        const bool rope = channel >= kKeyDim;
        x = rope ? load(q_rope + row_of_token(p.q_rope, row.token, row.head), kRowType,
                        channel - kKeyDim)
                 : load(q + row_of_token(p.q, row.token, row.head), kRowType, channel);
      }
      queries[c].thread_elements()[e] = x;
    }
  }
}

/// Products of the queries with the staged keys, to `shared.scores`.
inline void multiply_keys(Work work, Shared shared, Part part, thread simdgroup_float8x8* queries) {
  if (part.row >= work.padded_rows) return;
  for (uint t = part.first * 8; t < kTileTokens; t += part.step * 8) {
    simdgroup_float8x8 products = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
#pragma unroll
    for (uint c = 0; c < kMaxQueryTiles; ++c) {
      if (c * 8 >= key_channels()) continue;
      simdgroup_float8x8 keys;
      simdgroup_load(keys, shared.stage + t * stage_width() + c * 8, stage_width(), ulong2(0),
                     true);
      simdgroup_multiply_accumulate(products, queries[c], keys, products);
    }
    simdgroup_store(products, shared.scores + part.row * kTileTokens + t, kTileTokens);
  }
}

/// From products to scores: scale, soft cap, bias.
inline float score_of(constant AttentionParams& p, Work work, device const float* slopes, uint r,
                      uint j, float product) {
  float score = product * p.scale;
  if (p.softcap != 0) score = p.softcap * precise::tanh(score / p.softcap);
  if (p.has_slopes != 0) {
    const Row row = row_of(work, r);
    score += slopes[row.head] * float(int(j) - int(work.sequence.context + row.query));
  }
  return score;
}

/// The online softmax of tokens [first, first + kTileTokens), a lane a token: products in
/// `shared.scores` become weights. The simdgroup has rows simdgroup + n * kSimdgroups here; what is
/// known of them, `references` and sums of `weights`, is the same in all lanes.
inline void weigh(constant AttentionParams& p, Work work, Shared shared, Part part,
                  device const float* slopes, device const uchar* tree_mask,
                  device atomic_uint* errors, uint first, thread float* references,
                  thread float* weights) {
#pragma unroll
  for (uint n = 0; n < kMaxRowsOfSimdgroup; ++n) {
    uint r;
    if (!has_row(work, part, n, r)) continue;
    const uint t = part.lane, j = first + t;
    const bool seen = r < work.num_rows && t < kTileTokens && shared.present[t] != 0 &&
                      sees(p, work, tree_mask, errors, r, j);
    const float score =
        seen ? score_of(p, work, slopes, r, j, shared.scores[r * kTileTokens + t]) : -INFINITY;
    // A NaN is no reference; it is in the weights.
    const float reference = max(references[n], simd_max(score == score ? score : -INFINITY));
    const float factor = rescale_factor(references[n], reference);
    const float weight = seen ? exp(score - (reference == -INFINITY ? 0.0f : reference)) : 0.0f;
    weights[n] = weights[n] * factor + simd_sum(weight);
    references[n] = reference;
    if (t < kTileTokens) shared.scores[r * kTileTokens + t] = weight;
    if (t == 0) shared.factors[r] = factor;
  }
}

/// Adds weights times the staged values to the sums of 8 rows, [kMaxSums] of 8 channels.
inline void add_values(Work work, Shared shared, Part part, thread simdgroup_float8x8* sums) {
  if (part.row >= work.padded_rows) return;
  simdgroup_float8x8 weights[4];
#pragma unroll
  for (uint t = 0; t < 4; ++t) {
    if (t * 8 >= kTileTokens) continue;
    simdgroup_load(weights[t], shared.scores + part.row * kTileTokens + t * 8, kTileTokens);
  }
#pragma unroll
  for (uint n = 0; n < kMaxSums; ++n) {
    uint c;
    if (!has_sums(part, n, c)) continue;
    for (uint e = 0; e < 2; ++e) {
      sums[n].thread_elements()[e] *= shared.factors[part.row + part.element_row[e]];
    }
#pragma unroll
    for (uint t = 0; t < 4; ++t) {
      if (t * 8 >= kTileTokens) continue;
      simdgroup_float8x8 values;
      simdgroup_load(values, shared.stage + t * 8 * stage_width() + c, stage_width());
      simdgroup_multiply_accumulate(sums[n], weights[t], values, sums[n]);
    }
  }
}

/// The same where a value is infinite or NaN: 0 * NaN is NaN, so that a row must leave out what it
/// does not see.
inline void add_unusual_values(constant AttentionParams& p, Work work, Shared shared, Part part,
                               device const uchar* tree_mask, device atomic_uint* errors,
                               uint first, thread simdgroup_float8x8* sums) {
  if (part.row >= work.padded_rows) return;
#pragma unroll
  for (uint n = 0; n < kMaxSums; ++n) {
    uint c;
    if (!has_sums(part, n, c)) continue;
    for (uint e = 0; e < 2; ++e) {
      const uint r = part.row + part.element_row[e];
      float sum = sums[n].thread_elements()[e] * shared.factors[r];
      for (uint t = 0; t < kTileTokens; ++t) {
        const bool seen = r < work.num_rows && shared.present[t] != 0 &&
                          sees(p, work, tree_mask, errors, r, first + t);
        if (!seen) continue;
        sum += shared.scores[r * kTileTokens + t] *
               shared.stage[t * stage_width() + c + part.element_column[e]];
      }
      sums[n].thread_elements()[e] = sum;
    }
  }
}

// clang-format off: an argument a line
kernel void attend(constant AttentionParams& p [[buffer(0)]],
                   device const uchar* q [[buffer(1)]],         // [num_tokens, num_q_heads, kKeyDim]
                   device const uchar* q_rope [[buffer(2)]],    // [..., kRopeDim]
                   device uchar* out [[buffer(3)]],             // [..., kValueDim]
                   device float* lse [[buffer(4)]],             // [num_tokens, num_q_heads]
                   device const uchar* keys [[buffer(5)]],      // a cache, as the other two
                   device const uchar* rope_keys [[buffer(6)]],
                   device const uchar* values [[buffer(7)]],
                   device const int* block_tables [[buffer(8)]],      // [num_seqs, max_blocks]
                   device const int* seq_lens [[buffer(9)]],          // [num_seqs]
                   device const int* query_start_loc [[buffer(10)]],  // [num_seqs + 1]
                   device const float* sink_logits [[buffer(11)]],    // [num_q_heads]
                   device const float* slopes [[buffer(12)]],         // [num_q_heads]
                   device const uchar* tree_mask [[buffer(13)]],      // [num_tokens, any]
                   device float* partials [[buffer(14)]],             // as partial_of has it
                   device atomic_uint* errors [[buffer(15)]],
                   threadgroup float* memory PAGEDKV_THREADGROUP_MEMORY,
                   uint3 group [[threadgroup_position_in_grid]],
                   uint thread_index [[thread_index_in_threadgroup]],
                   uint simdgroup [[simdgroup_index_in_threadgroup]],
                   uint lane [[thread_index_in_simdgroup]]) {
  // clang-format on
  // Group (x, y, z) has head x of keys and values, tile y of the call's rows, piece z.
  Work work;
  work.kv_head = group.x;
  work.seq = sequence_of_tile(p, query_start_loc, group.y);
  work.sequence = sequence_of(p, work.seq, seq_lens, query_start_loc, errors);
  const uint tile = group.y - first_tile(p, query_start_loc, work.seq);
  const uint rows_of_sequence = work.sequence.num_queries * kGroup;
  if (ulong(tile) * kTileRows >= rows_of_sequence) return;
  work.first_row = tile * kTileRows;
  work.num_rows = min(kTileRows, rows_of_sequence - work.first_row);
  work.padded_rows = (work.num_rows + 7) / 8 * 8;
  const Pieces pieces = pieces_of(p, work.sequence);
  const uint piece = group.z;
  if (piece >= pieces.count) return;

  // What the rows of this tile see.
  const uint first_position = work.sequence.context + row_of(work, 0).query;
  const uint last_position = work.sequence.context + row_of(work, work.num_rows - 1).query;
  work.sinks = pieces.sinks;
  work.begin = p.window != 0 && first_position + 1 > p.window ? first_position + 1 - p.window : 0;
  work.end = p.causal != 0 ? min(work.sequence.length, last_position + 1) : work.sequence.length;
  const uint piece_begin = pieces.first + piece * pieces.tokens;
  const uint until = min(piece_begin + pieces.tokens, work.end);
  const uint from = piece_begin < work.sinks
                        ? piece_begin
                        : max(piece_begin, work.begin / kTileTokens * kTileTokens);
  // The first piece begins with the sinks that lie before it.
  const uint sink_tiles =
      piece == 0 ? (min(work.sinks, pieces.first) + kTileTokens - 1) / kTileTokens : 0;
  const uint num_tiles =
      sink_tiles + (until > from ? (until - from + kTileTokens - 1) / kTileTokens : 0);

  const Shared shared = shared_of(memory);
  const Part part = part_of(shared, thread_index, simdgroup, lane);
  simdgroup_float8x8 queries[kMaxQueryTiles];
  load_queries(p, work, part, q, q_rope, queries);
  simdgroup_float8x8 sums[kMaxSums];
#pragma unroll
  for (uint n = 0; n < kMaxSums; ++n) sums[n] = make_filled_simdgroup_matrix<float, 8, 8>(0.0f);
  float references[kMaxRowsOfSimdgroup], weights[kMaxRowsOfSimdgroup];
#pragma unroll
  for (uint n = 0; n < kMaxRowsOfSimdgroup; ++n) {
    references[n] = -INFINITY;
    weights[n] = 0;
  }

  for (uint i = 0; i < num_tiles; ++i) {
    const uint first = i < sink_tiles ? i * kTileTokens : from + (i - sink_tiles) * kTileTokens;
    stage_keys(p, work, shared, keys, rope_keys, block_tables, errors, first, thread_index);
    if (thread_index == 0) atomic_store_explicit(shared.unusual, 0u, memory_order_relaxed);
    threadgroup_barrier(mem_flags::mem_threadgroup);

    multiply_keys(work, shared, part, queries);
    threadgroup_barrier(mem_flags::mem_threadgroup);

    // The keys are done with: values take their place while scores become weights.
    stage_values(p, work, shared, values, block_tables, errors, first, thread_index);
    weigh(p, work, shared, part, slopes, tree_mask, errors, first, references, weights);
    threadgroup_barrier(mem_flags::mem_threadgroup);

    if (atomic_load_explicit(shared.unusual, memory_order_relaxed) == 0) {
      add_values(work, shared, part, sums);
    } else {
      add_unusual_values(p, work, shared, part, tree_mask, errors, first, sums);
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }

  // Rows leave: to the results, or to the parts that merge_pieces joins.
  const bool is_part = pieces.count > 1;
#pragma unroll
  for (uint n = 0; n < kMaxRowsOfSimdgroup; ++n) {
    uint r;
    if (!has_row(work, part, n, r) || r >= work.num_rows || lane != 0) continue;
    const Row row = row_of(work, r);
    if (is_part) {
      device float* partial = partials + partial_of(p, work.seq, row.query, row.head, piece);
      partial[kValueDim] = references[n];
      partial[kValueDim + 1] = weights[n];
      shared.factors[r] = 1;
      continue;
    }
    const Finished finished = finish_row(
        references[n], weights[n], p.has_sink_logits != 0 ? sink_logits[row.head] : -INFINITY);
    shared.factors[r] = finished.factor * p.value_scale;
    if (p.wants_lse != 0) lse[ulong(row.token) * p.num_q_heads + row.head] = finished.lse;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
#pragma unroll
  for (uint n = 0; n < kMaxSums; ++n) {
    uint c;
    if (!has_sums(part, n, c)) continue;
    for (uint e = 0; e < 2; ++e) {
      const uint r = part.row + part.element_row[e], channel = c + part.element_column[e];
      if (r >= work.num_rows) continue;
      const float value = sums[n].thread_elements()[e] * shared.factors[r];
      const Row row = row_of(work, r);
      if (is_part) {
        partials[partial_of(p, work.seq, row.query, row.head, piece) + channel] = value;
      } else {
        store(out + row_of_token(p.out, row.token, row.head), kRowType, channel, value);
      }
    }
  }
}
