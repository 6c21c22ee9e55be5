#pragma once

// The hash that finds entries of the prefix index. What it finds is compared before it is believed,
// so it decides speed alone; the key keeps anybody outside from choosing colliding prompts.

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace pagedkv::inline v0_1::detail {

/// 128-bit key.
struct HashKey {
  std::uint64_t k0 = 0x736f6d6570736575ULL;
  std::uint64_t k1 = 0x646f72616e646f6dULL;
};

/// SipHash-1-3 over 64-bit words (Aumasson and Bernstein, "SipHash: a fast short-input PRF", 2012).
class SipHash13 {
 public:
  explicit SipHash13(HashKey key = {}) noexcept : key_(key) {}

  /// Hash of `seed`, the tokens, and `extra`.
  [[nodiscard]] std::uint64_t operator()(std::uint64_t seed, std::span<const std::int32_t> tokens,
                                         std::uint64_t extra) const noexcept {
    State s(key_);
    s.absorb(seed);
    std::size_t i = 0;
    for (; i + 2 <= tokens.size(); i += 2) {
      std::uint64_t word;
      std::memcpy(&word, tokens.data() + i, sizeof word);
      s.absorb(word);
    }
    std::uint64_t last = std::uint64_t{tokens.size()} << 56;
    if (i < tokens.size()) last |= static_cast<std::uint32_t>(tokens[i]);
    s.absorb(extra);
    return s.finish(last);
  }

  /// Hash of bytes, for salts and digests.
  [[nodiscard]] std::uint64_t bytes(const void* data, std::size_t size) const noexcept {
    State s(key_);
    const auto* from = static_cast<const unsigned char*>(data);
    std::size_t left = size;
    for (; left >= 8; left -= 8, from += 8) {
      std::uint64_t word;
      std::memcpy(&word, from, sizeof word);
      s.absorb(word);
    }
    std::uint64_t last = std::uint64_t{size} << 56;
    for (std::size_t i = 0; i < left; ++i) last |= std::uint64_t{from[i]} << (8 * i);
    return s.finish(last);
  }

 private:
  struct State {
    std::uint64_t v0, v1, v2, v3;

    explicit State(HashKey key) noexcept
        : v0(key.k0 ^ 0x736f6d6570736575ULL),
          v1(key.k1 ^ 0x646f72616e646f6dULL),
          v2(key.k0 ^ 0x6c7967656e657261ULL),
          v3(key.k1 ^ 0x7465646279746573ULL) {}

    void round() noexcept {
      v0 += v1, v1 = std::rotl(v1, 13), v1 ^= v0, v0 = std::rotl(v0, 32);
      v2 += v3, v3 = std::rotl(v3, 16), v3 ^= v2;
      v0 += v3, v3 = std::rotl(v3, 21), v3 ^= v0;
      v2 += v1, v1 = std::rotl(v1, 17), v1 ^= v2, v2 = std::rotl(v2, 32);
    }
    void absorb(std::uint64_t word) noexcept {
      v3 ^= word;
      round();
      v0 ^= word;
    }
    std::uint64_t finish(std::uint64_t last) noexcept {
      absorb(last);
      v2 ^= 0xff;
      round();
      round();
      round();
      return v0 ^ v1 ^ v2 ^ v3;
    }
  };

  HashKey key_;
};

}  // namespace pagedkv::inline v0_1::detail
