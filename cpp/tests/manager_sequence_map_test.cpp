// Sequences by id: a map beside a plain one.

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <random>
#include <set>
#include <vector>

#include "pagedkv/core/manager/sequence.hpp"

namespace {

using pagedkv::SeqId;
using pagedkv::detail::Sequence;
using pagedkv::detail::SequenceMap;

std::vector<SeqId> ids_of(const SequenceMap& map) {
  std::vector<SeqId> ids;
  map.for_each([&](const Sequence& s) { ids.push_back(s.id); });
  std::ranges::sort(ids);
  return ids;
}

TEST(SequenceMap, AgreesWithASetOverRandomInsertsAndErases) {
  for (unsigned seed = 1; seed <= 20; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 random(seed);
    SequenceMap map;
    std::set<SeqId> model;
    for (int i = 0; i < 4000; ++i) {
      // Few ids, so that they meet; spread over 64 bits or next to each other.
      const SeqId id = (random() % 300) << (seed % 2 == 0 ? 0 : 55);
      if (model.contains(id)) {
        ASSERT_EQ(map.find(id)->id, id);
        map.erase(id);
        model.erase(id);
      } else {
        ASSERT_EQ(map.find(id), nullptr);
        ASSERT_EQ(map.insert(id).id, id);
        model.insert(id);
      }
      ASSERT_EQ(map.size(), model.size());
    }
    EXPECT_EQ(ids_of(map), std::vector(model.begin(), model.end()));
  }
}

TEST(SequenceMap, HoldsTheSmallestAndTheLargestId) {
  SequenceMap map;
  constexpr SeqId kLargest = std::numeric_limits<SeqId>::max();
  map.insert(0);
  map.insert(kLargest);
  EXPECT_EQ(map.find(0)->id, 0u);
  EXPECT_EQ(map.find(kLargest)->id, kLargest);
  EXPECT_EQ(map.find(kLargest - 1), nullptr);
}

TEST(SequenceMap, KeepsRecordsInPlaceWhileItGrows) {
  SequenceMap map;
  const Sequence* first = &map.insert(7);
  for (SeqId id = 1000; id < 3000; ++id) map.insert(id);
  EXPECT_EQ(map.find(7), first);
}

TEST(SequenceMap, UsesTheMemoryOfARecordThatWasErasedAgain) {
  SequenceMap map;
  Sequence& first = map.insert(1);
  first.tokens.assign(1000, 5);
  const auto* memory = first.tokens.data();
  map.erase(1);
  Sequence& second = map.insert(2);
  EXPECT_EQ(second.tokens.data(), memory);
}

}  // namespace
