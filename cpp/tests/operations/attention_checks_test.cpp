// What an attention call is refused for: each message once, with nothing written.

#include <gtest/gtest.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string_view>
#include <vector>

#include "../expect_error.hpp"
#include "attention_oracle.hpp"
#include "pagedkv/ops/check_attention.hpp"

namespace {

using namespace pagedkv;
using namespace pagedkv_test;

constexpr const char* kWhere = "cpu.attend";
constexpr std::int64_t kInt32Max = std::numeric_limits<std::int32_t>::max();

/// Sequences of 37 (decode), 0, 40 (a chunk of 5) and 1 tokens.
Problem mixed() {
  Problem p;
  p.seq_lens = {37, 0, 40, 1};
  p.query_lens = {1, 0, 5, 1};
  return p;
}

Problem of(DType cache, DType query = DType::float32) {
  Problem p = mixed();
  p.dtype = cache;
  p.query_dtype = query;
  return p;
}

Problem mla(DType cache = DType::bfloat16) {
  Problem p = of(cache);
  p.kv_heads = 1;
  p.group = 16;
  p.rope_dim = 32;
  return p;
}

/// `change` makes of a call that is good one that is refused. @returns the error.
template <class E = ShapeError, class Change>
E expect_refused(const Problem& problem, Change change, std::string_view given,
                 std::string_view expected) {
  Arrays arrays(problem);
  check_attention(kWhere, arrays.call);
  const std::vector<std::byte> out = arrays.out_bytes();
  const std::vector<float> lse = arrays.lse();
  change(arrays.call);
  E error = expect_error<E>([&] { check_attention(kWhere, arrays.call); }, kWhere, given, expected);
  EXPECT_EQ(arrays.out_bytes(), out);
  EXPECT_EQ(arrays.lse(), lse);
  return error;
}

template <class Change>
void expect_good(const Problem& problem, Change change) {
  Arrays arrays(problem);
  change(arrays.call);
  EXPECT_NO_THROW(check_attention(kWhere, arrays.call));
}

// Good calls

TEST(CheckAttention, TakesEveryDTypeOfACache) {
  const auto nothing = [](AttentionCall&) {};
  for (const DType dtype : {DType::float32, DType::float16, DType::bfloat16, DType::float8_e4m3,
                            DType::float8_e5m2, DType::int8, DType::int4}) {
    for (const DType q : {DType::float32, DType::float16, DType::bfloat16}) {
      expect_good(of(dtype, q), nothing);
    }
  }
  expect_good(of(DType::float64, DType::float64), nothing);
  expect_good(mla(), nothing);
}

TEST(CheckAttention, TakesCallsOfNothing) {
  expect_good(mixed(), [](AttentionCall& call) {
    call.num_seqs = 0;
    call.q.num_tokens = call.out.num_tokens = 0;
    call.q.data = call.out.data = nullptr;
    call.query_start_loc = nullptr;
    call.block_tables = call.seq_lens = nullptr;
  });
  expect_good(mixed(), [](AttentionCall& call) { call.lse = nullptr; });
  expect_good(mixed(), [](AttentionCall& call) { call.out.num_tokens = call.q.num_tokens = 7; });
}

TEST(CheckAttention, TakesSequencesThatHaveNothingNewWhateverTheirBlocks) {
  std::vector<std::int32_t> lens = {37, std::int32_t{kInt32Max}, 40, 1};
  expect_good(mixed(), [&](AttentionCall& call) { call.seq_lens = lens.data(); });
}

TEST(CheckAttention, LooksOnlyAtBlocksOfTokensThatAreSeen) {
  // Blocks of 16: the last query sees tokens 17 to 36, and the first 2.
  std::vector<std::int32_t> table = {0, 1, 2, 99};
  Problem p;
  p.seq_lens = {37};
  p.query_lens = {1};
  const auto change = [&](AttentionCall& call) {
    call.block_tables = table.data();
    call.max_blocks = call.block_table_stride = 4;
    call.window = 4;
  };
  expect_good(p, change);
  table = {-1, -7, 2, 99};
  expect_good(p, change);
  expect_refused<InvalidSlotError>(
      p,
      [&](AttentionCall& call) {
        change(call);
        call.sink_tokens = 1;
      },
      "block id -1 of sequence 0, block 0", "less than");
}

// Arrays

TEST(CheckAttention, RefusesCachesWithoutDataOrSize) {
  const auto size = "data, and heads, slots and head_dim of at least 1";
  expect_refused(
      mixed(), [](AttentionCall& c) { c.k_cache.data = nullptr; },
      "k_cache [9, 2, 16, 64] of float32 without data", size);
  expect_refused(mixed(), [](AttentionCall& c) { c.v_cache.num_blocks = -1; }, "v_cache [-1", size);
  expect_refused(mixed(), [](AttentionCall& c) { c.k_cache.num_heads = 0; }, "k_cache", size);
  expect_refused(mixed(), [](AttentionCall& c) { c.k_cache.block_size = 0; }, "k_cache", size);
  expect_refused(mixed(), [](AttentionCall& c) { c.v_cache.head_dim = 0; }, "v_cache", size);
  expect_refused(
      mixed(), [](AttentionCall& c) { c.k_cache.num_blocks = std::int64_t{1} << 60; },
      "a size beyond", "dimensions that an array can have");
}

TEST(CheckAttention, RefusesInt4OfAnOddHeadDim) {
  expect_refused(
      of(DType::int4), [](AttentionCall& c) { c.k_cache.head_dim = 63; },
      "k_cache [9, 2, 16, 63] of int4", "an even head_dim");
}

TEST(CheckAttention, RefusesRowsWithoutDataOrSize) {
  const auto size = "data, and heads and head_dim of at least 1";
  expect_refused(
      mixed(), [](AttentionCall& c) { c.q.data = nullptr; }, "q [7, 8, 64] of float32 without data",
      size);
  expect_refused(mixed(), [](AttentionCall& c) { c.out.num_tokens = -1; }, "out [-1, 8, 64]", size);
  expect_refused(mixed(), [](AttentionCall& c) { c.q.num_heads = 0; }, "q [7, 0, 64]", size);
  expect_refused(mixed(), [](AttentionCall& c) { c.out.head_dim = 0; }, "out [7, 8, 0]", size);
}

TEST(CheckAttention, RefusesElementsThatAreNotAligned) {
  const auto aligned = "an address and strides that are multiples of that";
  expect_refused(
      mixed(), [](AttentionCall& c) { c.q.data += 2; },
      "q with elements of 4 bytes that are not aligned", aligned);
  expect_refused(mixed(), [](AttentionCall& c) { c.out.head_stride += 1; }, "out", aligned);
  expect_refused(
      mixed(), [](AttentionCall& c) { c.q.token_stride = -256; }, "a negative stride", aligned);
  expect_refused(mixed(), [](AttentionCall& c) { c.k_cache.data += 1; }, "k_cache", aligned);
  expect_refused(
      mixed(), [](AttentionCall& c) { c.v_cache.block_stride += 2; }, "v_cache", aligned);
  expect_refused(mixed(), [](AttentionCall& c) { c.k_cache.head_stride = -4; }, "k_cache", aligned);
  expect_refused(
      mixed(), [](AttentionCall& c) { c.k_cache.token_stride += 3; }, "k_cache", aligned);
  // Elements of a byte or less lie anywhere.
  expect_good(of(DType::int8), [](AttentionCall& c) { ++c.k_cache.token_stride; });
}

TEST(CheckAttention, RefusesCachesOfDifferentBlocks) {
  const auto blocks = "9 blocks of 2 heads and 16 slots of float32";
  expect_refused(
      mixed(), [](AttentionCall& c) { c.v_cache.num_blocks = 7; }, "v_cache of 7 blocks", blocks);
  expect_refused(mixed(), [](AttentionCall& c) { c.v_cache.num_heads = 1; }, "of 1 heads", blocks);
  expect_refused(mixed(), [](AttentionCall& c) { c.v_cache.block_size = 8; }, "8 slots", blocks);
  expect_refused(
      mixed(), [](AttentionCall& c) { c.v_cache.dtype = DType::float16; }, "slots of float16",
      blocks);
}

TEST(CheckAttention, RefusesHeadDimsThatNoKernelHas) {
  const auto range = "a multiple of 8 from 8 to 512";
  for (const std::int64_t size : {4, 60, 520, 1024}) {
    expect_refused(
        mixed(), [&](AttentionCall& c) { c.k_cache.head_dim = size; },
        "k_cache with a head_dim of " + std::to_string(size), range);
    expect_refused(
        mixed(), [&](AttentionCall& c) { c.v_cache.head_dim = size; },
        "v_cache with a head_dim of " + std::to_string(size), range);
  }
  expect_refused(
      mixed(), [](AttentionCall& c) { c.q.head_dim = 32; }, "q with a head_dim of 32", "64");
}

TEST(CheckAttention, RefusesDTypesThatDoNotGoTogether) {
  expect_refused(
      mixed(), [](AttentionCall& c) { c.k_cache.dtype = c.v_cache.dtype = DType::int32; },
      "k_cache of int32", "a dtype that is stored");
  const auto narrow = "float32, float16 or bfloat16";
  expect_refused(
      of(DType::float64, DType::float64), [](AttentionCall& c) { c.q.dtype = DType::float32; },
      "q of float32 for a cache of float64", "float64");
  expect_refused(
      of(DType::float32), [](AttentionCall& c) { c.q.dtype = c.out.dtype = DType::float64; },
      "q of float64 for a cache of float32", narrow);
  expect_refused(
      of(DType::int8), [](AttentionCall& c) { c.q.dtype = DType::int8; },
      "q of int8 for a cache of int8", narrow);
  expect_refused(
      mixed(), [](AttentionCall& c) { c.out.dtype = DType::float16; }, "out of float16", "float32");
}

TEST(CheckAttention, RefusesHeadsThatAreNoGroups) {
  const auto ratio = "1 to 64 times as many";
  expect_refused(
      mixed(), [](AttentionCall& c) { c.q.num_heads = 7; },
      "7 query heads for 2 heads of keys and values", ratio);
  expect_refused(mixed(), [](AttentionCall& c) { c.q.num_heads = 1; }, "1 query heads", ratio);
  Problem wide = mixed();
  wide.group = 64;
  expect_good(wide, [](AttentionCall&) {});
  expect_refused(
      wide, [](AttentionCall& c) { c.q.num_heads = 130; }, "130 query heads for 2", ratio);
}

TEST(CheckAttention, RefusesOutputsOfAnotherShape) {
  expect_refused(
      mixed(), [](AttentionCall& c) { c.out.num_tokens = 6; }, "out with tokens of 6", "7");
  expect_refused(
      mixed(), [](AttentionCall& c) { c.out.num_heads = 4; }, "out with heads of 4", "8");
  expect_refused(
      mixed(), [](AttentionCall& c) { c.out.head_dim = 56; }, "out with a head_dim of 56", "64");
}

// MLA

TEST(CheckAttention, RefusesKeysInTwoPartsOfFloat64) {
  Problem p = mla(DType::float64);
  p.query_dtype = DType::float64;
  Arrays arrays(p);
  expect_error<UnsupportedError>([&] { check_attention(kWhere, arrays.call); }, kWhere,
                                 "keys in two parts of float64", "another dtype");
}

TEST(CheckAttention, RefusesASecondPartThatDoesNotFitTheFirst) {
  expect_refused(
      mla(), [](AttentionCall& c) { c.k_rope_cache.data = nullptr; }, "kpe_cache", "data");
  expect_refused(
      mla(), [](AttentionCall& c) { c.k_rope_cache.token_stride += 1; },
      "kpe_cache with elements of 2 bytes", "multiples of that");
  expect_refused(mla(), [](AttentionCall& c) { c.q_rope.data = nullptr; }, "q_pe", "data");
  expect_refused(
      mla(), [](AttentionCall& c) { c.q_rope.head_stride += 2; }, "q_pe with elements of 4 bytes",
      "multiples of that");
  expect_refused(
      mla(), [](AttentionCall& c) { c.k_rope_cache.head_dim = 12; },
      "kpe_cache with a head_dim of 12", "a multiple of 8");
  expect_refused(
      mla(), [](AttentionCall& c) { c.k_rope_cache.num_blocks -= 1; }, "kpe_cache of",
      "blocks of 1 heads");
  expect_refused(
      mla(), [](AttentionCall& c) { c.q_rope.head_dim = 24; }, "q_pe with a head_dim of 24", "32");
  expect_refused(
      mla(), [](AttentionCall& c) { c.q_rope.num_tokens = 6; }, "q_pe with tokens of 6", "7");
  expect_refused(
      mla(), [](AttentionCall& c) { c.q_rope.num_heads = 8; }, "q_pe with heads of 8", "16");
  expect_refused(
      mla(), [](AttentionCall& c) { c.q_rope.dtype = DType::bfloat16; }, "q_pe of bfloat16",
      "float32");
}

TEST(CheckAttention, RefusesMlaValuesThatAreNotTheFirstPartOfTheKeys) {
  const auto first = "one head, whose values are";
  expect_refused(
      mla(), [](AttentionCall& c) { c.v_cache.data += 2; },
      "values that are not the first part of the keys", first);
  expect_refused(mla(), [](AttentionCall& c) { c.v_cache.token_stride += 2; }, "values", first);
  expect_refused(mla(), [](AttentionCall& c) { c.v_cache.block_stride += 2; }, "values", first);
  expect_refused(
      mla(), [](AttentionCall& c) { c.v_cache.head_dim = c.out.head_dim = 72; }, "values", first);
  expect_good(mla(), [](AttentionCall& c) { c.v_cache.head_dim = c.out.head_dim = 56; });
}

// Options

TEST(CheckAttention, RefusesNumbersOutOfRange) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const double scale : {nan, static_cast<double>(INFINITY), 1e39}) {
    expect_refused(
        mixed(), [&](AttentionCall& c) { c.scale = scale; }, "scale is ", "a finite number");
  }
  for (const float softcap : {NAN, INFINITY, -1.0F}) {
    expect_refused(
        mixed(), [&](AttentionCall& c) { c.softcap = softcap; }, "softcap is ",
        "a finite number above 0, or 0 for none");
  }
  for (const std::int64_t window : {std::int64_t{-1}, kInt32Max + 1}) {
    expect_refused(
        mixed(), [&](AttentionCall& c) { c.window = window; },
        "window is " + std::to_string(window), "1 to 2^31 - 1, or 0 for none");
  }
  expect_refused(
      mixed(), [](AttentionCall& c) { c.sink_tokens = -1; }, "sink_tokens is -1", "0 or more");
  expect_good(mixed(), [](AttentionCall& c) {
    c.scale = -1e38;
    c.window = kInt32Max;
    c.sink_tokens = std::numeric_limits<std::int64_t>::max();
  });
  expect_good(of(DType::float64, DType::float64), [](AttentionCall& c) { c.scale = 1e300; });
}

