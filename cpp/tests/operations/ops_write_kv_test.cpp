// write_kv: rows get to their slots, in every dtype, and nothing else changes.

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "../expect_error.hpp"
#include "ops_caches.hpp"
#include "ops_kernels.hpp"
#include "pagedkv/cpu/mla_write.hpp"
#include "pagedkv/cpu/write_kv.hpp"

namespace {

using namespace pagedkv;
using namespace pagedkv::cpu;
using namespace pagedkv_test;

/// Slot `slot` of `cache` holds what a write makes of row `token` of `rows`.
void expect_written(const RowsView& rows, std::int64_t token, const TestCache& cache,
                    std::int64_t slot, const ScaleView& scale = {}) {
  const CacheView& view = cache.view;
  for (std::int64_t head = 0; head < view.num_heads; ++head) {
    const std::byte* from = rows.row(token, head);
    const std::byte* to = cache.row(slot, head);
    if (rows.dtype == view.dtype) {
      ASSERT_EQ(std::memcmp(from, to, view.row_bytes()), 0) << "slot " << slot;
      continue;
    }
    const float by = scale.at(slot / view.block_size, head, slot % view.block_size);
    for (std::int64_t i = 0; i < view.head_dim; ++i) {
      const double expected = quantized(rows.dtype, view.dtype, element(rows.dtype, from, i), by);
      ASSERT_TRUE(same_value(view.dtype, element(view.dtype, to, i), expected))
          << dtype_name(rows.dtype) << " " << element(rows.dtype, from, i) << " / " << by << " as "
          << dtype_name(view.dtype) << " is " << element(view.dtype, to, i) << ", expected "
          << expected;
    }
  }
}

void expect_unwritten(const TestCache& cache, const std::vector<std::int64_t>& slots) {
  std::vector<bool> written(
      static_cast<std::size_t>(cache.view.num_blocks * cache.view.block_size));
  for (const std::int64_t slot : slots) {
    if (slot >= 0) written[static_cast<std::size_t>(slot)] = true;
  }
  for (std::size_t slot = 0; slot < written.size(); ++slot) {
    if (written[slot]) continue;
    for (std::int64_t head = 0; head < cache.view.num_heads; ++head) {
      const auto i = static_cast<std::int64_t>(slot);
      ASSERT_EQ(std::memcmp(cache.row(i, head), cache.row_before(i, head), cache.view.row_bytes()),
                0)
          << "slot " << slot << " was not to be written";
    }
  }
}

std::string named(const testing::TestParamInfo<std::tuple<Layout, std::int64_t, std::int64_t>>& i) {
  return std::string(layout_name(std::get<0>(i.param))) + "_blocks_of_" +
         std::to_string(std::get<1>(i.param)) + "_dim_" + std::to_string(std::get<2>(i.param));
}

class WriteKv : public testing::TestWithParam<std::tuple<Layout, std::int64_t, std::int64_t>> {};

TEST_P(WriteKv, PutsEveryDTypeIntoEveryOtherOne) {
  const auto [layout, block_size, head_dim] = GetParam();
  std::mt19937_64 random(1);
  ThreadPool executor(1);
  constexpr std::int64_t n = 11, heads = 3;
  const std::int64_t num_blocks = 24 / block_size + 1;
  for (const DType to : kCacheDTypes) {
    for (const DType from : kCacheDTypes) {
      if (from != to && std::ranges::count(kPlainFloats, from) == 0) continue;
      TestRows k(from, n, heads, head_dim, Values::any_bits, random);
      TestRows v(from, n, heads, head_dim / 2, Values::ordinary, random);
      TestCache k_cache(to, num_blocks, heads, block_size, head_dim, layout, Values::any_bits,
                        random);
      TestCache v_cache(to, num_blocks, heads, block_size, head_dim / 2, layout, Values::any_bits,
                        random);
      auto slots = random_slots(num_blocks * block_size, n, random);
      slots[3] = slots[7] = kNoSlot;
      write_kv({k.view, v.view, k_cache.view, v_cache.view, {}, {}, slots.data()}, executor,
               test_kernels());
      for (std::int64_t token = 0; token < n; ++token) {
        const std::int64_t slot = slots[static_cast<std::size_t>(token)];
        if (slot == kNoSlot) continue;
        expect_written(k.view, token, k_cache, slot);
        expect_written(v.view, token, v_cache, slot);
      }
      expect_unwritten(k_cache, slots);
      expect_unwritten(v_cache, slots);
      if (HasFatalFailure()) return;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, WriteKv,
                         testing::Combine(testing::Values(Layout::hnd, Layout::nhd),
                                          testing::Values(1, 8, 16, 256),
                                          testing::Values(64, 80, 128, 40)),
                         named);

/// Writes `values` as rows of 8 into one slot of a cache, and gives back what it then holds.
std::vector<double> written_as(DType from, DType to, const std::vector<double>& values,
                               float scale = 1) {
  std::vector<double> padded(values);
  padded.resize((values.size() + 7) / 8 * 8);
  const auto size = static_cast<std::int64_t>(padded.size());
  std::vector<std::byte> source(padded.size() * 8), target(padded.size() * 8), other(target);
  for (std::int64_t i = 0; i < size; ++i) {
    set_element(from, source.data(), i, padded[static_cast<std::size_t>(i)]);
  }
  const std::int64_t slot = 0;
  SerialExecutor executor;
  const RowsView rows = rows_view(source.data(), from, 1, 1, size);
  const ScaleView by{nullptr, scale, 0, 0, 0};
  write_kv({rows, rows, cache_view(target.data(), to, 1, 1, 1, size),
            cache_view(other.data(), to, 1, 1, 1, size), by, by, &slot},
           executor, test_kernels());
  std::vector<double> result;
  for (std::int64_t i = 0; i < static_cast<std::int64_t>(values.size()); ++i) {
    result.push_back(element(to, target.data(), i));
  }
  return result;
}

TEST(WriteKvRounding, GoesToTheNearestAndOnTiesToTheEvenValueOfEachFormat) {
  for (const DType to : {DType::float16, DType::bfloat16, DType::float8_e4m3, DType::float8_e5m2}) {
    // Every positive value of the format, the middle to the next one, and the neighbours of that.
    std::vector<double> values;
    const std::uint64_t codes = std::uint64_t{1} << (dtype_bits(to) - 1);
    const std::uint64_t step = dtype_bits(to) == 16 ? 7 : 1;
    for (std::uint64_t bits = 0; bits + 1 < codes; bits += step) {
      const double a = value_of_bits(to, bits), b = value_of_bits(to, bits + 1);
      if (!std::isfinite(a) || !std::isfinite(b)) continue;
      const double halfway = (a + b) / 2;
      for (const double x : {a, halfway}) {
        const auto single = static_cast<float>(x);
        values.push_back(x);
        values.push_back(std::nextafter(single, 1e30F));
        values.push_back(-std::nextafter(single, -1e30F));
      }
    }
    const std::vector<double> held = written_as(DType::float32, to, values);
    for (std::size_t i = 0; i < values.size(); ++i) {
      const double x = static_cast<float>(values[i]);
      ASSERT_TRUE(same_value(to, held[i], rounded(to, x)))
          << x << " as " << dtype_name(to) << " is " << held[i];
    }
  }
}

TEST(WriteKvRounding, OfFloat64IsDoneOnce) {
  for (const DType to : kCacheDTypes) {
    if (to == DType::float64) continue;
    // As a float32 they are ties, or the value itself.
    std::vector<double> values;
    for (const double x : {1.0, 2.5, 3.5, -6.5, 0.1, 447.0, 1.0 + 1.0 / 16, 1.0 + 3.0 / 256}) {
      for (const double nudge : {0.0, 1e-13, -1e-13}) values.push_back(x * (1 + nudge));
    }
    const std::vector<double> held = written_as(DType::float64, to, values);
    for (std::size_t i = 0; i < values.size(); ++i) {
      EXPECT_EQ(held[i], rounded(to, values[i])) << dtype_name(to) << " of " << values[i];
    }
  }
}

TEST(WriteKvRounding, SaturatesFloat8AndIntegersAndKeepsNaNOutOfIntegers) {
  const double inf = std::numeric_limits<double>::infinity(), nan = std::nan("");
  const std::vector<double> values{1e6, -1e6, inf, -inf, nan, 300.0, -300.0};
  for (const DType from : kPlainFloats) {
    auto given = values;
    if (from == DType::float16) given[0] = 65504, given[1] = -65504;
    if (from == DType::bfloat16) given[0] = 999424, given[1] = -999424;
    const auto int8 = written_as(from, DType::int8, given);
    EXPECT_EQ(int8, (std::vector<double>{127, -128, 127, -128, 0, 127, -128}));
    const auto int4 = written_as(from, DType::int4, given);
    EXPECT_EQ(int4, (std::vector<double>{7, -8, 7, -8, 0, 7, -8}));
    const auto e4m3 = written_as(from, DType::float8_e4m3, given);
    EXPECT_EQ(e4m3[0], 448);
    EXPECT_EQ(e4m3[3], -448);
    EXPECT_TRUE(std::isnan(e4m3[4]));
    const auto e5m2 = written_as(from, DType::float8_e5m2, given);
    EXPECT_EQ(e5m2[1], -57344);
    EXPECT_EQ(e5m2[2], 57344);
    EXPECT_TRUE(std::isnan(e5m2[4]));
  }
}

TEST(WriteKv, WritesManyTokensWithThreeThreadsAsWithOne) {
  std::mt19937_64 random(2);
  constexpr std::int64_t n = 5000, heads = 4, dim = 64, block_size = 16, blocks = 400;
  for (const DType to : {DType::float32, DType::int8}) {
    for (const Layout layout : {Layout::hnd, Layout::nhd}) {
      TestRows k(DType::float32, n, heads, dim, Values::ordinary, random, true);
      TestRows v(DType::float32, n, heads, dim, Values::ordinary, random);
      TestCache k_cache(to, blocks, heads, block_size, dim, layout, Values::ordinary, random);
      TestCache v_cache(to, blocks, heads, block_size, dim, layout, Values::ordinary, random);
      TestCache k_other(k_cache), v_other(v_cache);
      k_other.view.data = k_other.bytes.data();
      v_other.view.data = v_other.bytes.data();
      auto slots = random_slots(blocks * block_size, n, random);
      std::sort(slots.begin(), slots.begin() + n / 2);  // runs among them
      const ScaleView scale{nullptr, to == DType::int8 ? 0.1F : 1.0F, 0, 0, 0};
      ThreadPool three(3);
      SerialExecutor one;
      write_kv({k.view, v.view, k_cache.view, v_cache.view, scale, scale, slots.data()}, three,
               test_kernels());
      write_kv({k.view, v.view, k_other.view, v_other.view, scale, scale, slots.data()}, one,
               test_kernels());
      EXPECT_EQ(k_cache.bytes, k_other.bytes);
      EXPECT_EQ(v_cache.bytes, v_other.bytes);
      for (std::int64_t token = 0; token < n; token += 97) {
        expect_written(v.view, token, v_cache, slots[static_cast<std::size_t>(token)], scale);
      }
      expect_unwritten(k_cache, slots);
    }
  }
}

TEST(WriteKv, StreamsWhatIsLargerThanTheCaches) {
  std::mt19937_64 random(3);
  constexpr std::int64_t n = 2200, heads = 8, dim = 128, block_size = 16, blocks = 140;
  TestRows k(DType::float32, n, heads, dim, Values::any_bits, random, true);
  TestCache k_cache(DType::float32, blocks, heads, block_size, dim, Layout::hnd, Values::any_bits,
                    random);
  TestCache v_cache(DType::float32, blocks, heads, block_size, dim, Layout::nhd, Values::any_bits,
                    random);
  auto slots = random_slots(blocks * block_size, n, random);
  std::sort(slots.begin(), slots.end());
  ThreadPool executor(3);
  write_kv({k.view, k.view, k_cache.view, v_cache.view, {}, {}, slots.data()}, executor,
           test_kernels());
  for (std::int64_t token = 0; token < n; ++token) {
    expect_written(k.view, token, k_cache, slots[static_cast<std::size_t>(token)]);
    expect_written(k.view, token, v_cache, slots[static_cast<std::size_t>(token)]);
  }
  expect_unwritten(k_cache, slots);
}

TEST(WriteKv, TakesKeysAndValuesOfOneTensor) {
  std::mt19937_64 random(4);
  constexpr std::int64_t n = 20, heads = 2, dim = 8, block_size = 4, blocks = 6;
  TestRows k(DType::float32, n, heads, dim, Values::ordinary, random);
  TestRows v(DType::float32, n, heads, dim, Values::ordinary, random);
  // [num_blocks, 2, num_heads, block_size, head_dim]
  TestCache both(DType::float32, 2 * blocks, heads, block_size, dim, Layout::hnd, Values::ordinary,
                 random);
  CacheView k_cache = both.view;
  k_cache.num_blocks = blocks;
  k_cache.block_stride *= 2;
  CacheView v_cache = k_cache;
  v_cache.data += both.view.block_stride;
  const auto slots = random_slots(blocks * block_size, n, random);
  SerialExecutor executor;
  write_kv({k.view, v.view, k_cache, v_cache, {}, {}, slots.data()}, executor, test_kernels());
  for (std::int64_t token = 0; token < n; ++token) {
    const std::int64_t slot = slots[static_cast<std::size_t>(token)];
    for (std::int64_t head = 0; head < heads; ++head) {
      const std::int64_t block = slot / block_size, offset = slot % block_size;
      EXPECT_EQ(std::memcmp(k_cache.row(block, head, offset), k.view.row(token, head), dim * 4), 0);
      EXPECT_EQ(std::memcmp(v_cache.row(block, head, offset), v.view.row(token, head), dim * 4), 0);
    }
  }
}

TEST(MlaWrite, PutsBothPartsOfATokenIntoTheirCaches) {
  std::mt19937_64 random(5);
  constexpr std::int64_t n = 30, rank = 512, rope = 64, block_size = 16, blocks = 4;
  for (const DType to : {DType::bfloat16, DType::float8_e4m3}) {
    TestRows ckv(DType::bfloat16, n, 1, rank, Values::ordinary, random);
    TestRows kpe(DType::bfloat16, n, 1, rope, Values::ordinary, random);
    // One tensor [num_blocks, block_size, rank + rope]; the parts interleave.
    TestCache whole(to, blocks, 1, block_size, rank + rope, Layout::hnd, Values::ordinary, random);
    TestCache ckv_cache(whole), kpe_cache(whole);
    ckv_cache.view.data = kpe_cache.view.data = whole.bytes.data();
    ckv_cache.view.head_dim = rank;
    kpe_cache.view.head_dim = rope;
    kpe_cache.view.data += ckv_cache.view.row_bytes();
    const auto slots = random_slots(blocks * block_size, n, random);
    ThreadPool executor(3);
    mla_write({ckv.view, kpe.view, ckv_cache.view, kpe_cache.view, {}, {}, slots.data()}, executor,
              test_kernels());
    for (std::int64_t token = 0; token < n; ++token) {
      const std::int64_t slot = slots[static_cast<std::size_t>(token)];
      for (const auto& [rows, cache] : {std::pair{&ckv, &ckv_cache}, {&kpe, &kpe_cache}}) {
        expect_written(rows->view, token, *cache, slot);
      }
    }
  }
}

class WriteKvErrors : public testing::Test {
 protected:
  void expect_shape(std::string_view given, std::string_view expected) {
    expect_error<ShapeError>([&] { write(); }, "cpu.write_kv", given, expected);
    EXPECT_TRUE(k_cache.unchanged() && v_cache.unchanged());
  }
  void write() { write_kv(call, executor, test_kernels()); }

  std::mt19937_64 random{6};
  TestRows k{DType::float32, 3, 2, 8, Values::ordinary, random};
  TestRows v{DType::float32, 3, 2, 8, Values::ordinary, random};
  TestCache k_cache{DType::float32, 4, 2, 4, 8, Layout::hnd, Values::ordinary, random};
  TestCache v_cache{DType::float32, 4, 2, 4, 8, Layout::hnd, Values::ordinary, random};
  std::vector<std::int64_t> slots{0, 5, 15};
  WriteKvCall call{k.view, v.view, k_cache.view, v_cache.view, {}, {}, slots.data()};
  SerialExecutor executor;
};

TEST_F(WriteKvErrors, ASlotOutsideTheCacheIsRefusedBeforeAnythingIsWritten) {
  for (const std::int64_t slot :
       {std::int64_t{16}, std::int64_t{-2}, std::numeric_limits<std::int64_t>::max(),
        std::numeric_limits<std::int64_t>::min()}) {
    slots[2] = slot;
    const auto error = expect_error<InvalidSlotError>(
        [&] { write(); }, "cpu.write_kv", "slot " + std::to_string(slot) + " at 2", "-1 to 15");
    EXPECT_EQ(error.slot(), static_cast<std::uint64_t>(slot));
    EXPECT_TRUE(k_cache.unchanged() && v_cache.unchanged());
  }
}

TEST_F(WriteKvErrors, RowsThatTheCacheDoesNotHaveAreRefused) {
  call.k.head_dim = 7;
  expect_shape("k [3, 2, 7]", "[3, 2, 8]");
  call.k = k.view;
  call.v.num_heads = 1;
  expect_shape("v [3, 1, 8]", "[3, 2, 8]");
  call.v = v.view;
  call.v.num_tokens = 2;
  expect_shape("v [2, 2, 8]", "[3, 2, 8]");
  call.v = v.view;
  call.k.data = nullptr;
  expect_shape("without data", "heads and head_dim as in the cache");
  call.k = k.view;
  call.slot_mapping = nullptr;
  expect_shape("no slot_mapping", "one slot a token");
}

TEST_F(WriteKvErrors, CachesThatAreNoPairAreRefused) {
  call.v_cache.num_blocks = 3;
  expect_shape("k_cache [4, 2, 4, 8] of float32 and v_cache [3, 2, 4, 8]", "the same blocks");
  call.v_cache = v_cache.view;
  call.k_cache.block_size = 0;
  expect_shape("k_cache [4, 2, 0, 8]", "at least 1");
}

TEST_F(WriteKvErrors, DTypesAndScalesThatDoNotGoTogetherAreRefused) {
  call.k.dtype = DType::int8;
  expect_shape("k of int8 for a cache of float32", "float64, float32, float16, bfloat16");
  call.k = k.view;
  call.k_cache.dtype = DType::int32;
  expect_shape("k of float32 for a cache of int32", "or the dtype of the cache");
  call.k_cache = k_cache.view;
  call.v_scale.value = 2;
  expect_shape("v with a scale for a cache of float32", "only where the cache is quantised");
  call.v_scale = {};
  call.v_cache.dtype = call.v.dtype = DType::int8;
  std::vector<float> scales(32);
  call.v_scale = {scales.data(), 1, 8, 4, 1};
  expect_shape("v of int8 for a cache of int8 with one scale a slot", "floats");
  call.v.dtype = DType::float32;
  call.v_scale.data = nullptr;
  expect_shape("v with one scale a slot, no data", "data");
}

TEST_F(WriteKvErrors, MemoryThatIsSharedIsRefused) {
  call.v_cache.data = call.k_cache.data + 16;
  expect_shape("v_cache shares memory with k_cache", "apart");
  call.v_cache = v_cache.view;
  call.v.data = v_cache.bytes.data() + 32;
  expect_shape("v_cache shares memory with v", "apart");
  call.v = v.view;
  call.k_cache.token_stride = 0;
  expect_shape("k_cache shares memory with itself", "apart");
}

TEST_F(WriteKvErrors, NoTokensAreNoError) {
  call.k.num_tokens = call.v.num_tokens = 0;
  call.k.data = call.v.data = nullptr;
  call.slot_mapping = nullptr;
  write();
  EXPECT_TRUE(k_cache.unchanged() && v_cache.unchanged());
}

}  // namespace
