// gather_kv: what a sequence has in its blocks comes out dense, raw or as floats.

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "../expect_error.hpp"
#include "ops_caches.hpp"
#include "ops_kernels.hpp"
#include "pagedkv/cpu/gather_kv.hpp"

namespace {

using namespace pagedkv;
using namespace pagedkv::cpu;
using namespace pagedkv_test;

/// Sequences over a shuffled pool.
struct Sequences {
  Sequences(std::vector<std::int32_t> lengths, std::int64_t block_size, std::mt19937_64& random)
      : lens(std::move(lengths)) {
    for (const std::int32_t length : lens) {
      max_blocks = std::max(max_blocks, (length + block_size - 1) / block_size);
      tokens += length;
      num_blocks += (length + block_size - 1) / block_size;
    }
    num_blocks += 2;
    const auto ids = random_slots(num_blocks, num_blocks, random);
    stride = max_blocks + 3;
    // What a table holds behind the blocks of its sequence is never read.
    tables.assign(lens.size() * static_cast<std::size_t>(stride), -77);
    std::size_t next = 0;
    for (std::size_t seq = 0; seq < lens.size(); ++seq) {
      for (std::int64_t i = 0; i * block_size < lens[seq]; ++i) {
        tables[seq * static_cast<std::size_t>(stride) + static_cast<std::size_t>(i)] =
            static_cast<std::int32_t>(ids[next++]);
      }
    }
  }

  void put_into(GatherKvCall& call) const {
    call.block_tables = tables.data();
    call.block_table_stride = stride;
    call.max_blocks = max_blocks;
    call.seq_lens = lens.data();
    call.num_seqs = static_cast<std::int64_t>(lens.size());
  }

  /// Calls `f(token, slot)` for each token of each sequence.
  template <class F>
  void each(std::int64_t block_size, F f) const {
    std::int64_t token = 0;
    for (std::size_t seq = 0; seq < lens.size(); ++seq) {
      for (std::int64_t i = 0; i < lens[seq]; ++i, ++token) {
        const auto entry =
            seq * static_cast<std::size_t>(stride) + static_cast<std::size_t>(i / block_size);
        f(token, tables[entry] * block_size + i % block_size);
      }
    }
  }

