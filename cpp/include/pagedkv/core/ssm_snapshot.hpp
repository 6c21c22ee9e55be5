#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "pagedkv/core/dtype.hpp"
#include "pagedkv/core/errors.hpp"
#include "pagedkv/core/ssm_state_spec.hpp"

namespace pagedkv::inline v0_1 {

/// A copy of one request's recurrent state: spec, position, bytes. `to_bytes` and `from_bytes`
/// carry it to another process: a checked header and raw bytes, little-endian,
///
///     magic "PKVSSM01" | 6 x u64 dimensions | u64 dtype | u64 position | u64 FNV-1a | payload
///
/// where the checksum covers everything before it and the payload behind it, and the payload is the
/// recurrent state followed by the convolution history.
class SsmSnapshot {
 public:
  /// All zero, at position 0.
  /// Throws what `SsmStateSpec::validate` does; std::bad_alloc.
  explicit SsmSnapshot(const SsmStateSpec& spec)
      : spec_((spec.validate(), spec)), payload_(spec.ssm_bytes() + spec.conv_bytes()) {}

  /// Tokens that the state has consumed.
  std::uint64_t position = 0;

  [[nodiscard]] const SsmStateSpec& spec() const noexcept { return spec_; }
  /// `[num_layers, num_heads, head_dim, d_state]` as bytes.
  [[nodiscard]] std::span<std::byte> ssm_state() noexcept {
    return std::span(payload_).first(spec_.ssm_bytes());
  }
  [[nodiscard]] std::span<const std::byte> ssm_state() const noexcept {
    return std::span(payload_).first(spec_.ssm_bytes());
  }
  /// `[num_layers, conv_dim, d_conv - 1]` as bytes.
  [[nodiscard]] std::span<std::byte> conv_state() noexcept {
    return std::span(payload_).last(spec_.conv_bytes());
  }
  [[nodiscard]] std::span<const std::byte> conv_state() const noexcept {
    return std::span(payload_).last(spec_.conv_bytes());
  }

  /// O(bytes).
  [[nodiscard]] std::vector<std::byte> to_bytes() const {
    static_assert(std::endian::native == std::endian::little, "the payload is stored as it lies");
    std::vector<std::byte> out;
    out.reserve(kHeaderBytes + payload_.size());
    for (const char c : kMagic) out.push_back(static_cast<std::byte>(c));
    for (const std::uint64_t field :
         {std::uint64_t{spec_.num_layers}, std::uint64_t{spec_.num_heads},
          std::uint64_t{spec_.head_dim}, std::uint64_t{spec_.d_state},
          std::uint64_t{spec_.conv_dim}, std::uint64_t{spec_.d_conv},
          static_cast<std::uint64_t>(spec_.dtype), position}) {
      push_u64(out, field);
    }
    push_u64(out, checksum(out, payload_));
    out.insert(out.end(), payload_.begin(), payload_.end());
    return out;
  }

  /// @throws ShapeError (UnsupportedError for int4) for bytes that `to_bytes` cannot have made:
  ///         wrong magic, dimensions that do not match the length, or a checksum that does not
  ///         match. Nothing is allocated before the header agrees with the length.
  [[nodiscard]] static SsmSnapshot from_bytes(std::span<const std::byte> bytes) {
    constexpr const char* where = "SsmSnapshot.from_bytes";
    if (bytes.size() < kHeaderBytes ||
        !std::equal(kMagic.begin(), kMagic.end(), bytes.begin(),
                    [](char c, std::byte b) { return static_cast<std::byte>(c) == b; })) {
      detail::throw_shape(where, std::to_string(bytes.size()) +
                                     " bytes that do not begin as a snapshot; expected what "
                                     "to_bytes returned");
    }
    const auto field = [&](std::size_t i) {
      return read_u64(bytes.subspan(kMagic.size() + 8 * i));
    };
    if (field(6) >= detail::kDTypes.size()) {
      detail::throw_shape(where, "dtype number " + std::to_string(field(6)) +
                                     "; expected one below " +
                                     std::to_string(detail::kDTypes.size()));
    }
    SsmStateSpec spec{
        field(0), field(1), field(2), field(3), field(4), field(5), static_cast<DType>(field(6))};
    spec.validate();
    const auto payload = bytes.subspan(kHeaderBytes);
    // The halves are compared one by one: their sum might overflow.
    if (spec.ssm_bytes() > payload.size() ||
        spec.conv_bytes() != payload.size() - spec.ssm_bytes()) {
      detail::throw_shape(where, std::to_string(payload.size()) + " bytes of state; expected " +
                                     std::to_string(spec.ssm_bytes()) + " + " +
                                     std::to_string(spec.conv_bytes()) + " for " + spec.repr());
    }
    if (checksum(bytes.first(kHeaderBytes - 8), payload) != field(8)) {
      detail::throw_shape(where, "a checksum that does not match; expected unchanged bytes");
    }
    SsmSnapshot snapshot(spec);
    snapshot.position = field(7);
    std::ranges::copy(payload, snapshot.payload_.begin());
    return snapshot;
  }

  friend bool operator==(const SsmSnapshot&, const SsmSnapshot&) = default;

 private:
  static constexpr std::array<char, 8> kMagic{'P', 'K', 'V', 'S', 'S', 'M', '0', '1'};
  static constexpr std::size_t kHeaderBytes = kMagic.size() + 9 * sizeof(std::uint64_t);

  static void push_u64(std::vector<std::byte>& out, std::uint64_t value) {
    for (int shift = 0; shift < 64; shift += 8) {
      out.push_back(static_cast<std::byte>(value >> shift));
    }
  }

  static std::uint64_t read_u64(std::span<const std::byte> bytes) noexcept {
    std::uint64_t value = 0;
    for (int i = 7; i >= 0; --i) {
      value = value << 8 | static_cast<std::uint64_t>(bytes[static_cast<std::size_t>(i)]);
    }
    return value;
  }

  /// FNV-1a, 64 bits (Fowler, Noll, Vo): finds damage, not forgery.
  static std::uint64_t checksum(std::span<const std::byte> header,
                                std::span<const std::byte> payload) noexcept {
    std::uint64_t hash = 0xcbf29ce484222325ULL;
    for (const auto part : {header, payload}) {
      for (const std::byte byte : part) {
        hash = (hash ^ static_cast<std::uint64_t>(byte)) * 0x100000001b3ULL;
      }
    }
    return hash;
  }

  SsmStateSpec spec_;
  std::vector<std::byte> payload_;  // recurrent state, then convolution history
};

}  // namespace pagedkv::inline v0_1
