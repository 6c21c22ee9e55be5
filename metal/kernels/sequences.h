#pragma once

// Which queries and tokens a sequence has, and how they are cut into tiles and pieces. Everything
// is found from arrays on the device: the host knows none of the lengths.

#include "metal/kernels/common.h"

/// Sums of values, their reference and the sum of the weights: floats of one row's part.
inline uint partial_size() { return kValueDim + 2; }

struct Sequence {
  uint first_query;  ///< among the new tokens of the call
  uint num_queries;
  uint length;   ///< tokens, the new ones counted; 0: no query sees any
  uint context;  ///< position of the first query
};

/// A sequence whose arrays hold what cannot be has no tokens, or no queries.
inline Sequence sequence_of(constant AttentionParams& p, uint seq, device const int* seq_lens,
                            device const int* query_start_loc, device atomic_uint* errors) {
  Sequence s;
  const int begin = p.has_starts != 0 ? query_start_loc[seq] : int(seq);
  const int end = p.has_starts != 0 ? query_start_loc[seq + 1] : int(seq) + 1;
  const int length = seq_lens[seq];
  s.first_query = uint(begin);
  s.num_queries = uint(end - begin);
  s.length = uint(length);
  if (begin < 0 || end < begin || uint(end) > p.num_tokens) {
    report(errors, kBadShape);
    s.first_query = 0;
    s.num_queries = 0;
  }
  const bool too_long = ulong(s.length) > ulong(p.max_blocks) * kBlockSize;
  if (length < 0 || (s.num_queries > 0 && too_long) ||
      (s.length < s.num_queries && s.length != 0)) {
    report(errors, kBadShape);
    s.length = 0;
  }
  s.context = s.length == 0 ? 0 : s.length - s.num_queries;
  return s;
}

/// The first tile of a sequence. The host knows how many queries there are, not whose they are:
/// counting from rows_before / kTileRows + seq leaves room for a last tile that is part of one.
inline uint first_tile(constant AttentionParams& p, device const int* query_start_loc, uint seq) {
  if (p.has_starts == 0) return seq * ((kGroup + kTileRows - 1) / kTileRows);
  return uint(ulong(max(query_start_loc[seq], 0)) * kGroup / kTileRows) + seq;
}
/// The sequence that tile `index` of a call belongs to.
inline uint sequence_of_tile(constant AttentionParams& p, device const int* query_start_loc,
                             uint index) {
  uint seq = 0;
  for (uint end = p.num_seqs; end - seq > 1;) {
    const uint middle = seq + (end - seq) / 2;
    if (first_tile(p, query_start_loc, middle) <= index) {
      seq = middle;
    } else {
      end = middle;
    }
  }
  return seq;
}

/// The tokens of a sequence, cut. They depend on nothing but the sequence and the limit of pieces.
struct Pieces {
  uint first;   ///< the first token that a window does not hide from all queries, or before it
  uint tokens;  ///< of a piece
  uint count;   ///< at least 1
  uint sinks;   ///< tokens [0, sinks) are seen in spite of the window; the first piece has them
};

inline Pieces pieces_of(constant AttentionParams& p, Sequence s) {
  Pieces pieces;
  const uint seen_from = p.window != 0 && s.context + 1 > p.window ? s.context + 1 - p.window : 0;
  pieces.first = seen_from / kPieceTokens * kPieceTokens;
  pieces.sinks = p.window != 0 ? min(p.sink_tokens, s.length) : 0;
  const uint tokens = s.length - min(pieces.first, s.length);
  const bool cut = p.split_queries != 0 && s.num_queries <= kSplitQueries;
  const uint most = cut ? p.max_pieces : 1;
  const uint least = (tokens + most - 1) / most;
  pieces.tokens = max((least + kPieceTokens - 1) / kPieceTokens, 1u) * kPieceTokens;
  pieces.count = max((tokens + pieces.tokens - 1) / pieces.tokens, 1u);
  return pieces;
}

/// Floats before the partial result of a row in a piece.
inline ulong partial_of(constant AttentionParams& p, uint seq, uint query, uint head, uint piece) {
  const ulong row = (ulong(seq) * p.split_queries + query) * p.num_q_heads + head;
  return (row * p.max_pieces + piece) * partial_size();
}