  std::vector<std::int32_t> lens;
  std::vector<std::int32_t> tables;
  std::int64_t stride = 0, max_blocks = 0, num_blocks = 0, tokens = 0;
};

class GatherKv : public testing::TestWithParam<std::tuple<Layout, std::int64_t, std::int64_t>> {};

TEST_P(GatherKv, GivesEveryDTypeRawAndAsFloats) {
  const auto [layout, block_size, head_dim] = GetParam();
  std::mt19937_64 random(1);
  constexpr std::int64_t heads = 3;
  const Sequences sequences({5, 0, 9, 1}, block_size, random);
  SerialExecutor executor;
  for (const DType from : kCacheDTypes) {
    for (const DType to : kCacheDTypes) {
      if (from != to && std::ranges::count(kPlainFloats, to) == 0) continue;
      TestCache k_cache(from, sequences.num_blocks, heads, block_size, head_dim, layout,
                        Values::any_bits, random);
      TestCache v_cache(from, sequences.num_blocks, heads, block_size, head_dim / 2, layout,
                        Values::any_bits, random);
      TestRows k(to, sequences.tokens, heads, head_dim, Values::any_bits, random);
      TestRows v(to, sequences.tokens, heads, head_dim / 2, Values::any_bits, random, true);
      GatherKvCall call;
      sequences.put_into(call);
      call.k_cache = k_cache.view;
      call.v_cache = v_cache.view;
      call.k = k.view;
      call.v = v.view;
      gather_kv(call, executor, test_kernels());
      sequences.each(block_size, [&](std::int64_t token, std::int64_t slot) {
        for (std::int64_t head = 0; head < heads; ++head) {
          if (from == to) {
            ASSERT_EQ(
                std::memcmp(k.view.row(token, head), k_cache.row(slot, head), k.view.row_bytes()),
                0);
            ASSERT_EQ(
                std::memcmp(v.view.row(token, head), v_cache.row(slot, head), v.view.row_bytes()),
                0);
            continue;
          }
          for (std::int64_t i = 0; i < head_dim; ++i) {
            const double held = element(from, k_cache.row(slot, head), i);
            const double given = element(to, k.view.row(token, head), i);
            ASSERT_TRUE(same_value(to, given, dequantized(from, to, held, 1)) ||
                        (held == 0 && given == 0))
                << held << " of " << dtype_name(from) << " as " << dtype_name(to) << " is "
                << given;
          }
        }
      });
      if (HasFatalFailure()) return;
      EXPECT_TRUE(k_cache.unchanged() && v_cache.unchanged());
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, GatherKv,
                         testing::Combine(testing::Values(Layout::hnd, Layout::nhd),
                                          testing::Values(1, 8, 16, 256),
                                          testing::Values(64, 80, 128, 40)),
                         [](const auto& i) {
                           return std::string(layout_name(std::get<0>(i.param))) + "_blocks_of_" +
                                  std::to_string(std::get<1>(i.param)) + "_dim_" +
                                  std::to_string(std::get<2>(i.param));
                         });

TEST(GatherKv, MultipliesByScalesOfEachKind) {
  std::mt19937_64 random(2);
  constexpr std::int64_t heads = 2, dim = 40, block_size = 8;
  const Sequences sequences({30, 11}, block_size, random);
  std::vector<float> numbers(static_cast<std::size_t>(sequences.num_blocks * heads * block_size));
  for (float& x : numbers) x = 0.01F + static_cast<float>(random() % 1000) / 100;
  const ScaleView scales[] = {{nullptr, 0.3F, 0, 0, 0},
                              {numbers.data(), 1, heads, 1, 0},
                              {numbers.data(), 1, heads * block_size, block_size, 1}};
  for (const DType from : kQuantized) {
    for (const DType to : kPlainFloats) {
      for (const ScaleView& scale : scales) {
        TestCache cache(from, sequences.num_blocks, heads, block_size, dim, Layout::hnd,
                        Values::any_bits, random);
        TestRows k(to, sequences.tokens, heads, dim, Values::ordinary, random);
        TestRows v(to, sequences.tokens, heads, dim, Values::ordinary, random);
        GatherKvCall call;
        sequences.put_into(call);
        call.k_cache = call.v_cache = cache.view;
        call.k_scale = scale;
        call.k = k.view;
        call.v = v.view;
        ThreadPool executor(3);
        gather_kv(call, executor, test_kernels());
        sequences.each(block_size, [&](std::int64_t token, std::int64_t slot) {
          for (std::int64_t head = 0; head < heads; ++head) {
            const float by = scale.at(slot / block_size, head, slot % block_size);
            for (std::int64_t i = 0; i < dim; ++i) {
              const double held = element(from, cache.row(slot, head), i);
              const double expected = dequantized(from, to, held, by);
              const double given = element(to, k.view.row(token, head), i);
              ASSERT_TRUE(same_value(to, given, expected) || (given == 0 && expected == 0));
              const double plain = element(to, v.view.row(token, head), i);
              ASSERT_TRUE(same_value(to, plain, dequantized(from, to, held, 1)) || plain == 0);
            }
          }
        });
      }
    }
  }
}

TEST(GatherKv, GivesManyTokensFromThreeThreads) {
  std::mt19937_64 random(3);
  constexpr std::int64_t heads = 8, dim = 128, block_size = 16;
  const Sequences sequences({1500, 1, 0, 0, 300, 500}, block_size, random);
  for (const Layout layout : {Layout::hnd, Layout::nhd}) {
    TestCache cache(DType::float32, sequences.num_blocks, heads, block_size, dim, layout,
                    Values::any_bits, random);
    TestRows k(DType::float32, sequences.tokens, heads, dim, Values::any_bits, random, true);
    TestRows v(DType::float32, sequences.tokens, heads, dim, Values::any_bits, random);
    GatherKvCall call;
    sequences.put_into(call);
    call.k_cache = call.v_cache = cache.view;
    call.k = k.view;
    call.v = v.view;
    ThreadPool executor(3);
    gather_kv(call, executor, test_kernels());
    sequences.each(block_size, [&](std::int64_t token, std::int64_t slot) {
      for (std::int64_t head = 0; head < heads; ++head) {
        ASSERT_EQ(std::memcmp(k.view.row(token, head), cache.row(slot, head), dim * 4), 0);
        ASSERT_EQ(std::memcmp(v.view.row(token, head), cache.row(slot, head), dim * 4), 0);
      }
    });
  }
}

class GatherKvErrors : public testing::Test {
 protected:
  GatherKvErrors() { reset(); }
  void reset() {
    call = {};
    sequences.put_into(call);
    call.k_cache = call.v_cache = cache.view;
    call.k = k.view;
    call.v = v.view;
  }
  void expect_shape(std::string_view given, std::string_view expected) {
    expect_error<ShapeError>([&] { gather_kv(call, executor, test_kernels()); }, "cpu.gather_kv",
                             given, expected);
    EXPECT_EQ(k.bytes, before);
    reset();
  }

  std::mt19937_64 random{4};
  Sequences sequences{{5, 3}, 4, random};
  TestCache cache{DType::int8, sequences.num_blocks, 2,     4, 8,
                  Layout::hnd, Values::any_bits,     random};
  TestRows k{DType::int8, 8, 2, 8, Values::any_bits, random};
  TestRows v{DType::int8, 8, 2, 8, Values::any_bits, random};
  std::vector<std::byte> before = k.bytes;
  GatherKvCall call;
  SerialExecutor executor;
};

TEST_F(GatherKvErrors, ABlockOutsideTheCacheIsRefusedBeforeAnythingIsWritten) {
  for (const std::int32_t block :
       {-1, static_cast<std::int32_t>(sequences.num_blocks), std::numeric_limits<int>::max()}) {
    sequences.tables[static_cast<std::size_t>(sequences.stride)] = block;
    expect_error<InvalidSlotError>([&] { gather_kv(call, executor, test_kernels()); },
                                   "cpu.gather_kv", "block " + std::to_string(block) + " at 0",
                                   "0 to " + std::to_string(sequences.num_blocks - 1));
    EXPECT_EQ(k.bytes, before);
  }
}

TEST_F(GatherKvErrors, LengthsAndShapesThatDoNotFitAreRefused) {
  sequences.lens[1] = 9;
  expect_shape("sequence 1 of 9 tokens", "0 to 8");
  sequences.lens[1] = -1;
  expect_shape("sequence 1 of -1 tokens", "0 to 8");
  sequences.lens[1] = 4;
  expect_shape("k [8, 2, 8]", "[9, 2, 8]");
  sequences.lens[1] = 3;
  call.v.num_heads = 3;
  expect_shape("v [8, 3, 8]", "[8, 2, 8]");
  call.v.num_heads = 2;
  const std::int32_t* const tables = std::exchange(call.block_tables, nullptr);
  expect_shape("no block_tables", "a row a sequence");
  call.block_tables = tables;
  call.seq_lens = nullptr;
  expect_shape("no seq_lens", "one a sequence");
}

TEST_F(GatherKvErrors, DTypesAndScalesThatDoNotGoTogetherAreRefused) {
  call.k.dtype = DType::float8_e4m3;
  expect_shape("k of float8_e4m3 from a cache of int8", "or the dtype of the cache");
  call.v_scale.value = 2;
  expect_shape("v of int8 with a scale from a cache of int8", "becomes floats");
}

TEST_F(GatherKvErrors, MemoryThatIsSharedIsRefused) {
  call.k.data = cache.bytes.data();
  expect_shape("k shares memory with k_cache", "apart");
  call.v.data = call.k.data + 1;
  expect_shape("v shares memory with k", "apart");
}

}  // namespace
