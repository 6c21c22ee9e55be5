// Parts of an attention over different tokens become one.

#include "metal/kernels/sequences.h"
#include "metal/kernels/softmax.h"

/// (e^lse_a * a + e^lse_b * b) / (e^lse_a + e^lse_b), one simdgroup a row: threadgroup (x, y) has
/// head x * simdgroups + its number, token y. A part with an LSE of -inf is not read. A lane reads
/// and writes the same channels, so that a part may become the result.
// clang-format off: an argument a line
kernel void merge_states(constant MergeParams& p [[buffer(0)]],
                         device const uchar* rows_a [[buffer(1)]],
                         device const float* lses_a [[buffer(2)]],
                         device const uchar* rows_b [[buffer(3)]],
                         device const float* lses_b [[buffer(4)]],
                         device uchar* rows [[buffer(5)]],
                         device float* lses [[buffer(6)]],
                         uint3 group [[threadgroup_position_in_grid]],
                         uint simdgroup [[simdgroup_index_in_threadgroup]],
                         uint lane [[thread_index_in_simdgroup]]) {
  // clang-format on
  const uint token = group.y, head = group.x * kSimdgroups + simdgroup;
  if (head >= p.num_heads) return;
  const float lse_a = lses_a[row_of_token(p.lse_a, token, head)];
  const float lse_b = lses_b[row_of_token(p.lse_b, token, head)];
  // A NaN is taken over, whichever side it is on.
  const float highest = lse_a > lse_b || lse_a != lse_a ? lse_a : lse_b;
  const bool has_a = lse_a != -INFINITY, has_b = lse_b != -INFINITY;
  float weight_a = has_a ? exp(lse_a - highest) : 0.0f;
  float weight_b = has_b ? exp(lse_b - highest) : 0.0f;
  const float sum = weight_a + weight_b;
  if (has_a || has_b) {
    weight_a /= sum;
    weight_b /= sum;
  }
  device const uchar* a = rows_a + row_of_token(p.a, token, head);
  device const uchar* b = rows_b + row_of_token(p.b, token, head);
  device uchar* to = rows + row_of_token(p.to, token, head);
  for (uint i = lane; i < p.head_dim; i += kSimdWidth) {
    const float from_a = has_a ? weight_a * load(a, kRowType, i) : 0.0f;
    const float from_b = has_b ? weight_b * load(b, kRowType, i) : 0.0f;
    store(to, kRowType, i, from_a + from_b);
  }
  // The LSE may replace one that other lanes read.
  simdgroup_barrier(mem_flags::mem_device);
  if (lane == 0 && p.wants_lse != 0) {
    lses[row_of_token(p.lse, token, head)] = has_a || has_b ? highest + log(sum) : -INFINITY;
  }
}

/// The pieces of each row of a sequence that was cut, in order, one simdgroup a row: threadgroup
/// (x, y) has head x * simdgroups + its number, query y % split_queries of sequence
/// y / split_queries.
// clang-format off: an argument a line
kernel void merge_pieces(constant AttentionParams& p [[buffer(0)]],
                         device uchar* out [[buffer(1)]],
                         device float* lse [[buffer(2)]],
                         device const int* seq_lens [[buffer(3)]],         // [num_seqs]
                         device const int* query_start_loc [[buffer(4)]],  // [num_seqs + 1]
                         device const float* sink_logits [[buffer(5)]],    // [num_q_heads]
                         device const float* partials [[buffer(6)]],
                         device atomic_uint* errors [[buffer(7)]],
                         uint3 group [[threadgroup_position_in_grid]],
                         uint simdgroup [[simdgroup_index_in_threadgroup]],
                         uint lane [[thread_index_in_simdgroup]]) {
  // clang-format on
  const uint seq = group.y / p.split_queries, query = group.y % p.split_queries;
  const uint head = group.x * kSimdgroups + simdgroup;
  if (head >= p.num_q_heads) return;
  const Sequence sequence = sequence_of(p, seq, seq_lens, query_start_loc, errors);
  const Pieces pieces = pieces_of(p, sequence);
  if (query >= sequence.num_queries || pieces.count <= 1) return;

  device const float* parts = partials + partial_of(p, seq, query, head, 0);
  float reference = -INFINITY;
  for (uint i = 0; i < pieces.count; ++i) {
    const float highest = parts[ulong(i) * partial_size() + kValueDim];
    if (highest > reference) reference = highest;
  }
  float sum = 0;
  for (uint i = 0; i < pieces.count; ++i) {
    device const float* part = parts + ulong(i) * partial_size();
    sum += part[kValueDim + 1] * rescale_factor(part[kValueDim], reference);
  }
  const uint token = sequence.first_query + query;
  const Finished finished =
      finish_row(reference, sum, p.has_sink_logits != 0 ? sink_logits[head] : -INFINITY);
  device uchar* row = out + row_of_token(p.out, token, head);
  for (uint c = lane; c < kValueDim; c += kSimdWidth) {
    float value = 0;
    for (uint i = 0; i < pieces.count; ++i) {
      device const float* part = parts + ulong(i) * partial_size();
      value += part[c] * rescale_factor(part[kValueDim], reference);
    }
    store(row, kRowType, c, value * finished.factor * p.value_scale);
  }
  if (lane == 0 && p.wants_lse != 0) lse[ulong(token) * p.num_q_heads + head] = finished.lse;
}
