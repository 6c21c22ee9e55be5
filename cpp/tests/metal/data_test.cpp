// Keys and values on Metal get to where they should, and nothing else changes.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "cpp/tests/expect_error.hpp"
#include "cpp/tests/metal/test_queue.hpp"
#include "cpp/tests/operations/ops_caches.hpp"
#include "metal/operations.hpp"

namespace {

using namespace pagedkv;
using namespace pagedkv_test;

constexpr DType kFloats[] = {DType::float32, DType::float16, DType::bfloat16};
constexpr std::int64_t kHeads = 3;

/// A row as another type has it.
void expect_row(DType from, const std::byte* row, DType to, const std::byte* got,
                std::int64_t size) {
  for (std::int64_t i = 0; i < size; ++i) {
    const double expected = quantized(from, to, element(from, row, i), 1);
    ASSERT_TRUE(same_value(to, element(to, got, i), expected))
        << dtype_name(from) << " " << element(from, row, i) << " as " << dtype_name(to) << " is "
        << element(to, got, i);
  }
}

/// All rows of the cache but those of `slots` are as before.
void expect_unwritten(const TestCache& cache, const std::vector<std::int64_t>& slots) {
  for (std::int64_t slot = 0; slot < cache.view.num_blocks * cache.view.block_size; ++slot) {
    if (std::ranges::count(slots, slot) != 0) continue;
    for (std::int64_t head = 0; head < kHeads; ++head) {
      ASSERT_EQ(
          std::memcmp(cache.row(slot, head), cache.row_before(slot, head), cache.view.row_bytes()),
          0)
          << "slot " << slot;
    }
  }
}

using Shape = std::tuple<Layout, std::int64_t, std::int64_t>;
class MetalData : public testing::TestWithParam<Shape> {};

INSTANTIATE_TEST_SUITE_P(Shapes, MetalData,
                         testing::Combine(testing::Values(Layout::hnd, Layout::nhd),
                                          testing::Values(1, 16), testing::Values(2, 12, 64)),
                         [](const auto& shape) {
                           return std::string(layout_name(std::get<0>(shape.param))) +
                                  "_blocks_of_" + std::to_string(std::get<1>(shape.param)) +
                                  "_dim_" + std::to_string(std::get<2>(shape.param));
                         });

TEST_P(MetalData, WritePutsRowsIntoTheirSlots) {
  const auto [layout, block_size, dim] = GetParam();
  std::mt19937_64 random(1);
  const std::int64_t num_blocks = 24 / block_size + 1, n = 11;
  for (const DType to : kFloats) {
    for (const DType from : kFloats) {
      TestRows k(from, n, kHeads, dim, Values::any_bits, random);
      TestRows v(from, n, kHeads, dim / 2, Values::ordinary, random, true);
      TestCache k_cache(to, num_blocks, kHeads, block_size, dim, layout, Values::any_bits, random);
      TestCache v_cache(to, num_blocks, kHeads, block_size, dim / 2, layout, Values::any_bits,
                        random);
      std::vector<std::int64_t> slots = random_slots(num_blocks * block_size, n, random);
      slots[3] = -1;
      TestQueue queue;
      metal::write_kv({k.view, v.view, k_cache.view, v_cache.view, {}, {}, slots.data()}, queue);
      metal::check(queue, "test");
      for (std::size_t i = 0; i < slots.size(); ++i) {
        if (slots[i] < 0) continue;
        const auto token = static_cast<std::int64_t>(i);
        for (std::int64_t head = 0; head < kHeads; ++head) {
          const std::byte* got = k_cache.row(slots[i], head);
          if (from == to) {
            ASSERT_EQ(std::memcmp(got, k.view.row(token, head), k.view.row_bytes()), 0);
          }
          expect_row(from, k.view.row(token, head), to, got, dim);
          expect_row(from, v.view.row(token, head), to, v_cache.row(slots[i], head), dim / 2);
        }
      }
      expect_unwritten(k_cache, slots);
      expect_unwritten(v_cache, slots);
    }
  }
}

TEST_P(MetalData, GatherReadsTheTokensOfSequences) {
  const auto [layout, block_size, dim] = GetParam();
  std::mt19937_64 random(2);
  const std::vector<std::int32_t> lens{5, 0, 33, 1, 16, 0};
  const std::int64_t width = 33, num_blocks = 64, total = 55;
  std::vector<std::int32_t> tables(lens.size() * static_cast<std::size_t>(width), -1);
  std::vector<std::int64_t> blocks = random_slots(num_blocks, num_blocks, random);
  std::size_t used = 0;
  for (std::size_t s = 0; s < lens.size(); ++s) {
    for (std::int64_t i = 0; i * block_size < lens[s]; ++i) {
      tables[s * static_cast<std::size_t>(width) + static_cast<std::size_t>(i)] =
          static_cast<std::int32_t>(blocks[used++]);
    }
  }
  for (const DType from : kFloats) {
    for (const DType to : kFloats) {
      TestCache k_cache(from, num_blocks, kHeads, block_size, dim, layout, Values::ordinary,
                        random);
      TestCache v_cache(from, num_blocks, kHeads, block_size, dim, layout, Values::ordinary,
                        random);
      TestRows k(to, total + 2, kHeads, dim, Values::ordinary, random);
      TestRows v(to, total + 2, kHeads, dim, Values::ordinary, random);
      const auto k_before = k.bytes;
      GatherKvCall call;
      call.k_cache = k_cache.view;
      call.v_cache = v_cache.view;
      call.block_tables = tables.data();
      call.block_table_stride = call.max_blocks = width;
      call.seq_lens = lens.data();
      call.num_seqs = static_cast<std::int64_t>(lens.size());
      call.k = k.view;
      call.v = v.view;
      TestQueue queue;
      metal::gather_kv(call, queue);
      metal::check(queue, "test");
      std::int64_t row = 0;
      for (std::size_t s = 0; s < lens.size(); ++s) {
        for (std::int64_t j = 0; j < lens[s]; ++j, ++row) {
          const auto entry = s * static_cast<std::size_t>(width);
          const std::int64_t block = tables[entry + static_cast<std::size_t>(j / block_size)];
          for (std::int64_t head = 0; head < kHeads; ++head) {
            expect_row(from, k_cache.view.row(block, head, j % block_size), to,
                       k.view.row(row, head), dim);
            expect_row(from, v_cache.view.row(block, head, j % block_size), to,
                       v.view.row(row, head), dim);
          }
        }
      }
      EXPECT_TRUE(std::equal(k_before.begin() + total * k.view.token_stride, k_before.end(),
                             k.bytes.begin() + total * k.view.token_stride));
      call.k.num_tokens = call.v.num_tokens = total - 1;
      metal::gather_kv(call, queue);
      expect_error<ShapeError>([&] { metal::check(queue, "test"); }, "test", "lengths", "seq_lens");
    }
  }
}

TEST_P(MetalData, CopiesAreAsIfOnePairAfterTheOther) {
  const auto [layout, block_size, dim] = GetParam();
  std::mt19937_64 random(3);
  for (const DType dtype : {DType::float16, DType::float64, DType::int8}) {
    for (const bool on_device : {false, true}) {
      for (const bool dependent : {false, true}) {
        TestCache cache(dtype, 8, kHeads, block_size, dim, layout, Values::any_bits, random);
        std::vector<std::int64_t> pairs{0, 4, 1, 5, 2, 2};
        if (dependent) pairs.insert(pairs.end(), {4, 6, 5, 4, 7, 0});
        const auto count = static_cast<std::int64_t>(pairs.size() / 2);
        std::vector<std::byte> expected = cache.before;
        const auto at = [&](std::int64_t block, std::int64_t head, std::int64_t slot) {
          return expected.data() + (cache.view.row(block, head, slot) - cache.bytes.data());
        };
        for (std::size_t i = 0; i < pairs.size(); i += 2) {
          for (std::int64_t head = 0; head < kHeads; ++head) {
            for (std::int64_t slot = 0; slot < block_size; ++slot) {
              std::memmove(at(pairs[i + 1], head, slot), at(pairs[i], head, slot),
                           cache.view.row_bytes());
            }
          }
        }
        TestQueue queue;
        const CacheView caches[] = {cache.view};
        metal::copy_blocks(caches, {pairs.data(), count, on_device}, queue);
        metal::check(queue, "test");
        EXPECT_EQ(cache.bytes, expected);
      }
    }
  }
}

TEST_P(MetalData, MovesOfSlotsAreAsIfOneAfterTheOther) {
  const auto [layout, block_size, dim] = GetParam();
  std::mt19937_64 random(4);
  TestCache k(DType::bfloat16, 32 / block_size, kHeads, block_size, dim, layout, Values::any_bits,
              random);
  TestCache v(DType::bfloat16, 32 / block_size, kHeads, block_size, dim, layout, Values::any_bits,
              random);
  const std::vector<std::int64_t> pairs{3, 17, 17, 30, 9, 3, 31, 9};
  const std::vector<std::pair<std::int64_t, std::int64_t>> ends{{17, 3}, {30, 3}, {3, 9}, {9, 31}};
  TestQueue queue;
  const CacheView caches[] = {k.view, v.view};
  metal::move_slots(caches, {pairs.data(), 4, false}, queue);
  for (const TestCache* cache : {&k, &v}) {
    std::vector<std::int64_t> written;
    for (const auto& [to, from] : ends) {
      for (std::int64_t head = 0; head < kHeads; ++head) {
        EXPECT_EQ(std::memcmp(cache->row(to, head), cache->row_before(from, head),
                              cache->view.row_bytes()),
                  0);
      }
      written.push_back(to);
    }
    expect_unwritten(*cache, written);
  }
}

TEST_P(MetalData, SwapsReachAnotherPoolOnTheDeviceAndOnTheHost) {
  const auto [layout, block_size, dim] = GetParam();
  std::mt19937_64 random(5);
  for (const bool on_device : {false, true}) {
    TestCache source(DType::float32, 5, kHeads, block_size, dim, layout, Values::any_bits, random);
    TestCache target(DType::float32, 9, kHeads, block_size, dim, Layout::nhd, Values::any_bits,
                     random);
    TestQueue queue;
    queue.owns_any = on_device;
    const IndexPair pairs[] = {{4, 8}, {0, 1}, {3, 1}};
    metal::swap_blocks(source.view, target.view, pairs, queue);
    EXPECT_EQ(queue.dispatched.size(), on_device ? 1U : 0U);
    EXPECT_EQ(queue.waits, on_device ? 0U : 1U);
    for (const auto& [from, to] : {IndexPair{4, 8}, IndexPair{3, 1}}) {
      for (std::int64_t head = 0; head < kHeads; ++head) {
        for (std::int64_t slot = 0; slot < block_size; ++slot) {
          EXPECT_EQ(std::memcmp(source.view.row(from, head, slot), target.view.row(to, head, slot),
                                source.view.row_bytes()),
                    0);
        }
      }
    }
  }
}

TEST(MetalData, WhatIsOutOfRangeIsLeftOutAndTold) {
  std::mt19937_64 random(6);
  TestQueue queue;
  const auto expect_told = [&] {
    expect_error<InvalidSlotError>([&] { metal::check(queue, "test"); }, "test", "a slot",
                                   "arrays");
  };
  TestCache cache(DType::float32, 4, kHeads, 2, 8, Layout::hnd, Values::ordinary, random);
  TestCache other(DType::float32, 4, kHeads, 2, 8, Layout::hnd, Values::ordinary, random);
  TestRows rows(DType::float32, 3, kHeads, 8, Values::ordinary, random);
  const std::vector<std::int64_t> slots{8, -2, std::numeric_limits<std::int64_t>::max()};
  metal::write_kv({rows.view, rows.view, cache.view, other.view, {}, {}, slots.data()}, queue);
  expect_told();
  const std::vector<std::int64_t> pairs{0, 4, -1, 2, 100, 1};
  const CacheView caches[] = {cache.view};
  metal::copy_blocks(caches, {pairs.data(), 3, true}, queue);
  expect_told();
  expect_error<InvalidSlotError>(
      [&] { metal::copy_blocks(caches, {pairs.data(), 3, false}, queue); }, "metal.copy_blocks",
      "block 4", "0 to 3");
  const std::vector<std::int64_t> moves{0, 8, -1, 2, 100, 1};
  metal::move_slots(caches, {moves.data(), 3, true}, queue);
  expect_told();
  EXPECT_TRUE(cache.unchanged());

  const std::vector<std::int32_t> tables{1, 7, 2, -1}, lens{3, 3};
  const auto before = rows.bytes;
  TestRows into(DType::float32, 6, kHeads, 8, Values::ordinary, random);
  TestRows values(DType::float32, 6, kHeads, 8, Values::ordinary, random);
  GatherKvCall call{cache.view, other.view,  {}, {},        tables.data(), 2,
                    2,          lens.data(), 2,  into.view, values.view};
  metal::gather_kv(call, queue);
  expect_told();
  const std::vector<std::int32_t> bad{-3, 1000};
  call.seq_lens = bad.data();
  metal::gather_kv(call, queue);
  expect_error<ShapeError>([&] { metal::check(queue, "test"); }, "test", "lengths", "seq_lens");
  EXPECT_EQ(rows.bytes, before);
}

TEST(MetalData, DTypesThatMetalDoesNotComputeWithAreRefused) {
  std::mt19937_64 random(7);
  const std::vector<std::int64_t> slots{0};
  for (const DType dtype : {DType::float64, DType::int8, DType::int4, DType::float8_e5m2}) {
    TestCache k(dtype, 4, kHeads, 2, 8, Layout::hnd, Values::ordinary, random);
    TestCache v(dtype, 4, kHeads, 2, 8, Layout::hnd, Values::ordinary, random);
    TestRows rows(DType::float32, 1, kHeads, 8, Values::ordinary, random);
    TestQueue queue;
    expect_error<UnsupportedError>(
        [&] {
          metal::write_kv({rows.view, rows.view, k.view, v.view, {}, {}, slots.data()}, queue);
        },
        "metal.write_kv", dtype_name(dtype), "float32, float16 or bfloat16");
    EXPECT_TRUE(queue.dispatched.empty());
  }
}

struct MergeCase {
  DType dtype;
  bool in_place;
};
class MetalMerge : public testing::TestWithParam<MergeCase> {};
INSTANTIATE_TEST_SUITE_P(DTypes, MetalMerge,
                         testing::Values(MergeCase{DType::float32, false},
                                         MergeCase{DType::float16, true},
                                         MergeCase{DType::bfloat16, false}),
                         [](const auto& c) { return std::string(dtype_name(c.param.dtype)); });

TEST_P(MetalMerge, IsTheWeightedSum) {
  const auto [dtype, in_place] = GetParam();
  constexpr std::int64_t tokens = 6, heads = 11, dim = 40;
  constexpr float nothing = -std::numeric_limits<float>::infinity();
  std::mt19937_64 random(8);
  TestRows a(dtype, tokens, heads, dim, Values::ordinary, random);
  TestRows b(dtype, tokens, heads, dim, Values::ordinary, random, true);
  TestRows o(dtype, tokens, heads, dim, Values::ordinary, random);
  std::vector<float> lse_a, lse_b, lse(tokens * heads);
  std::normal_distribution<float> normal(0, 5);
  for (std::int64_t i = 0; i < tokens * heads; ++i) {
    lse_a.push_back(i % 7 == 0 ? nothing : normal(random));
    lse_b.push_back(i % 5 == 0 ? nothing : normal(random));
    // What is not read may hold anything.
    if (i % 7 == 0) std::memset(a.view.row(i / heads, i % heads), 0xff, a.view.row_bytes());
  }
  const std::vector<std::byte> a_before = a.bytes;
  MergeStatesCall call;
  call.o_a = a.view;
  call.o_b = b.view;
  call.o = in_place ? a.view : o.view;
  call.lse_a = {lse_a.data(), heads, 1};
  call.lse_b = {lse_b.data(), heads, 1};
  const std::vector<float> lse_a_before = lse_a;
  call.lse = in_place ? call.lse_a : LseView{lse.data(), heads, 1};
  TestQueue queue;
  metal::merge_attention_states(call, queue);
  for (std::int64_t token = 0; token < tokens; ++token) {
    for (std::int64_t head = 0; head < heads; ++head) {
      const auto at = static_cast<std::size_t>(token * heads + head);
      const auto x = static_cast<double>(lse_a_before[at]), y = static_cast<double>(lse_b[at]);
      const double wx = std::exp(x), wy = std::exp(y), sum = wx + wy;
      const auto got = static_cast<double>(call.lse.at(token, head));
      if (sum == 0) {
        EXPECT_EQ(got, x);
      } else {
        EXPECT_NEAR(got, std::log(sum), 1e-6 + 1e-6 * std::abs(got));
      }
      const std::byte* row_a = a_before.data() + (a.view.row(token, head) - a.bytes.data());
      for (std::int64_t i = 0; i < dim; ++i) {
        const double from_a = wx == 0 ? 0 : wx * element(dtype, row_a, i);
        const double from_b = wy == 0 ? 0 : wy * element(dtype, b.view.row(token, head), i);
        const double expected = sum == 0 ? 0 : (from_a + from_b) / sum;
        const double scale = sum == 0 ? 0 : (std::abs(from_a) + std::abs(from_b)) / sum;
        const double step = dtype == DType::float32 ? 1e-6 : dtype == DType::float16 ? 1e-3 : 1e-2;
        EXPECT_NEAR(element(dtype, call.o.row(token, head), i), expected, step * scale);
      }
    }
  }
}

}  // namespace
