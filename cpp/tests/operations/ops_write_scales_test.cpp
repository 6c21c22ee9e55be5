// Scales of quantised writes: given ones are used and left alone, those of one a slot are computed.

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "ops_caches.hpp"
#include "ops_kernels.hpp"
#include "pagedkv/cpu/write_kv.hpp"

namespace {

using namespace pagedkv;
using namespace pagedkv::cpu;
using namespace pagedkv_test;

constexpr std::int64_t kTokens = 40, kHeads = 3, kHeadDim = 40, kBlockSize = 8, kBlocks = 7;

class WriteScales : public testing::TestWithParam<std::tuple<DType, DType, Layout>> {
 protected:
  DType from = std::get<0>(GetParam()), to = std::get<1>(GetParam());
  std::mt19937_64 random{7};
  TestRows k{from, kTokens, kHeads, kHeadDim, Values::ordinary, random};
  TestRows v{from, kTokens, kHeads, kHeadDim, Values::ordinary, random};
  TestCache k_cache{
      to, kBlocks, kHeads, kBlockSize, kHeadDim, std::get<2>(GetParam()), Values::any_bits, random};
  TestCache v_cache{
      to, kBlocks, kHeads, kBlockSize, kHeadDim, std::get<2>(GetParam()), Values::any_bits, random};
  std::vector<std::int64_t> slots = random_slots(kBlocks * kBlockSize, kTokens, random);
  std::vector<float> k_scales = std::vector<float>(kBlocks * kHeads * kBlockSize, -1.0F);
  std::vector<float> v_scales = k_scales;
  ThreadPool executor{1};

  void write(const ScaleView& k_scale, const ScaleView& v_scale) {
    write_kv({k.view, v.view, k_cache.view, v_cache.view, k_scale, v_scale, slots.data()}, executor,
             test_kernels());
  }

