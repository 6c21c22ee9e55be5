#pragma once

// Who does what. Known only on the device, so that lengths need not come to the host and a captured
// graph serves any lengths: every thread block finds its own share, from the lengths alone.
//
// A unit is a tile of query rows of one sequence and one head of keys and values, over all the
// tokens that they see. Units stand in a line, each as long as it has rounds
// (`Tiling::kRoundTokens`), and the line is cut into equal shares, one a thread block: the card is
// busy to the end, whatever the lengths. Where a cut falls into a unit, its parts go to slots, and
// the block that finishes last merges them in their order.
//
// Batch invariant, a unit is cut into pieces that depend on it alone, and the line is one of
// pieces.

#include <cstdint>

#include "cuda/kernels/attention/tiling.cuh"
#include "cuda/kernels/report.cuh"

namespace pagedkv::cuda::attention {

inline constexpr unsigned kAllLanes = 0xffffffffU;

template <class N>
__host__ __device__ constexpr N divide_up(N a, N b) {
  return (a + b - 1) / b;
}

/// One sequence of the call: numbers that can be relied on, whatever the arrays hold.
struct Sequence {
  int first_query = 0;
  int num_queries = 0;
  int length = 0;
  int context = 0;  ///< tokens before the new ones

  /// A row is a query of one head: row r is query r / group, head r % group of the group.
  [[nodiscard]] __device__ __forceinline__ int rows(const Params& p) const {
    return num_queries * p.group;
  }
  [[nodiscard]] __device__ __forceinline__ int position(const Params& p, int row) const {
    return context + row / p.group;
  }
};

__device__ inline Sequence sequence_of(const Params& p, int seq) {
  int first = seq, last = seq + 1;
  if (p.query_start_loc != nullptr) {
    first = p.query_start_loc[seq];
    last = p.query_start_loc[seq + 1];
  }
  const bool from_start = seq != 0 || first == 0;
  const bool to_end = seq != p.num_seqs - 1 || last == p.num_tokens;
  Sequence s;
  s.first_query = min(max(first, 0), p.num_tokens);
  const int end = min(max(last, s.first_query), p.num_tokens);
  if (first != s.first_query || !from_start) {
    report(p.errors, Mistake::query_start, first, seq, 0, seq == 0 ? 1 : p.num_tokens + 1);
  } else if (last != end || !to_end) {
    report(p.errors, Mistake::query_start, last, seq + 1, to_end ? first : p.num_tokens,
           p.num_tokens + 1);
  }
  s.num_queries = end - s.first_query;
  const int length = p.seq_lens[seq];
  const int least = length == 0 ? 0 : s.num_queries;
  s.length = min(max(length, 0), p.max_length);
  s.context = s.length - s.num_queries;
  if (length < least || (length != s.length && s.num_queries != 0)) {
    report(p.errors, Mistake::length, length, seq, least, std::int64_t{p.max_length} + 1);
  }
  return s;
}

/// Tokens that some row of a tile sees: [0, sinks) and [begin, end). They are counted as one line.
struct Span {
  int sinks;
  int begin;
  int end;

  [[nodiscard]] __device__ __forceinline__ int count() const { return sinks + end - begin; }
  /// Of the i-th of them.
  [[nodiscard]] __device__ __forceinline__ int position(int i) const {
    return i < sinks ? i : i - sinks + begin;
  }
};

/// @param lowest, highest  positions of the first and the last of the rows.
__device__ inline Span span_of(const Params& p, const Sequence& s, int lowest, int highest) {
  Span span;
  span.end = p.causal ? min(max(highest + 1, 0), s.length) : s.length;
  span.begin = p.window == 0 ? 0 : min(max(lowest - p.window + 1, 0), span.end);
  span.sinks = min(p.sink_tokens, span.end);
  if (span.begin <= span.sinks) span.begin = span.sinks = 0;
  return span;
}

/// A part of a unit.
struct Item {
  Sequence sequence;
  int seq;
  int kv_head;
  int first_row;
  int num_rows;
  int lowest;   ///< position of the first row, in the sequence
  int highest;  ///< of the last
  Span span;
  int first;  ///< tokens [first, last) of the span
  int last;
  int part;  ///< of num_parts, whose slots are one after the other
  int num_parts;
  std::int64_t first_slot;
};

/// Whether a sequence is cut, batch invariant: those of one token, and of few rows. The parts of
/// all the tiles of a prompt would take much memory, and a prompt has parallelism enough.
__device__ __forceinline__ bool is_cut(const Params& p, const Sequence& s) {
  return p.piece_rounds != 0 && (s.num_queries == 1 || s.rows(p) <= kFewRows);
}

/// What of the line a unit is.
template <class T>
struct Cost {
  int rounds;  ///< at least one, so that a unit that sees nothing has its result too
  int piece;   ///< rounds of a piece, batch invariant
  int length;  ///< in the line

