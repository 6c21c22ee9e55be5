// The hashes of the prefix index: the one that finds, and the one that names content.

#include <gtest/gtest.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "pagedkv/core/manager/event_log.hpp"
#include "pagedkv/detail/keyed_hash.hpp"
#include "pagedkv/detail/sha256.hpp"

namespace {

using pagedkv::TokenId;
using pagedkv::detail::EventLog;
using pagedkv::detail::HashKey;
using pagedkv::detail::MultilinearHash;
using pagedkv::detail::Sha256;

std::span<const std::uint8_t> bytes_of(std::string_view text) {
  return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
}

std::string hex(const Sha256::Digest& digest) {
  constexpr const char* kDigits = "0123456789abcdef";
  std::string text;
  for (const std::uint8_t byte : digest) {
    text += kDigits[byte >> 4];
    text += kDigits[byte & 15];
  }
  return text;
}

std::string sha256(std::string_view text) {
  Sha256 sha;
  sha.update(bytes_of(text));
  return hex(sha.finish());
}

TEST(Sha256, GivesTheDigestsOfTheStandard) {
  EXPECT_EQ(sha256(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sha256("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(sha256("abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmno"
                   "ijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqrstu"),
            "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1");
  EXPECT_EQ(sha256(std::string(1'000'000, 'a')),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Sha256, DoesNotDependOnHowTheBytesAreCut) {
  const std::string text(200, 'x');
  for (std::size_t cut = 0; cut <= text.size(); ++cut) {
    Sha256 sha;
    sha.update(bytes_of(std::string_view(text).substr(0, cut)));
    sha.update(bytes_of(std::string_view(text).substr(cut)));
    ASSERT_EQ(hex(sha.finish()), sha256(text)) << "cut at " << cut;
  }
}

TEST(ContentHash, IsTheOneOfTheDocumentation) {
  // docs/manager.md works these out with hashlib.
  const auto salt = EventLog::salt_hash("tenant");
  const std::array<TokenId, 4> tokens{1, 2, -3, 70'000};
  EXPECT_EQ(hex(salt), "aa073217541d876eb560ddeddb7d1d2ca211fb97d3b4732f3184298a3f4414b6");
  EXPECT_EQ(hex(EventLog::block_hash(salt, tokens, {})),
            "856dff27b559137736fcf897110d8020e9f81a1ccf0b340bf5315c583909c084");
}

TEST(ContentHash, PartsAFieldFromItsNeighbours) {
  const auto parent = EventLog::salt_hash("");
  const std::array<TokenId, 2> tokens{1, 2};
  const std::array<TokenId, 3> longer{1, 2, 3};
  std::set<std::string> digests{
      hex(EventLog::block_hash(parent, tokens, {})), hex(EventLog::block_hash(parent, longer, {})),
      hex(EventLog::block_hash(parent, tokens, "\3\0\0\0")),
      hex(EventLog::block_hash(EventLog::salt_hash("s"), tokens, {})), hex(parent)};
  EXPECT_EQ(digests.size(), 5u);
}

TEST(KeyedHash, DependsOnTheKeyAndOnEveryPartOfItsInput) {
  const std::vector<TokenId> tokens(200, 5);
  const MultilinearHash hash(HashKey{1, 2});
  std::set<std::uint64_t> found{hash(9, tokens, 0) >> 32};
  std::size_t expected = 1;
  const auto expect_new = [&](std::uint64_t value, const std::string& what) {
    EXPECT_TRUE(found.insert(value >> 32).second) << what;
    ++expected;
  };
  expect_new(MultilinearHash(HashKey{2, 2})(9, tokens, 0), "key");
  expect_new(hash(10, tokens, 0), "seed");
  expect_new(hash(std::uint64_t{1} << 40, tokens, 0), "upper half of the seed");
  expect_new(hash(9, tokens, 1), "extra");
  expect_new(hash(9, tokens, std::uint64_t{1} << 40), "upper half of the extra");
  for (std::size_t i = 0; i < tokens.size(); ++i) {  // across the foldings too
    auto changed = tokens;
    changed[i] = -6;
    expect_new(hash(9, changed, 0), "token " + std::to_string(i));
  }
  EXPECT_EQ(found.size(), expected);
  EXPECT_EQ(hash(9, tokens, 0), MultilinearHash(HashKey{1, 2})(9, tokens, 0));
}

TEST(KeyedHash, SpreadsPromptsThatAreAlikeOverTheBuckets) {
  constexpr std::size_t kBuckets = 4096, kPrompts = 4096;
  for (std::uint64_t key = 1; key <= 8; ++key) {
    const MultilinearHash hash(HashKey{key, ~key});
    std::vector<int> buckets(kBuckets);
    std::vector<TokenId> tokens(16, 0);
    for (std::size_t i = 0; i < kPrompts; ++i) {
      tokens[3] = static_cast<TokenId>(i);
      ++buckets[(hash(0, tokens, 0) >> 32) % kBuckets];
    }
    int fullest = 0;
    for (const int n : buckets) fullest = n > fullest ? n : fullest;
    EXPECT_LE(fullest, 16) << "key " << key;  // thrown at random: 7 or 8
  }
}

}  // namespace