// Sequences

TEST(CheckAttention, RefusesANegativeNumberOfSequencesOrBlocks) {
  expect_refused(mixed(), [](AttentionCall& c) { c.num_seqs = -1; }, "num_seqs is -1", "0 or more");
  expect_refused(
      mixed(), [](AttentionCall& c) { c.max_blocks = -2; }, "max_blocks -2", "0 or more");
}

TEST(CheckAttention, RefusesQueriesThatAreNotOneASequence) {
  expect_refused(
      mixed(), [](AttentionCall& c) { c.query_start_loc = nullptr; }, "q with tokens of 7", "4");
}

TEST(CheckAttention, RefusesStartsThatDoNotCoverTheQueries) {
  const std::vector<std::vector<std::int32_t>> wrong = {
      {1, 1, 1, 6, 7}, {0, 1, 1, 6, 8}, {0, 1, 1, 5, 6}, {-1, 1, 1, 6, 7}};
  for (const auto& starts : wrong) {
    expect_refused(
        mixed(), [&](AttentionCall& c) { c.query_start_loc = starts.data(); },
        "query_start_loc from " + std::to_string(starts[0]) + " to " + std::to_string(starts[4]),
        "from 0 to 7, the tokens of q");
  }
  const std::vector<std::int32_t> falls = {0, 3, 2, 6, 7};
  expect_refused(
      mixed(), [&](AttentionCall& c) { c.query_start_loc = falls.data(); },
      "query_start_loc that falls after sequence 1", "one that never does");
}

