// Keys and values on their way: to slots, to dense rows, between blocks.

#include "metal/kernels/common.h"

/// Rows of n tokens go to their slots. Thread (x, y) moves part x of token y.
// clang-format off: an argument a line
kernel void write_rows(constant MoveParams& p [[buffer(0)]],
                       device const uchar* rows [[buffer(1)]],
                       device uchar* cache [[buffer(2)]],
                       device const long* slots [[buffer(3)]],  // [num_tokens]; -1: skipped
                       device atomic_uint* errors [[buffer(4)]],
                       uint2 thread_at [[thread_position_in_grid]]) {
  // clang-format on
  const uint parts = p.head_dim / kVector;
  const uint token = thread_at.y;
  if (thread_at.x >= parts * p.num_heads || token >= p.num_tokens) return;
  const long slot = slots[token];
  if (slot < 0 || slot >= p.num_slots) {
    if (slot != -1) report(errors, kBadIndex);
    return;
  }
  const uint head = thread_at.x / parts;
  move_elements(rows + row_of_token(p.rows, token, head), kRowType,
                cache + row_of_slot(p.cache, ulong(slot), head), kCacheType,
                thread_at.x % parts * kVector);
}

/// Which row each sequence begins with, [num_seqs + 1], by one simdgroup. A sequence whose length
/// cannot be is taken for empty.
// clang-format off: an argument a line
kernel void gather_starts(constant StartsParams& p [[buffer(0)]],
                          device const int* seq_lens [[buffer(1)]],  // [num_seqs]
                          device long* starts [[buffer(2)]],
                          device atomic_uint* errors [[buffer(3)]],
                          uint lane [[thread_index_in_simdgroup]]) {
  // clang-format on
  const ulong most = ulong(p.max_blocks) * kBlockSize;
  long before = 0;
  for (uint first = 0; first < p.num_seqs; first += kSimdWidth) {
    const uint seq = first + lane;
    int length = seq < p.num_seqs ? seq_lens[seq] : 0;
    if (length < 0 || ulong(length) > most) {
      report(errors, kBadShape);
      length = 0;
    }
    // Of 32 lengths the sum may pass 32 bits: they are summed in two halves.
    const uint low = simd_prefix_inclusive_sum(uint(length) & 0xffffu);
    const uint high = simd_prefix_inclusive_sum(uint(length) >> 16);
    const long end = before + long(low) + (long(high) << 16);
    if (seq < p.num_seqs) starts[seq] = end - length;
    const uint all_low = simd_shuffle(low, ushort(kSimdWidth - 1));
    const uint all_high = simd_shuffle(high, ushort(kSimdWidth - 1));
    before += long(all_low) + (long(all_high) << 16);
  }
  if (lane != 0) return;
  starts[p.num_seqs] = before;
  if (before > p.num_rows) report(errors, kBadShape);
}

/// Tokens of sequences become dense rows. Thread (x, y) moves part x of row y.
// clang-format off: an argument a line
kernel void gather_rows(constant MoveParams& p [[buffer(0)]],
                        device const uchar* cache [[buffer(1)]],
                        device uchar* rows [[buffer(2)]],
                        device const int* block_tables [[buffer(3)]],  // [num_seqs, max_blocks]
                        device const long* starts [[buffer(4)]],       // [num_seqs + 1]
                        device atomic_uint* errors [[buffer(5)]],
                        uint2 thread_at [[thread_position_in_grid]]) {
  // clang-format on
  const uint parts = p.head_dim / kVector;
  const uint row = thread_at.y;
  if (thread_at.x >= parts * p.num_heads || row >= p.num_tokens) return;
  if (long(row) >= starts[p.num_seqs]) return;
  uint seq = 0;  // the last one that begins at this row or before
  for (uint end = p.num_seqs; end - seq > 1;) {
    const uint middle = seq + (end - seq) / 2;
    if (starts[middle] <= long(row)) {
      seq = middle;
    } else {
      end = middle;
    }
  }
  const ulong position = row - ulong(starts[seq]);
  const int block = block_tables[seq * p.block_table_stride + long(position / kBlockSize)];
  if (block < 0 || uint(block) >= p.num_blocks) {
    report(errors, kBadIndex);
    return;
  }
  const uint head = thread_at.x / parts;
  move_elements(cache + row_of_block(p.cache, uint(block), head, uint(position % kBlockSize)),
                kCacheType, rows + row_of_token(p.rows, row, head), kRowType,
                thread_at.x % parts * kVector);
}

/// Blocks, or slots, are copied. A thread owns the same bytes of each: with all pairs of a call it
/// does them in order, so that one may read what an earlier one wrote.
// clang-format off: an argument a line
kernel void copy_indexed(constant CopyParams& p [[buffer(0)]],
                         device const uchar* source [[buffer(1)]],
                         device uchar* target [[buffer(2)]],
                         device const long* pairs [[buffer(3)]],  // [num_pairs, 2]: from, to
                         device atomic_uint* errors [[buffer(4)]],
                         uint2 thread_at [[thread_position_in_grid]]) {
  // clang-format on
  if (thread_at.x >= p.row_units * p.slots * p.num_heads) return;
  const uint unit = thread_at.x % p.row_units;
  const uint row = thread_at.x / p.row_units;
  const uint offset = row % p.slots, head = row / p.slots;
  const ulong within = ulong(unit) * kUnitBytes;
  const long first = long(thread_at.y) * p.pairs_of_thread;
  const long end = first + p.pairs_of_thread;
  const long last = end < p.num_pairs ? end : p.num_pairs;
  for (long i = first; i < last; ++i) {
    const long from = pairs[2 * i], to = pairs[2 * i + 1];
    if (from < 0 || from >= p.from_end || to < 0 || to >= p.to_end) {
      report(errors, kBadIndex);
      continue;
    }
    // A slot of a call that moves blocks is `offset` of one, else the index itself.
    const ulong from_slot = ulong(from) * p.slots + offset, to_slot = ulong(to) * p.slots + offset;
    copy_bytes(source + row_of_slot(p.from, from_slot, head) + within,
               target + row_of_slot(p.to, to_slot, head) + within, kUnitBytes);
  }
}