  __device__ __forceinline__ Cost(const Params& p, const Sequence& s, const Span& span)
      : rounds(max(divide_up(span.count(), T::kRoundTokens), 1)), piece(1), length(rounds) {
    if (p.piece_rounds == 0) return;
    piece = is_cut(p, s) ? max(p.piece_rounds, divide_up(rounds, p.most_pieces)) : rounds;
    length = divide_up(rounds, piece);
  }
};

/// A place in the line, and how many slots there are before it: batch invariant, each piece of what
/// is cut has one. Both are added up as one number.
struct Mark {
  std::int64_t place;
  std::int64_t slots;

  static constexpr int kPlaceBits = 40;
  __device__ __forceinline__ Mark(std::int64_t place_, std::int64_t slots_)
      : place(place_), slots(slots_) {}
  explicit __device__ __forceinline__ Mark(std::int64_t both)
      : place(both & ((std::int64_t{1} << kPlaceBits) - 1)), slots(both >> kPlaceBits) {}
  [[nodiscard]] __device__ __forceinline__ std::int64_t both() const {
    return place | slots << kPlaceBits;
  }
};

/// What a sequence adds to the line.
template <class T>
__device__ inline Mark cost_of_sequence(const Params& p, int seq) {
  const Sequence s = sequence_of(p, seq);
  const int rows = s.rows(p);
  if (rows < p.fewest_rows || rows > p.most_rows) return {0, 0};
  std::int64_t cost = 0;
  for (int row = 0; row < rows; row += T::kRows) {
    const int last = min(row + T::kRows, rows) - 1;
    const Span span = span_of(p, s, s.position(p, row), s.position(p, last));
    cost += Cost<T>(p, s, span).length;
  }
  cost *= p.num_kv_heads;
  return {cost, is_cut(p, s) ? cost : 0};
}

/// Marks where as many sequences as there are threads end, from `first`; returns that of the last.
template <class T>
__device__ inline std::int64_t sum_costs(const Params& p, int first, std::int64_t* marks,
                                         std::int64_t* of_warps) {
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp, warp = thread / kWarp;
  const int seq = first + thread;
  long long sum = seq < p.num_seqs ? cost_of_sequence<T>(p, seq).both() : 0;
#pragma unroll
  for (int distance = 1; distance < kWarp; distance *= 2) {
    const long long below = __shfl_up_sync(kAllLanes, sum, static_cast<unsigned>(distance));
    if (lane >= distance) sum += below;
  }
  if (lane == kWarp - 1) of_warps[warp] = sum;
  __syncthreads();
  for (int i = 0; i < warp; ++i) sum += of_warps[i];
  marks[thread] = sum;
  __syncthreads();
  return marks[T::kThreads - 1];
}

/// The block's share of the line.
struct Share {
  std::int64_t length;  ///< of each
  std::int64_t first;
  std::int64_t last;

