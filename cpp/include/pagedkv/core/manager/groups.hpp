#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "pagedkv/core/errors.hpp"

namespace pagedkv::inline v0_1 {

/// Why a kind of layer needs which tokens.
enum class GroupKind : std::uint8_t { full_attention, sliding_window, ssm };

/// Layers that share one block table because they need the same tokens. All groups of a manager draw
/// from one space of block ids, so all blocks have the same bytes; `block_size` is per group to make
/// that so, 0 for the manager's own.
struct GroupSpec {
  GroupKind kind = GroupKind::full_attention;
  std::size_t block_size = 0;
  std::size_t window = 0;               // sliding_window: a query sees this many tokens, its own too
  std::size_t sink_tokens = 0;          // sliding_window: first tokens that stay visible
  std::size_t checkpoint_interval = 0;  // ssm: tokens between states that are kept for reuse

  static GroupSpec full_attention(std::size_t block_size = 0) {
    return {GroupKind::full_attention, block_size, 0, 0, 0};
  }
  static GroupSpec sliding_window(std::size_t window, std::size_t sink_tokens = 0,
                                  std::size_t block_size = 0) {
    return {GroupKind::sliding_window, block_size, window, sink_tokens, 0};
  }
  static GroupSpec ssm(std::size_t checkpoint_interval, std::size_t block_size = 0) {
    return {GroupKind::ssm, block_size, 0, 0, checkpoint_interval};
  }

  /// @throws ShapeError for a window of 0 or a checkpoint interval that blocks do not divide.
  void validate() const {
    constexpr const char* where = "KVCacheManager";
    if (block_size == 0) detail::throw_zero(where, "block_size");
    if (kind == GroupKind::sliding_window && window == 0) detail::throw_zero(where, "window");
    if (kind == GroupKind::ssm &&
        (checkpoint_interval == 0 || checkpoint_interval % block_size != 0)) {
      detail::throw_shape(where, "checkpoint_interval " + std::to_string(checkpoint_interval) +
                                     "; expected a positive multiple of the block_size " +
                                     std::to_string(block_size));
    }
  }

  /// First token that a query at `position` sees, sinks aside.
  [[nodiscard]] std::size_t first_visible(std::size_t position) const noexcept {
    if (kind != GroupKind::sliding_window || position < window) return 0;
    return position - window + 1;
  }
  /// Blocks that sinks keep for good.
  [[nodiscard]] std::size_t sink_blocks() const noexcept {
    return sink_tokens / block_size + (sink_tokens % block_size != 0 ? 1 : 0);
  }
};

}  // namespace pagedkv::inline v0_1
