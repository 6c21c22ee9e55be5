// cuda::copy_blocks, move_slots and swap_blocks: bytes go where they are told, pair after pair.

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <span>
#include <vector>

#include "cpp/tests/cuda/device.hpp"
#include "cpp/tests/operations/ops_caches.hpp"

namespace {

using namespace pagedkv;
using namespace pagedkv_test;
using Pairs = std::vector<IndexPair>;

/// Keys and values of several dtypes and layouts, and scales, of 6 blocks.
class CudaCopies : public OnCuda {
 protected:
  static constexpr std::int64_t kBlocks = 6, kBlockSize = 8;

  CudaCopies() : random_(1) {
    const auto add = [&](DType dtype, std::int64_t heads, std::int64_t dim, Layout layout) {
      caches_.emplace_back(dtype, kBlocks, heads, kBlockSize, dim, layout, Values::any_bits,
                           random_);
    };
    add(DType::float16, 2, 64, Layout::hnd);
    add(DType::float16, 2, 64, Layout::nhd);
    add(DType::int8, 3, 20, Layout::hnd);
    add(DType::int4, 1, 6, Layout::nhd);
    add(DType::float64, 1, 3, Layout::hnd);
    add(DType::float32, 2, 1, Layout::hnd);  // scales
    for (int i = 0; i < 40; ++i)
      add(DType::bfloat16, 1, 8, Layout::hnd);  // more than a launch takes
    for (TestCache& cache : caches_) {
      cache.view.data = cache.bytes.data();
      views_.push_back(cache.view);
    }
  }

  /// What the caches hold after the pairs, done here one after the other.
  void expect_copied(const Pairs& pairs, bool slots) {
    for (TestCache& cache : caches_) {
      TestCache expected = cache;
      expected.bytes = cache.before;
      expected.view.data = expected.bytes.data();
      for (const IndexPair& pair : pairs) {
        const std::int64_t count = slots ? 1 : kBlockSize;
        for (std::int64_t i = 0; i < count && pair.from != pair.to; ++i) {
          for (std::int64_t head = 0; head < cache.view.num_heads; ++head) {
            std::memcpy(expected.row(pair.to * count + i, head),
                        expected.row(pair.from * count + i, head), cache.view.row_bytes());
          }
        }
      }
      ASSERT_EQ(cache.bytes, expected.bytes) << dtype_name(cache.view.dtype);
    }
  }
  void reset() {
    for (TestCache& cache : caches_) std::ranges::copy(cache.before, cache.bytes.begin());
  }

  void copies_as_told(const Pairs& pairs, bool slots) {
    for (const bool on_device : {false, true}) {
      in_each_order([&] {
        reset();
        const cuda::IndexPairs given{reinterpret_cast<const std::int64_t*>(pairs.data()),
                                     static_cast<std::int64_t>(pairs.size()), on_device};
        if (slots) {
          cuda::move_slots(views_, given, stream_);
        } else {
          cuda::copy_blocks(views_, given, stream_);
        }
        expect_copied(pairs, slots);
      });
    }
  }

  std::mt19937_64 random_;
  std::vector<TestCache> caches_;
  std::vector<CacheView> views_;
};

TEST_F(CudaCopies, CopiesBlocksThatDoNotDependOnOneAnother) {
  copies_as_told({{0, 3}, {1, 4}, {0, 5}, {2, 2}}, false);
}

TEST_F(CudaCopies, CopiesBlocksAsIfOnePairAfterTheOther) {
  copies_as_told({{0, 1}, {1, 2}, {2, 3}, {5, 0}, {0, 4}, {3, 4}}, false);
}

TEST_F(CudaCopies, MovesSlots) {
  copies_as_told({{0, 9}, {17, 1}, {40, 41}}, true);
  copies_as_told({{0, 9}, {9, 10}, {10, 0}, {47, 10}}, true);
}

TEST_F(CudaCopies, TakesMorePairsThanALaunch) {
  Pairs moves;
  for (int i = 0; i < 1100; ++i) {
    moves.push_back(
        {static_cast<std::int64_t>(random_() % 48), static_cast<std::int64_t>(random_() % 48)});
  }
  copies_as_told(moves, true);
}

TEST_F(CudaCopies, PairsOutOfRangeAreRefusedOrReported) {
  for (const IndexPair bad : {IndexPair{0, 6}, IndexPair{-1, 0}, IndexPair{6, 0}}) {
    const Pairs pairs{{1, 2}, bad, {3, 4}}, good{{1, 2}, {3, 4}};
    cuda::IndexPairs given{reinterpret_cast<const std::int64_t*>(pairs.data()), 3, false};
    reset();
    EXPECT_THROW(cuda::copy_blocks(views_, given, stream_), InvalidSlotError);
    expect_copied({}, false);
    given.on_device = true;
    cuda::copy_blocks(views_, given, stream_);
    expect_copied(good, false);
    expect_mistake<InvalidSlotError>("at 1; expected 0 to 5");
  }
}

/// Host memory, or the device's.
class Memory {
 public:
  enum class Kind { pageable, pinned, device };

