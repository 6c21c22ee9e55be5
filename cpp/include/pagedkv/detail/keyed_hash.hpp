#pragma once

// The hash that finds entries of the prefix index. What it finds is compared before it is believed,
// so it decides speed alone; the key keeps anybody outside from choosing colliding prompts.

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace pagedkv::inline v0_1::detail {

/// 128 bits that nobody outside knows.
struct HashKey {
  std::uint64_t k0 = 0x243f6a8885a308d3ULL;  // digits of pi: a key for where none is needed
  std::uint64_t k1 = 0x13198a2e03707344ULL;
};

/// Keyed multilinear hash: the sum of the 32-bit words of the input, each times a 64-bit number
/// drawn from the key, upper half (Carter and Wegman, 1979; Lemire and Kaser, "Strongly universal
/// string hashing is fast", 2014). Whoever does not know the key finds two inputs that collide with
/// a chance of 2^-32 at most. Beyond 64 tokens the sum is folded and goes on.
class MultilinearHash {
 public:
  explicit MultilinearHash(HashKey key = {}) noexcept {
    for (auto& number : numbers_) number = next(key);
  }

  /// Hash of `seed`, the tokens and `extra`, in its upper 32 bits.
  [[nodiscard]] std::uint64_t operator()(std::uint64_t seed, std::span<const std::int32_t> tokens,
                                         std::uint64_t extra) const noexcept {
    std::uint64_t sum = numbers_[0] + numbers_[1] * low(seed) + numbers_[2] * high(seed) +
                        numbers_[3] * low(extra) + numbers_[4] * high(extra);
    std::size_t done = 0;
    while (true) {
      const std::size_t count = tokens.size() - done < kTokens ? tokens.size() - done : kTokens;
      for (std::size_t i = 0; i < count; ++i) {
        sum += numbers_[kHead + i] * static_cast<std::uint32_t>(tokens[done + i]);
      }
      done += count;
      if (done == tokens.size()) return sum;
      sum = numbers_[5] + numbers_[6] * (sum >> 32);
    }
  }

  /// Hash of bytes.
  [[nodiscard]] std::uint64_t bytes(const void* data, std::size_t size) const noexcept {
    const auto* from = static_cast<const unsigned char*>(data);
    std::uint64_t sum = size;
    for (std::size_t i = 0; i < size; ++i) {
      sum = numbers_[7] + numbers_[8] * ((sum >> 32) ^ from[i]) + numbers_[9] * low(sum);
    }
    return sum;
  }

 private:
  static constexpr std::size_t kHead = 10;    // numbers for what comes before the tokens
  static constexpr std::size_t kTokens = 64;  // tokens between two foldings

  static std::uint64_t low(std::uint64_t word) noexcept { return word & 0xffffffff; }
  static std::uint64_t high(std::uint64_t word) noexcept { return word >> 32; }

  /// The next number of a generator seeded by the key (xoroshiro128+, Blackman and Vigna, 2018).
  static std::uint64_t next(HashKey& state) noexcept {
    const std::uint64_t result = state.k0 + state.k1, mixed = state.k0 ^ state.k1;
    state.k0 = (state.k0 << 24 | state.k0 >> 40) ^ mixed ^ mixed << 16;
    state.k1 = mixed << 37 | mixed >> 27;
    return result;
  }

  std::array<std::uint64_t, kHead + kTokens> numbers_;
};

}  // namespace pagedkv::inline v0_1::detail
