#pragma once

// A memory of blocks that were evicted.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

namespace pagedkv::inline v0_1::detail {

/// Remembers the keys of evicted blocks, each with a note of `kNoteBits` bits; what is forgotten is
/// the oldest of a set of eight, so nearly the oldest of all. 4 bytes a key, O(1), nothing
/// allocated after construction. A key is known by 14 bits and its set: one look in 2,000 may take
/// a stranger for a key, which costs a little foresight and nothing else.
class GhostTable {
 public:
  static constexpr unsigned kNoteBits = 17;

  /// @param entries  keys remembered at least, rounded up to a multiple of eight.
  explicit GhostTable(std::size_t entries) : sets_((entries + kWays - 1) / kWays) {}

  /// Remembers `key`.
  /// @return the note of the key that is forgotten for it.
  std::optional<std::uint32_t> put(std::uint32_t key, std::uint32_t note) noexcept {
    if (sets_.empty()) return note;
    const std::uint32_t hash = mixed(key);
    Set& set = set_of(hash);
    const std::uint32_t forgotten = set.back();
    std::copy_backward(set.begin(), set.end() - 1, set.end());
    set.front() = tag_of(hash) | note;
    if (forgotten == 0) return std::nullopt;
    return forgotten & kNoteMask;
  }

  /// Forgets `key`.
  /// @return its note, or nothing when it was not remembered.
  std::optional<std::uint32_t> take(std::uint32_t key) noexcept {
    if (sets_.empty()) return std::nullopt;
    const std::uint32_t hash = mixed(key);
    Set& set = set_of(hash);
    const auto found = std::find_if(set.begin(), set.end(), [&](std::uint32_t entry) {
      return (entry & ~kNoteMask) == tag_of(hash);
    });
    if (found == set.end()) return std::nullopt;
    const std::uint32_t note = *found & kNoteMask;
    std::copy(found + 1, set.end(), found);
    set.back() = 0;
    return note;
  }

  /// Most keys that it can remember.
  [[nodiscard]] std::size_t capacity() const noexcept { return sets_.size() * kWays; }

 private:
  static constexpr std::size_t kWays = 8;
  static constexpr std::uint32_t kNoteMask = (1u << kNoteBits) - 1;
  static constexpr std::uint32_t kUsed = 1u << 31;
  using Set = std::array<std::uint32_t, kWays>;  // newest first; 0 is free

  static std::uint32_t mixed(std::uint32_t key) noexcept {
    key = (key ^ (key >> 16)) * 0x7FEB352Du;
    key = (key ^ (key >> 15)) * 0x846CA68Bu;
    return key ^ (key >> 16);
  }
  // The set comes from the high bits of the hash, the tag from the low ones.
  Set& set_of(std::uint32_t hash) noexcept {
    return sets_[static_cast<std::size_t>((std::uint64_t{hash} * sets_.size()) >> 32)];
  }
  static std::uint32_t tag_of(std::uint32_t hash) noexcept {
    return kUsed | ((hash << kNoteBits) & ~kUsed);
  }

  std::vector<Set> sets_;
};

}  // namespace pagedkv::inline v0_1::detail