  void expect_held(const TestRows& rows, const TestCache& cache, const ScaleView& scale) const {
    for (std::int64_t token = 0; token < kTokens; ++token) {
      const std::int64_t slot = slots[static_cast<std::size_t>(token)];
      if (slot == kNoSlot) continue;
      for (std::int64_t head = 0; head < kHeads; ++head) {
        const float by = scale.at(slot / kBlockSize, head, slot % kBlockSize);
        for (std::int64_t i = 0; i < kHeadDim; ++i) {
          const double x = element(from, rows.view.row(token, head), i);
          const double held = element(to, cache.row(slot, head), i);
          ASSERT_TRUE(same_value(to, held, quantized(from, to, x, by))) << x << " / " << by;
        }
      }
    }
  }
};

TEST_P(WriteScales, OneForTheTensorDividesAll) {
  const ScaleView k_scale{nullptr, 0.37F, 0, 0, 0}, v_scale{nullptr, 2.0F, 0, 0, 0};
  write(k_scale, v_scale);
  expect_held(k, k_cache, k_scale);
  expect_held(v, v_cache, v_scale);
}

TEST_P(WriteScales, OneABlockAndHeadIsReadAndNotChanged) {
  for (std::size_t i = 0; i < k_scales.size(); ++i) {
    k_scales[i] = 0.01F * static_cast<float>(i + 1);
    v_scales[i] = 5.0F / static_cast<float>(i + 1);
  }
  const auto k_before = k_scales, v_before = v_scales;
  const ScaleView k_scale{k_scales.data(), 1, kHeads, 1, 0};
  const ScaleView v_scale{v_scales.data(), 1, 1, kBlocks, 0};  // transposed
  write(k_scale, v_scale);
  expect_held(k, k_cache, k_scale);
  expect_held(v, v_cache, v_scale);
  EXPECT_EQ(k_scales, k_before);
  EXPECT_EQ(v_scales, v_before);
}

TEST_P(WriteScales, OneASlotIsComputedFromTheLargestOfTheRow) {
  slots[5] = kNoSlot;
  const ScaleView k_scale{k_scales.data(), 1, kHeads * kBlockSize, kBlockSize, 1};
  const ScaleView v_scale{v_scales.data(), 1, kHeads * kBlockSize, 1, kHeads};
  write(k_scale, v_scale);
  expect_held(k, k_cache, k_scale);
  expect_held(v, v_cache, v_scale);
  const double most = to == DType::float8_e5m2 ? 57344 : largest_value(to);
  std::vector<bool> written(static_cast<std::size_t>(kBlocks * kBlockSize));
  for (std::int64_t token = 0; token < kTokens; ++token) {
    const std::int64_t slot = slots[static_cast<std::size_t>(token)];
    if (slot == kNoSlot) continue;
    written[static_cast<std::size_t>(slot)] = true;
    for (std::int64_t head = 0; head < kHeads; ++head) {
      double largest = 0;
      for (std::int64_t i = 0; i < kHeadDim; ++i) {
        largest = std::max(largest, std::abs(element(from, k.view.row(token, head), i)));
      }
      EXPECT_EQ(k_scale.at(slot / kBlockSize, head, slot % kBlockSize),
                static_cast<float>(largest / most));
    }
  }
  for (std::int64_t slot = 0; slot < kBlocks * kBlockSize; ++slot) {
    for (std::int64_t head = 0; head < kHeads; ++head) {
      const float scale = k_scale.at(slot / kBlockSize, head, slot % kBlockSize);
      EXPECT_EQ(scale == -1, !written[static_cast<std::size_t>(slot)]);
    }
  }
}

TEST_P(WriteScales, OneASlotStaysNormalForRowsOfZerosInfinitiesAndNaN) {
  const std::int64_t dim = kHeadDim;
  for (std::int64_t i = 0; i < dim; ++i) {
    set_element(from, k.view.row(0, 0), i, 0);
    set_element(from, k.view.row(1, 0), i, i == 3 ? INFINITY : 1);
    set_element(from, k.view.row(2, 0), i, i == 4 ? NAN : i == 5 ? -2 : 1);
    set_element(from, k.view.row(3, 0), i, NAN);
  }
  const ScaleView scale{k_scales.data(), 1, kHeads * kBlockSize, kBlockSize, 1};
  const ScaleView other{v_scales.data(), 1, kHeads * kBlockSize, kBlockSize, 1};
  write(scale, other);
  const auto at = [&](std::size_t token) {
    return scale.at(slots[token] / kBlockSize, 0, slots[token] % kBlockSize);
  };
  const auto held = [&](std::size_t token, std::int64_t i) {
    return element(to, k_cache.row(slots[token], 0), i);
  };
  const double most = largest_value(to);
  EXPECT_EQ(at(0), std::numeric_limits<float>::min());
  EXPECT_EQ(held(0, 0), 0);
  EXPECT_EQ(at(1), static_cast<float>(std::numeric_limits<float>::max() / most));
  EXPECT_EQ(held(1, 3), most);
  EXPECT_EQ(at(2), static_cast<float>(2 / most));
  EXPECT_EQ(held(2, 5), -most);
  EXPECT_EQ(std::isnan(held(2, 4)), !is_integer(to));
  EXPECT_EQ(at(3), std::numeric_limits<float>::min());
}

TEST_P(WriteScales, FromThreeThreadsAreTheSame) {
  const ScaleView k_scale{k_scales.data(), 1, kHeads * kBlockSize, kBlockSize, 1};
  const ScaleView v_scale{v_scales.data(), 1, kHeads * kBlockSize, kBlockSize, 1};
  write(k_scale, v_scale);
  const auto scales = k_scales;
  const auto bytes = k_cache.bytes;
  executor.resize(3);
  write(k_scale, v_scale);
  EXPECT_EQ(k_scales, scales);
  EXPECT_EQ(k_cache.bytes, bytes);
}

INSTANTIATE_TEST_SUITE_P(DTypes, WriteScales,
                         testing::Combine(testing::ValuesIn(kPlainFloats),
                                          testing::ValuesIn(kQuantized),
                                          testing::Values(Layout::hnd, Layout::nhd)),
                         [](const auto& i) {
                           return std::string(dtype_name(std::get<0>(i.param))) + "_as_" +
                                  std::string(dtype_name(std::get<1>(i.param))) + "_" +
                                  std::string(layout_name(std::get<2>(i.param)));
                         });

}  // namespace
