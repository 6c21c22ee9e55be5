#pragma once

// What the manager's calls are about, without the manager: texts, and memory in which every slot
// says whose key and value it holds.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "byte_source.hpp"
#include "pagedkv/core/manager/kv_cache_manager.hpp"

namespace pagedkv_fuzz {

using pagedkv::SeqId;
using pagedkv::TokenId;

[[nodiscard]] inline std::uint64_t mix(std::uint64_t a, std::uint64_t b) {
  const std::uint64_t x = (a ^ (b + 0x9e3779b97f4a7c15ULL)) * 0xff51afd7ed558ccdULL;
  return x ^ x >> 32;
}

/// Tokens with, for each, a digest of all that its key and value depend on: the salt, every token
/// up to it, and the images and the like that those stand for.
class Text {
 public:
  Text() = default;
  Text(const std::string& salt, std::vector<pagedkv::Extra> extras) : extras_(std::move(extras)) {
    for (const char c : salt) start_ = mix(start_, static_cast<unsigned char>(c));
  }

  void push(TokenId token) {
    std::uint64_t digest =
        mix(tokens_.empty() ? start_ : digests_.back(), static_cast<std::uint32_t>(token));
    const std::size_t position = tokens_.size();
    for (const auto& extra : extras_) {
      if (position < extra.start || position >= extra.start + extra.length) continue;
      for (const char c : extra.digest) digest = mix(digest, static_cast<unsigned char>(c));
      digest = mix(digest, position - extra.start);
    }
    tokens_.push_back(token);
    digests_.push_back(digest);
  }
  void cut(std::size_t length) {
    tokens_.resize(std::min(length, tokens_.size()));
    digests_.resize(tokens_.size());
  }

  [[nodiscard]] std::size_t size() const { return tokens_.size(); }
  [[nodiscard]] const std::vector<TokenId>& tokens() const { return tokens_; }
  /// What group `g` writes for the token at `position`; a state holds that of its last token.
  [[nodiscard]] std::uint64_t content(std::size_t g, std::size_t position) const {
    return mix(digests_[position], g);
  }

 private:
  std::vector<pagedkv::Extra> extras_;
  std::uint64_t start_ = 1;
  std::vector<TokenId> tokens_;
  std::vector<std::uint64_t> digests_;
};

/// Slots of blocks, on the device or the host.
class SlotMemory {
 public:
  SlotMemory(std::size_t num_blocks, std::size_t slots)
      : slots_(slots), cells_(num_blocks * slots) {}

  [[nodiscard]] std::uint64_t& at(std::int32_t block, std::size_t offset) {
    const std::size_t i = static_cast<std::size_t>(block) * slots_ + offset;
    PAGEDKV_FUZZ_CHECK(block >= 0 && offset < slots_ && i < cells_.size());
    return cells_[i];
  }
  void copy_block(SlotMemory& from, std::int32_t src, std::int32_t dst) {
    for (std::size_t i = 0; i < slots_; ++i) at(dst, i) = from.at(src, i);
  }

 private:
  std::size_t slots_;
  std::vector<std::uint64_t> cells_;
};

enum class Standing : std::uint8_t { waiting, running, swapped };

/// A sequence as it should be. Behind its known tokens `text` holds those that are scheduled
/// without being known yet.
struct ModelSequence {
  SeqId id = 0;
  Text text;
  std::string salt;
  std::vector<pagedkv::Extra> extras;
  std::size_t known = 0;
  std::size_t scheduled = 0;
  std::size_t committed = 0;
  Standing standing = Standing::waiting;
};

/// Choices of a seeded generator, in place of a `ByteSource`.
template <class Engine>
class RandomSource {
 public:
  explicit RandomSource(std::uint64_t seed) : engine_(seed) {}
  std::size_t below(std::size_t limit) { return static_cast<std::size_t>(engine_() % limit); }

 private:
  Engine engine_;
};

/// Options of a small manager, so that its pool runs out often.
template <class Source>
[[nodiscard]] pagedkv::ManagerOptions choose_options(Source& in) {
  using pagedkv::GroupSpec;
  pagedkv::ManagerOptions options;
  options.num_blocks = 8 + in.below(40);
  options.num_host_blocks = in.below(2) == 0 ? 0 : 20;
  options.block_size = 1 + in.below(5);
  options.partial_reuse = in.below(2) == 0;
  options.null_block = in.below(4) == 0;
  options.events = in.below(3) == 0;
  options.prefix_caching = in.below(6) != 0;
  options.watermark = in.below(4) == 0 ? 0.1 : 0.0;
  options.eviction =
      static_cast<pagedkv::EvictionKind>(in.below(pagedkv::detail::kEvictionNames.size()));
  const std::size_t interval = options.block_size * (1 + in.below(3));
  const auto window = GroupSpec::sliding_window(1 + in.below(12), in.below(2) * in.below(6));
  switch (in.below(6)) {
    case 0: options.groups = {window}; break;
    case 1: options.groups = {GroupSpec::ssm(interval)}; break;
    case 2:
      options.groups = {GroupSpec::full_attention(), window, GroupSpec::ssm(interval)};
      options.num_blocks *= 2;
      break;
    case 3:
      options.groups = {GroupSpec::full_attention(),
                        GroupSpec::full_attention(2 * options.block_size)};
      break;
    default: break;  // full attention alone
  }
  return options;
}

}  // namespace pagedkv_fuzz
