#pragma once

// SsmSnapshot::from_bytes on bytes that anybody may have made.

#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "byte_source.hpp"
#include "pagedkv/core/ssm_snapshot.hpp"

namespace pagedkv_fuzz {

/// Bytes are refused with one of the library's errors, or they come back from `to_bytes` unchanged.
inline bool reads_back(std::span<const std::byte> bytes) {
  try {
    const auto snapshot = pagedkv::SsmSnapshot::from_bytes(bytes);
    const auto again = snapshot.to_bytes();
    PAGEDKV_FUZZ_CHECK(std::ranges::equal(again, bytes));
    PAGEDKV_FUZZ_CHECK(snapshot.ssm_state().size() + snapshot.conv_state().size() < bytes.size());
    return true;
  } catch (const pagedkv::ShapeError&) {
  } catch (const pagedkv::UnsupportedError&) {
  }
  return false;
}

/// The bytes as they are; then with the right magic and checksum, which no search would find.
/// @throws Mismatch where what was accepted does not come back.
inline void run_snapshot_operations(std::span<const std::uint8_t> data) {
  constexpr std::size_t kFields = 8;
  constexpr std::size_t kChecksum = kFields + 8 * 8;
  constexpr std::size_t kPayload = kChecksum + 8;
  const auto given = std::as_bytes(data);
  reads_back(given);
  if (given.size() < kPayload) return;

  std::vector<std::byte> forged(given.begin(), given.end());
  std::memcpy(forged.data(), "PKVSSM01", kFields);
  std::uint64_t hash = 0xcbf29ce484222325ULL;  // FNV-1a over everything but the checksum
  for (std::size_t i = 0; i < forged.size(); ++i) {
    if (i >= kChecksum && i < kPayload) continue;
    hash = (hash ^ static_cast<std::uint64_t>(forged[i])) * 0x100000001b3ULL;
  }
  for (std::size_t i = 0; i < 8; ++i) {
    forged[kChecksum + i] = static_cast<std::byte>(hash >> 8 * i & 0xff);
  }
  if (reads_back(forged)) {
    // One wrong bit, and it is refused.
    forged[data[0] % forged.size()] ^= std::byte{1};
    PAGEDKV_FUZZ_CHECK(!reads_back(forged));
  }
}

}  // namespace pagedkv_fuzz
