#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string>

#include "pagedkv/core/errors.hpp"

namespace pagedkv::inline v0_1 {

/// Why a kind of layer needs which tokens.
enum class GroupKind : std::uint8_t { full_attention, sliding_window, ssm };

/// Layers that share one block table because they need the same tokens. All groups of a manager
/// draw from one space of block ids, so all blocks have the same bytes; `block_size` is per group
/// to make that so, 0 for the manager's own.
struct GroupSpec {
  GroupKind kind = GroupKind::full_attention;
  std::size_t block_size = 0;
  std::size_t window = 0;       ///< sliding_window: a query sees this many tokens, its own too
  std::size_t sink_tokens = 0;  ///< sliding_window: first tokens that stay visible
  std::size_t checkpoint_interval = 0;  ///< ssm: tokens between states that are kept for reuse
  int shift = -1;  ///< log2 of a block_size that is a power of two: division is slow

  static GroupSpec full_attention(std::size_t block_size = 0) {
    return {.kind = GroupKind::full_attention, .block_size = block_size};
  }
  static GroupSpec sliding_window(std::size_t window, std::size_t sink_tokens = 0,
                                  std::size_t block_size = 0) {
    return {.kind = GroupKind::sliding_window,
            .block_size = block_size,
            .window = window,
            .sink_tokens = sink_tokens};
  }
  static GroupSpec ssm(std::size_t checkpoint_interval, std::size_t block_size = 0) {
    return {.kind = GroupKind::ssm,
            .block_size = block_size,
            .checkpoint_interval = checkpoint_interval};
  }

  /// Checks the spec and prepares its arithmetic.
  /// @throws ShapeError for a window of 0 or a checkpoint interval that blocks do not divide.
  void settle() {
    constexpr const char* where = "KVCacheManager";
    if (block_size == 0) detail::throw_zero(where, "block_size");
    if (kind == GroupKind::sliding_window && window == 0) detail::throw_zero(where, "window");
    if (kind == GroupKind::ssm &&
        (checkpoint_interval == 0 || checkpoint_interval % block_size != 0)) {
      detail::throw_shape(where, "checkpoint_interval " + std::to_string(checkpoint_interval) +
                                     "; expected a positive multiple of the block_size " +
                                     std::to_string(block_size));
    }
    shift = std::has_single_bit(block_size) ? std::countr_zero(block_size) : -1;
  }

  /// Block that holds the token at `position`.
  [[nodiscard]] std::size_t block_of(std::size_t position) const noexcept {
    return shift >= 0 ? position >> shift : position / block_size;
  }
  /// Where in its block that token is.
  [[nodiscard]] std::size_t offset_of(std::size_t position) const noexcept {
    return position - block_of(position) * block_size;
  }
  /// Slot of the token at `position`, which `block` holds.
  [[nodiscard]] std::int64_t slot(std::int32_t block, std::size_t position) const noexcept {
    return std::int64_t{block} * static_cast<std::int64_t>(block_size) +
           static_cast<std::int64_t>(offset_of(position));
  }
  /// Blocks that `num_tokens` tokens fill or begin.
  [[nodiscard]] std::size_t blocks_for(std::size_t num_tokens) const noexcept {
    return block_of(num_tokens + block_size - 1);
  }

  /// First token that a query at `position` sees, sinks aside.
  [[nodiscard]] std::size_t first_visible(std::size_t position) const noexcept {
    if (kind != GroupKind::sliding_window || position < window) return 0;
    return position - window + 1;
  }
  /// Blocks that sinks keep for good.
  [[nodiscard]] std::size_t sink_blocks() const noexcept {
    return sink_tokens == 0 ? 0 : blocks_for(sink_tokens);
  }
};

}  // namespace pagedkv::inline v0_1
