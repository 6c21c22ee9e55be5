// What only the emulation can show: threads that take turns in any order, and caches larger than
// the memory of a device.

#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstring>
#include <vector>

#include "cpp/tests/emulation/simt.hpp"
#include "cpp/tests/metal/test_queue.hpp"
#include "cpp/tests/operations/attention_oracle.hpp"
#include "metal/operations.hpp"

namespace {

using namespace pagedkv;

TEST(MetalEmulated, TheOrderOfThreadsChangesNothing) {
  pagedkv_test::Problem p;
  p.seq_lens = {130, 5, 600};
  p.query_lens = {1, 5, 20};
  p.head_dim = 40;
  pagedkv_test::Arrays arrays(p);
  const auto run = [&] {
    pagedkv_test::TestQueue queue;
    metal::attend(arrays.call, false, queue);
    return arrays.out_bytes();
  };
  const std::vector<std::byte> forward = run();
  for (const auto order : {simt::Order::backward, simt::Order::shuffled}) {
    simt::order() = order;
    EXPECT_EQ(run(), forward);
    simt::order() = simt::Order::forward;
  }
}

/// Addresses of so many bytes, of which only what is touched takes memory.
class Sparse {
 public:
  explicit Sparse(std::size_t bytes)
      : bytes_(bytes),
        data_(mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)) {}
  Sparse(const Sparse&) = delete;
  Sparse& operator=(const Sparse&) = delete;
  ~Sparse() {
    if (data_ != MAP_FAILED) munmap(data_, bytes_);
  }
  /// Null where there is no such room.
  [[nodiscard]] std::byte* data() const {
    return data_ == MAP_FAILED ? nullptr : static_cast<std::byte*>(data_);
  }

 private:
  std::size_t bytes_;
  void* data_;
};

TEST(MetalEmulated, OffsetsOfCachesAreOf64Bits) {
  constexpr std::size_t kFar = std::size_t{3} << 31;  // bytes from block to block
  const Sparse memory(4 * kFar);
  if (memory.data() == nullptr) GTEST_SKIP() << "no addresses for it";
  pagedkv_test::Problem p;
  p.head_dim = 16;
  p.seq_lens = {30};
  p.query_lens = {1};
  pagedkv_test::Arrays arrays(p);
  const auto expected = pagedkv_test::plain_attention(arrays.call);
  // The same keys and values, their blocks far apart.
  for (CacheView* cache : {&arrays.call.k_cache, &arrays.call.v_cache}) {
    CacheView far = *cache;
    far.data = memory.data() + (cache == &arrays.call.v_cache ? kFar / 2 : 0);
    far.block_stride = static_cast<std::int64_t>(kFar);
    ASSERT_EQ(far.num_blocks, 4);
    for (std::int64_t block = 0; block < far.num_blocks; ++block) {
      std::memcpy(far.row(block, 0, 0), cache->row(block, 0, 0),
                  static_cast<std::size_t>(cache->block_stride));
    }
    *cache = far;
  }
  pagedkv_test::TestQueue queue;
  metal::attend(arrays.call, false, queue);
  EXPECT_LT(pagedkv_test::relative_error(arrays.out(), expected.out), 1e-5);

  std::vector<std::int64_t> pairs{0, 3};
  metal::copy_blocks(std::span(&arrays.call.k_cache, 1), {pairs.data(), 1, false}, queue);
  EXPECT_EQ(std::memcmp(arrays.call.k_cache.row(0, 1, 15), arrays.call.k_cache.row(3, 1, 15),
                        arrays.call.k_cache.row_bytes()),
            0);
}

}  // namespace