TEST(CheckAttention, RefusesLengthsThatAreNoLengths) {
  const auto more = "0, or as many or more";
  const std::vector<std::int32_t> negative = {37, 0, -1, 1}, short_of = {37, 0, 4, 1};
  expect_refused(
      mixed(), [&](AttentionCall& c) { c.seq_lens = negative.data(); },
      "seq_lens[2] is -1 for 5 new tokens", more);
  expect_refused(
      mixed(), [&](AttentionCall& c) { c.seq_lens = short_of.data(); },
      "seq_lens[2] is 4 for 5 new tokens", more);
  const std::vector<std::int32_t> nothing = {37, 0, 0, 1};
  expect_good(mixed(), [&](AttentionCall& c) { c.seq_lens = nothing.data(); });
}

TEST(CheckAttention, RefusesLengthsBeyondTheBlockTable) {
  const std::vector<std::int32_t> lens = {49, 0, 40, 1};
  expect_refused(
      mixed(), [&](AttentionCall& c) { c.seq_lens = lens.data(); },
      "seq_lens[0] is 49, which takes 4 blocks", "at most 3, the width of block_tables");
  const std::vector<std::int32_t> most = {std::int32_t{kInt32Max}, 0, 40, 1};
  expect_refused(
      mixed(), [&](AttentionCall& c) { c.seq_lens = most.data(); }, "takes 134217728 blocks",
      "at most 3");
}

