#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "pagedkv/core/backend.hpp"
#include "pagedkv/core/block_allocator.hpp"
#include "pagedkv/core/block_table.hpp"
#include "pagedkv/core/errors.hpp"
#include "pagedkv/detail/checked_math.hpp"
#include "pagedkv/detail/fork_guard.hpp"

namespace pagedkv::inline v0_1 {

/// The paged state of one sequence: its blocks on the host, and on the device the block table and
/// the context length that kernels read.
///
/// The device is written only where it differs from the host, in one write a call. Table entries
/// without a block hold -1. Blocks belong to the allocator that they were taken from; pass the same
/// one each time, and release before the end of its life. Moves, never copies: a copy would free
/// the blocks twice.
template <Backend B>
class PagedSeqState {
 public:
  using Device = typename B::Device;
  using Context = typename B::Context;
  using Buffer = typename B::Buffer;

  /// Makes the device buffers; takes no block.
  /// @throws ShapeError for a block_size of 0 or an overflow, std::bad_alloc or the backend's own
  ///         error.
  PagedSeqState(std::size_t block_size, std::size_t max_blocks_per_seq, Device device = {})
      : block_size_(block_size == 0 ? (detail::throw_zero("PagedSeqState", "block_size"), 0)
                                    : block_size),
        entries_(checked_entries(max_blocks_per_seq), kUnused),
        block_table_buf_(
            B::allocate(device, DType::int32, max_blocks_per_seq, std::byte{0xff})),  // all -1
        context_lens_buf_(B::allocate(device, DType::int32, 1, std::byte{0})) {}

  PagedSeqState(PagedSeqState&& other) noexcept
      : block_size_(other.block_size_),
        len_(std::exchange(other.len_, 0)),
        entries_(std::move(other.entries_)),
        num_blocks_(std::exchange(other.num_blocks_, 0)),
        stale_begin_(std::exchange(other.stale_begin_, 0)),
        stale_end_(std::exchange(other.stale_end_, 0)),
        device_len_(std::exchange(other.device_len_, 0)),
        block_table_buf_(std::move(other.block_table_buf_)),
        context_lens_buf_(std::move(other.context_lens_buf_)),
        fork_guard_(other.fork_guard_) {
    other.entries_.clear();
  }
  /// Swaps: the blocks held so far leave with `other`, for its owner to release.
  PagedSeqState& operator=(PagedSeqState&& other) noexcept {
    std::swap(block_size_, other.block_size_);
    std::swap(len_, other.len_);
    std::swap(entries_, other.entries_);
    std::swap(num_blocks_, other.num_blocks_);
    std::swap(stale_begin_, other.stale_begin_);
    std::swap(stale_end_, other.stale_end_);
    std::swap(device_len_, other.device_len_);
    std::swap(block_table_buf_, other.block_table_buf_);
    std::swap(context_lens_buf_, other.context_lens_buf_);
    std::swap(fork_guard_, other.fork_guard_);
    return *this;
  }

  /// Takes as many blocks as `target_len` tokens need and uploads the new table entries. Does
  /// nothing where there are enough; never shrinks, never changes `len()`. O(new blocks).
  /// @throws CapacityError beyond `max_blocks_per_seq()`, PoolExhaustedError when the blocks are
  ///         not there, or the backend's own error; in each case host, device and allocator are as
  ///         before (what a failed upload left on the device is written again by the next call).
  void ensure_capacity(Context& ctx, BlockAllocator& alloc, std::size_t target_len) {
    fork_guard_.check("PagedSeqState.ensure_capacity");
    const std::size_t needed = detail::ceil_div(target_len, block_size_);
    if (needed <= num_blocks_ && stale_begin_ == stale_end_) [[likely]]
      return;
    if (needed > entries_.size()) [[unlikely]]
      throw_too_long(target_len, needed);
    const std::size_t before = num_blocks_;
    if (needed > before) {
      alloc.allocate_n(std::span(entries_).subspan(before, needed - before));
      num_blocks_ = needed;
      mark_stale(before, needed);
    }
    try {
      upload_table(ctx);
    } catch (...) {
      drop_blocks_from(alloc, before);
      throw;
    }
  }

  /// Writes `len()` to the device, if it is not there already.
  /// @throws CapacityError when `len()` is beyond the blocks held or beyond int32.
  void sync_context_len(Context& ctx) {
    fork_guard_.check("PagedSeqState.sync_context_len");
    if (detail::ceil_div(len_, block_size_) > num_blocks_ ||
        len_ > std::size_t{std::numeric_limits<std::int32_t>::max()}) [[unlikely]] {
      throw_len_without_blocks();
    }
    upload_len(ctx);
  }

  /// Gives every block back and sets `len()` to 0; buffers are kept for reuse. Twice is harmless.
  /// Changes the host alone: the next `ensure_capacity` and `sync_context_len` rewrite what is then
  /// stale on the device. O(blocks).
  /// @throws InvalidSlotError when `alloc` does not hold the blocks; nothing has changed.
  void release(BlockAllocator& alloc) {
    drop_blocks_from(alloc, 0);
    len_ = 0;
  }

