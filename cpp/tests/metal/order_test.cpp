// In the emulation threads can take turns in any order: a result that depends on it is a race.

#include <gtest/gtest.h>

#include <cstring>

#include "cpp/tests/emulation/simt.hpp"
#include "cpp/tests/metal/test_queue.hpp"
#include "cpp/tests/operations/attention_oracle.hpp"
#include "metal/operations.hpp"

namespace {

using namespace pagedkv;

TEST(MetalOrder, OfThreadsChangesNothing) {
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

}  // namespace
