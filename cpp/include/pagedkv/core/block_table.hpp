#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "pagedkv/core/block_allocator.hpp"
#include "pagedkv/core/errors.hpp"
#include "pagedkv/detail/checked_math.hpp"

namespace pagedkv::inline v0_1 {

/// What a block table holds where no block is: never 0, which is a real block.
inline constexpr std::int32_t kNoBlock = -1;

/// Logical to physical: for each layer the list of block ids that hold its tokens in order. It
/// refers to blocks, it does not own them; the same id may stand in it more than once.
class BlockTable {
 public:
  /// @param num_layers  lists of blocks, 0 or more.
  /// @param block_size  tokens a block, at least 1.
  /// @throws ShapeError for a block_size of 0 or an overflow, std::bad_alloc.
  BlockTable(std::size_t num_layers, std::size_t block_size) : block_size_(block_size) {
    if (block_size == 0) detail::throw_zero("BlockTable", "block_size");
    static_cast<void>(detail::checked_product("BlockTable", {num_layers, sizeof(layers_[0])}));
    layers_.resize(num_layers);
  }

  /// Appends `id` to the blocks of `layer`; amortised O(1).
  /// @throws InvalidSlotError for a layer out of range or an id of 2^31 or more.
  void append_block(std::size_t layer, BlockId id) {
    auto& blocks = at("BlockTable.append_block", layer);
    if (id > BlockAllocator::kMaxCapacity) [[unlikely]] {
      detail::throw_out_of_range("BlockTable.append_block", "block id", id,
                                 BlockAllocator::kMaxCapacity + 1);
    }
    blocks.push_back(id);
  }

  /// The id of block number `logical` of `layer`, or nothing past its end; O(1).
  /// @throws InvalidSlotError for a layer out of range.
  [[nodiscard]] std::optional<BlockId> get_block(std::size_t layer, std::size_t logical) const {
    const auto& blocks = at("BlockTable.get_block", layer);
    if (logical >= blocks.size()) return std::nullopt;
    return blocks[logical];
  }

  /// Blocks of `layer`, in logical order; valid until the next change.
  /// @throws InvalidSlotError for a layer out of range.
  [[nodiscard]] std::span<const BlockId> blocks(std::size_t layer) const {
    return at("BlockTable.blocks", layer);
  }

  /// @throws InvalidSlotError for a layer out of range.
  [[nodiscard]] std::size_t num_blocks(std::size_t layer) const {
    return at("BlockTable.num_blocks", layer).size();
  }

  /// Tokens that the blocks of `layer` have room for.
  /// @throws InvalidSlotError for a layer out of range, ShapeError for an overflow.
  [[nodiscard]] std::size_t token_capacity(std::size_t layer) const {
    constexpr const char* where = "BlockTable.token_capacity";
    return detail::checked_product(where, {at(where, layer).size(), block_size_});
  }

  /// Keeps the blocks that the first `num_tokens` tokens of `layer` need and returns the others, in
  /// logical order, for the caller to give back. More tokens than there is room for: nothing to do.
  /// @throws InvalidSlotError for a layer out of range.
  std::vector<BlockId> truncate(std::size_t layer, std::size_t num_tokens) {
    auto& blocks = at("BlockTable.truncate", layer);
    const std::size_t keep = std::min(detail::ceil_div(num_tokens, block_size_), blocks.size());
    const auto cut = blocks.begin() + static_cast<std::ptrdiff_t>(keep);
    std::vector<BlockId> freed(cut, blocks.end());
    blocks.resize(keep);
    return freed;
  }

  /// Most blocks of any layer: the width of the table as an array.
  [[nodiscard]] std::size_t max_blocks() const noexcept {
    std::size_t width = 0;
    for (const auto& blocks : layers_) width = std::max(width, blocks.size());
    return width;
  }

  /// Writes the table as `[num_layers, max_blocks()]` int32, rows padded with -1.
  /// @throws ShapeError when `out` has another size.
  void write_array(std::span<std::int32_t> out) const {
    const std::size_t width = max_blocks();
    if (out.size() != width * layers_.size()) {
      detail::throw_shape("BlockTable.write_array",
                          std::to_string(out.size()) + " elements; expected " +
                              std::to_string(layers_.size()) + " x " + std::to_string(width));
    }
    std::fill(out.begin(), out.end(), kNoBlock);
    for (std::size_t layer = 0; layer < layers_.size(); ++layer) {
      std::copy(layers_[layer].begin(), layers_[layer].end(),
                out.begin() + static_cast<std::ptrdiff_t>(layer * width));
    }
  }

  [[nodiscard]] std::size_t num_layers() const noexcept { return layers_.size(); }
  [[nodiscard]] std::size_t block_size() const noexcept { return block_size_; }

  friend bool operator==(const BlockTable&, const BlockTable&) = default;

 private:
  [[nodiscard]] const std::vector<BlockId>& at(const char* where, std::size_t layer) const {
    if (layer >= layers_.size()) [[unlikely]] {
      detail::throw_out_of_range(where, "layer", layer, layers_.size());
    }
    return layers_[layer];
  }
  [[nodiscard]] std::vector<BlockId>& at(const char* where, std::size_t layer) {
    return const_cast<std::vector<BlockId>&>(std::as_const(*this).at(where, layer));
  }

  std::size_t block_size_;
  std::vector<std::vector<BlockId>> layers_;
};

}  // namespace pagedkv::inline v0_1