  Memory(Kind kind, std::size_t bytes) : kind_(kind), pageable_(bytes) {
    if (kind == Kind::pinned) cudaMallocHost(&data_, bytes);
    if (kind == Kind::device) cudaMalloc(&data_, bytes);
    if (kind == Kind::pageable) data_ = pageable_.data();
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() {
    if (kind_ == Kind::pinned) cudaFreeHost(data_);
    if (kind_ == Kind::device) cudaFree(data_);
  }
  [[nodiscard]] void* data() const { return data_; }

 private:
  Kind kind_;
  std::vector<std::byte> pageable_;
  void* data_ = nullptr;
};

using CudaSwap = OnCuda;

TEST_F(CudaSwap, CopiesBetweenDeviceAndHostMemoryOfAnyKindAndLayout) {
  using Kind = Memory::Kind;
  std::mt19937_64 random(2);
  const Pairs pairs{{0, 4}, {1, 5}, {2, 6}, {3, 0}, {3, 4}};
  for (const Kind from : {Kind::device, Kind::pinned, Kind::pageable}) {
    for (const Kind to : {Kind::device, Kind::pinned, Kind::pageable}) {
      for (const Layout layout : {Layout::hnd, Layout::nhd}) {
        TestCache source(DType::bfloat16, 4, 3, 8, 16, Layout::hnd, Values::any_bits, random);
        TestCache target(DType::bfloat16, 7, 3, 8, 16, layout, Values::any_bits, random);
        const Memory source_memory(from, source.bytes.size()),
            target_memory(to, target.bytes.size());
        std::memcpy(source_memory.data(), source.bytes.data(), source.bytes.size());
        std::memcpy(target_memory.data(), target.bytes.data(), target.bytes.size());
        CacheView source_view = source.view, target_view = target.view;
        source_view.data = static_cast<std::byte*>(source_memory.data());
        target_view.data = static_cast<std::byte*>(target_memory.data());
        cuda::swap_blocks(source_view, target_view, pairs, stream_);
        for (const IndexPair& pair : pairs) {
          for (std::int64_t i = 0; i < 8; ++i) {
            for (std::int64_t head = 0; head < 3; ++head) {
              std::memcpy(target.row(pair.to * 8 + i, head), source.row(pair.from * 8 + i, head),
                          32);
            }
          }
        }
        EXPECT_EQ(std::memcmp(target_memory.data(), target.bytes.data(), target.bytes.size()), 0);
      }
    }
  }
}

TEST_F(CudaSwap, RefusesWhatDoesNotGoTogether) {
  std::mt19937_64 random(3);
  TestCache a(DType::bfloat16, 4, 3, 8, 16, Layout::hnd, Values::any_bits, random);
  TestCache b(DType::bfloat16, 4, 3, 4, 16, Layout::hnd, Values::any_bits, random);
  TestCache c(DType::bfloat16, 2, 3, 8, 16, Layout::hnd, Values::any_bits, random);
  const Pairs pairs{{0, 2}};
  EXPECT_THROW(cuda::swap_blocks(a.view, b.view, pairs, stream_), ShapeError);
  EXPECT_THROW(cuda::swap_blocks(a.view, c.view, pairs, stream_), InvalidSlotError);
  EXPECT_TRUE(b.unchanged() && c.unchanged());
}

}  // namespace