  /// The same, and resets the device: table all -1, length 0.
  /// @throws InvalidSlotError as above; the backend's own error, and then the blocks are given back
  ///         all the same and the next calls rewrite the device.
  void release(Context& ctx, BlockAllocator& alloc) {
    fork_guard_.check("PagedSeqState.release");
    release(alloc);
    upload_table(ctx);
    upload_len(ctx);
  }

  /// Back to `num_tokens` tokens, if there are more: gives back the blocks that they do not need.
  /// Changes the host alone, as `release` does.
  void truncate(BlockAllocator& alloc, std::size_t num_tokens) {
    const std::size_t keep = detail::ceil_div(num_tokens, block_size_);
    if (keep < num_blocks_) drop_blocks_from(alloc, keep);
    len_ = std::min(len_, num_tokens);
  }

  /// Block ids in logical order; valid until the next change.
  [[nodiscard]] std::span<const BlockId> blocks() const noexcept {
    return std::span(entries_).first(num_blocks_);
  }
  /// `[max_blocks_per_seq]` int32 on the device: logical to physical, -1 where there is no block.
  [[nodiscard]] const Buffer& block_table_buf() const noexcept { return block_table_buf_; }
  /// `[1]` int32 on the device: the length that kernels read.
  [[nodiscard]] const Buffer& context_lens_buf() const noexcept { return context_lens_buf_; }
  /// Tokens held. The caller's to set; `sync_context_len` checks it against the blocks.
  [[nodiscard]] std::size_t len() const noexcept { return len_; }
  void set_len(std::size_t len) noexcept { len_ = len; }
  [[nodiscard]] std::size_t block_size() const noexcept { return block_size_; }
  [[nodiscard]] std::size_t max_blocks_per_seq() const noexcept { return entries_.size(); }

 private:
  static constexpr BlockId kUnused = static_cast<BlockId>(kNoBlock);

  static std::size_t checked_entries(std::size_t max_blocks_per_seq) {
    return detail::checked_product("PagedSeqState", {max_blocks_per_seq, sizeof(BlockId)}) /
           sizeof(BlockId);
  }

  void mark_stale(std::size_t begin, std::size_t end) noexcept {
    if (stale_begin_ == stale_end_) {
      stale_begin_ = begin;
      stale_end_ = end;
    } else {
      stale_begin_ = std::min(stale_begin_, begin);
      stale_end_ = std::max(stale_end_, end);
    }
  }

  void drop_blocks_from(BlockAllocator& alloc, std::size_t first) {
    if (first >= num_blocks_) return;
    const auto dropped = std::span(entries_).subspan(first, num_blocks_ - first);
    // Last first: whoever takes them next gets them in this order again, so that a call that failed
    // leaves no trace in the ids that follow.
    std::ranges::reverse(dropped);
    try {
      alloc.free(std::span<const BlockId>(dropped));
    } catch (...) {
      std::ranges::reverse(dropped);
      throw;
    }
    std::ranges::fill(dropped, kUnused);
    mark_stale(first, num_blocks_);
    num_blocks_ = first;
  }

  void upload_table(Context& ctx) {
    if (stale_begin_ == stale_end_) return;
    // Ids are below 2^31, and kUnused has the bits of -1.
    const std::span<const std::int32_t> table(
        reinterpret_cast<const std::int32_t*>(entries_.data()), entries_.size());
    B::write(ctx, block_table_buf_, stale_begin_,
             table.subspan(stale_begin_, stale_end_ - stale_begin_));
    stale_begin_ = stale_end_ = 0;
  }

  void upload_len(Context& ctx) {
    if (device_len_ == len_) return;
    device_len_.reset();
    const auto value = static_cast<std::int32_t>(len_);
    B::write(ctx, context_lens_buf_, 0, std::span<const std::int32_t>(&value, 1));
    device_len_ = len_;
  }

  [[noreturn]] PAGEDKV_COLD void throw_too_long(std::size_t target_len, std::size_t needed) const {
    detail::throw_capacity("PagedSeqState.ensure_capacity",
                           "target_len " + std::to_string(target_len) + " needs " +
                               std::to_string(needed) + " blocks; expected at most " +
                               std::to_string(entries_.size()) + " (max_blocks_per_seq)");
  }

  [[noreturn]] PAGEDKV_COLD void throw_len_without_blocks() const {
    detail::throw_capacity("PagedSeqState.sync_context_len",
                           "len " + std::to_string(len_) + " with " + std::to_string(num_blocks_) +
                               " blocks of " + std::to_string(block_size_) +
                               "; expected a len that they have room for, below 2^31");
  }

  std::size_t block_size_;
  std::size_t len_ = 0;
  std::vector<BlockId> entries_;  // [max_blocks_per_seq], kUnused from num_blocks_ on
  std::size_t num_blocks_ = 0;
  std::size_t stale_begin_ = 0;  // device entries [stale_begin_, stale_end_) differ from entries_
  std::size_t stale_end_ = 0;
  std::optional<std::size_t> device_len_ = 0;  // nothing: a write failed, unknown
  Buffer block_table_buf_;
  Buffer context_lens_buf_;
  [[no_unique_address]] detail::ForkGuard<B::survives_fork> fork_guard_;
};

}  // namespace pagedkv::inline v0_1