  __device__ __forceinline__ Share(const Params& p, std::int64_t total) {
    length = max(divide_up(total, static_cast<std::int64_t>(gridDim.x)),
                 static_cast<std::int64_t>(p.least_share));
    first = min(length * blockIdx.x, total);
    last = min(first + length, total);
  }
};

/// Calls `work(item)` for what of a unit is in the share. The unit begins at `start`.
template <class T, class Work>
__device__ inline void visit_unit(const Params& p, const Share& share, Item item, const Mark& start,
                                  const Cost<T>& cost, Work&& work) {
  const int first = static_cast<int>(max(share.first - start.place, std::int64_t{0}));
  const int last = static_cast<int>(min(share.last - start.place, std::int64_t{cost.length}));
  const auto tokens = [&](int rounds) {
    return rounds >= cost.rounds ? item.span.count() : rounds * T::kRoundTokens;
  };
  int piece = cost.piece, pieces = last - first;
  item.num_parts = cost.length;
  item.part = first;
  item.first_slot = start.slots;
  if (p.piece_rounds == 0) {  // one piece, of all rounds of the share
    // Two slots a block are enough: a unit of n parts, n > 1, ends n - 1 blocks after this one.
    const auto first_block = static_cast<int>(start.place / share.length);
    const auto last_block = static_cast<int>((start.place + cost.length - 1) / share.length);
    item.num_parts = last_block - first_block + 1;
    item.part = static_cast<int>(blockIdx.x) - first_block;
    item.first_slot = 2 * std::int64_t{first_block} + 1;
    piece = pieces;
    pieces = 1;
  }
  for (int i = 0, round = first * cost.piece; i < pieces; ++i, ++item.part, round += piece) {
    item.first = tokens(round);
    item.last = tokens(round + piece);
    work(item);
  }
}

/// Calls `work(item)` for what of a sequence, from `begin` to `end` in the line, is in the share.
template <class T, class Work>
__device__ inline void visit_sequence(const Params& p, const Share& share, int seq,
                                      const Mark& begin, const Mark& end, Work&& work) {
  Item item;
  item.seq = seq;
  item.sequence = sequence_of(p, seq);
  const int rows = item.sequence.rows(p);
  const bool cut = is_cut(p, item.sequence);
  const std::int64_t of_head = (end.place - begin.place) / p.num_kv_heads;
  const std::int64_t skipped = max(share.first - begin.place, std::int64_t{0}) / of_head;
  for (int head = static_cast<int>(skipped); head < p.num_kv_heads; ++head) {
    std::int64_t place = begin.place + head * of_head;
    if (place >= share.last) return;
    item.kv_head = head;
    for (int row = 0; row < rows && place < share.last; row += T::kRows) {
      item.first_row = row;
      item.num_rows = min(rows - row, T::kRows);
      item.lowest = item.sequence.position(p, row);
      item.highest = item.sequence.position(p, row + item.num_rows - 1);
      item.span = span_of(p, item.sequence, item.lowest, item.highest);
      const Cost<T> cost(p, item.sequence, item.span);
      const Mark start(place, cut ? begin.slots + place - begin.place : 0);
      if (place + cost.length > share.first) visit_unit(p, share, item, start, cost, work);
      place += cost.length;
    }
  }
}

/// The first of `count` marks whose place is behind `place`; `count` where none is.
__device__ inline int first_behind(const std::int64_t* marks, int count, std::int64_t place) {
  int low = 0, high = count;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (Mark(marks[middle]).place > place) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}

/// Calls `work(item)` for all that the block has to do. All threads come here together.
/// @param marks     of `kThreads`, in shared memory.
/// @param of_warps  of eight, likewise.
template <class T, class Work>
__device__ inline void for_each_item(const Params& p, std::int64_t* marks, std::int64_t* of_warps,
                                     Work&& work) {
  std::int64_t total = 0;
  for (int first = 0; first < p.num_seqs; first += T::kThreads) {
    total += sum_costs<T>(p, first, marks, of_warps);
  }
  const Share share(p, Mark(total).place);
  std::int64_t base = 0;
  for (int first = 0; first < p.num_seqs && Mark(base).place < share.last; first += T::kThreads) {
    const bool known = p.num_seqs <= T::kThreads;
    const std::int64_t sum = known ? total : sum_costs<T>(p, first, marks, of_warps);
    const int count = min(p.num_seqs - first, T::kThreads);
    for (int i = first_behind(marks, count, share.first - Mark(base).place); i < count; ++i) {
      const Mark begin(base + (i == 0 ? 0 : marks[i - 1])), end(base + marks[i]);
      if (begin.place >= share.last) break;
      if (begin.place != end.place) visit_sequence<T>(p, share, first + i, begin, end, work);
    }
    base += sum;
  }
}

}  // namespace pagedkv::cuda::attention