TEST(CheckAttention, RefusesATreeMaskThatIsTooNarrow) {
  Problem p = mixed();
  p.tree = true;
  expect_refused(
      p, [](AttentionCall& c) { c.tree_mask_stride = 4; },
      "tree_mask of 4 columns for 5 new tokens", "one a token");
}

TEST(CheckAttention, RefusesIdsOfNoBlock) {
  const std::vector<std::int32_t> good = {0, 1, 2, 99, 99, 99, 3, 4, 5, 6, 99, 99};
  expect_good(mixed(), [&](AttentionCall& c) { c.block_tables = good.data(); });
  for (const std::int32_t id : {-1, 9, std::int32_t{kInt32Max}, INT32_MIN}) {
    std::vector<std::int32_t> table = good;
    table[8] = id;
    const auto error = expect_refused<InvalidSlotError>(
        mixed(), [&](AttentionCall& c) { c.block_tables = table.data(); },
        "block id " + std::to_string(id) + " of sequence 2, block 2, is out of range",
        "0 or more and less than 9");
    EXPECT_EQ(error.slot(), static_cast<std::uint64_t>(id));
  }
}

// Memory

TEST(CheckAttention, RefusesResultsThatShareMemory) {
  const auto apart = "what is written to lie apart from all else";
  expect_refused(
      mixed(), [](AttentionCall& c) { c.out.data = c.q.data; }, "out shares memory with q", apart);
  expect_refused(
      mixed(), [](AttentionCall& c) { c.out.data = c.k_cache.data + 512; },
      "out shares memory with k_cache", apart);
  expect_refused(
      mixed(), [](AttentionCall& c) { c.out.data = c.v_cache.data; },
      "out shares memory with v_cache", apart);
  expect_refused(
      mixed(), [](AttentionCall& c) { c.out.token_stride = 0; }, "out shares memory with itself",
      apart);
  expect_refused(
      mixed(), [](AttentionCall& c) { c.out.head_stride = 128; }, "out shares memory with itself",
      apart);
  expect_refused(
      mixed(), [](AttentionCall& c) { c.lse = reinterpret_cast<float*>(c.out.data); },
      "lse shares memory with out", apart);
  expect_refused(
      mixed(), [](AttentionCall& c) { c.lse = reinterpret_cast<float*>(c.q.data) + 9; },
      "lse shares memory with q", apart);
  Problem quantised = of(DType::int8);
  quantised.scales = 2;
  expect_refused(
      quantised, [](AttentionCall& c) { c.lse = c.k_scale.data; }, "lse shares memory with k_scale",
      apart);
  expect_refused(
      quantised, [](AttentionCall& c) { c.v_scale.data = reinterpret_cast<float*>(c.out.data); },
      "out shares memory with v_scale", apart);
  expect_refused(
      mla(), [](AttentionCall& c) { c.lse = reinterpret_cast<float*>(c.k_rope_cache.data); },
      "lse shares memory with kpe_cache", apart);
  expect_refused(
      mla(), [](AttentionCall& c) { c.lse = reinterpret_cast<float*>(c.q_rope.data); },
      "lse shares memory with q_pe", apart);
}

}  // namespace
