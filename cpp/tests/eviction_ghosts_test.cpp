// GhostTable: a bounded memory of keys.

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <optional>

#include "pagedkv/core/eviction/ghost_table.hpp"

namespace {

using pagedkv::detail::GhostTable;

constexpr std::uint32_t kMostNote = (1u << GhostTable::kNoteBits) - 1;

TEST(GhostTable, GivesBackTheNoteOfAKeyOnce) {
  GhostTable ghosts(64);
  EXPECT_EQ(ghosts.put(1, kMostNote), std::nullopt);
  EXPECT_EQ(ghosts.put(2, 0), std::nullopt);
  EXPECT_EQ(ghosts.take(1), kMostNote);
  EXPECT_EQ(ghosts.take(1), std::nullopt);
  EXPECT_EQ(ghosts.take(2), 0u);
}

TEST(GhostTable, ForgetsTheOldestOfASetAndSaysItsNote) {
  GhostTable ghosts(8);  // one set
  for (std::uint32_t key = 0; key < 8; ++key) EXPECT_EQ(ghosts.put(key, 100 + key), std::nullopt);
  EXPECT_EQ(ghosts.take(3), 103u);
  EXPECT_EQ(ghosts.put(8, 108), std::nullopt) << "there is room again";
  for (const std::uint32_t oldest : {0, 1, 2, 4, 5, 6, 7, 8}) {
    EXPECT_EQ(ghosts.put(1000 + oldest, 0), 100 + oldest);
  }
}

TEST(GhostTable, NeverHoldsMoreThanItsCapacity) {
  for (const std::size_t entries : {1, 8, 9, 1000}) {
    GhostTable ghosts(entries);
    EXPECT_GE(ghosts.capacity(), entries);
    EXPECT_LT(ghosts.capacity(), entries + 8);
    std::size_t held = 0;
    for (std::uint32_t key = 0; key < 10000; ++key) held += ghosts.put(key, 1) ? 0 : 1;
    EXPECT_LE(held, ghosts.capacity());
    std::size_t found = 0;
    for (std::uint32_t key = 0; key < 10000; ++key) found += ghosts.take(key) ? 1 : 0;
    EXPECT_EQ(found, held) << "each is given back once";
  }
}

TEST(GhostTable, RemembersMostOfWhatItHasRoomFor) {
  GhostTable ghosts(1 << 16);
  constexpr std::uint32_t kKeys = 1 << 18;
  for (std::uint32_t key = 0; key < kKeys; ++key) ghosts.put(key, 0);
  std::size_t found = 0;
  for (std::uint32_t key = kKeys - (1 << 15); key < kKeys; ++key) found += ghosts.take(key) ? 1 : 0;
  EXPECT_GT(found, (1u << 15) * 95 / 100) << "of the newest, as many as half of its room";
}

TEST(GhostTable, SeldomTakesAStrangerForAKey) {
  GhostTable ghosts(1 << 12);
  for (std::uint32_t key = 0; key < (1 << 12); ++key) ghosts.put(key, 0);
  std::size_t mistaken = 0;
  for (std::uint32_t key = 1 << 20; key < (1 << 20) + (1 << 18); ++key) {
    mistaken += ghosts.take(key) ? 1 : 0;
  }
  EXPECT_LT(mistaken, (1u << 18) / 1000);
}

TEST(GhostTable, OfNoRoomRemembersNothing) {
  GhostTable ghosts(0);
  EXPECT_EQ(ghosts.put(5, 9), 9u);
  EXPECT_EQ(ghosts.take(5), std::nullopt);
}

}  // namespace
