#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "pagedkv/core/errors.hpp"
#include "pagedkv/detail/checked_math.hpp"

namespace pagedkv::inline v0_1 {

/// Index of a physical block. Fits in int32, which is what block tables hold.
using BlockId = std::uint32_t;

/// Hands out block ids `[0, capacity)` and counts who holds them.
///
/// Order: an id that was given back is handed out before a fresh one, last in first out; fresh ids
/// come 0 first. Every id that comes back is checked for range and liveness. One id costs O(1), a
/// list of n O(n); nothing is allocated after construction. For one thread at a time.
///
/// Memory: 8 bytes a block, touched as blocks come into use.
class BlockAllocator {
 public:
  /// Largest capacity: ids are int32 on every device.
  static constexpr std::size_t kMaxCapacity = std::numeric_limits<std::int32_t>::max();

  /// @param capacity  blocks, 0 to 2^31 - 1.
  /// @throws CapacityError beyond that, std::bad_alloc.
  explicit BlockAllocator(std::size_t capacity)
      : capacity_(checked_capacity(capacity)),
        ref_counts_(new std::uint32_t[capacity]),
        freed_(new BlockId[capacity]) {}

  BlockAllocator(BlockAllocator&& other) noexcept
      : capacity_(std::exchange(other.capacity_, 0)),
        fresh_(std::exchange(other.fresh_, 0)),
        num_freed_(std::exchange(other.num_freed_, 0)),
        ref_counts_(std::move(other.ref_counts_)),
        freed_(std::move(other.freed_)) {}

  BlockAllocator& operator=(BlockAllocator&& other) noexcept {
    BlockAllocator taken(std::move(other));
    std::swap(capacity_, taken.capacity_);
    std::swap(fresh_, taken.fresh_);
    std::swap(num_freed_, taken.num_freed_);
    std::swap(ref_counts_, taken.ref_counts_);
    std::swap(freed_, taken.freed_);
    return *this;
  }

  /// One block, held once.
  /// @throws PoolExhaustedError when none is free.
  BlockId allocate() {
    if (none_free()) [[unlikely]] {
      detail::throw_exhausted("BlockAllocator.allocate", 1, 0);
    }
    return take();
  }

  /// One block, or nothing when none is free.
  std::optional<BlockId> try_allocate() noexcept {
    if (none_free()) [[unlikely]]
      return std::nullopt;
    return take();
  }

  /// Fills `out` with blocks, each held once: all or none.
  /// @throws PoolExhaustedError when fewer than `out.size()` are free.
  void allocate_n(std::span<BlockId> out) {
    if (out.size() > free_count()) [[unlikely]] {
      detail::throw_exhausted("BlockAllocator.allocate_n", out.size(), free_count());
    }
    const std::size_t reused = std::min(out.size(), num_freed_);
    for (std::size_t i = 0; i < reused; ++i) {
      const BlockId id = freed_[num_freed_ - 1 - i];
      ref_counts_[id] = 1;
      out[i] = id;
    }
    num_freed_ -= reused;
    for (std::size_t i = reused; i < out.size(); ++i) {
      ref_counts_[fresh_] = 1;
      out[i] = static_cast<BlockId>(fresh_++);
    }
  }

  /// Holds each of `ids` once more: all or none. An id may be named several times.
  /// @throws InvalidSlotError for an id that is out of range or not live, CapacityError for one
  ///         that is held 2^32 - 1 times.
  void acquire(std::span<const BlockId> ids) {
    for (std::size_t i = 0; i < ids.size(); ++i) {
      const BlockId id = ids[i];
      if (!is_live(id) || ref_counts_[id] == std::numeric_limits<std::uint32_t>::max())
          [[unlikely]] {
        for (std::size_t j = 0; j < i; ++j) --ref_counts_[ids[j]];
        throw_cannot_acquire(id);
      }
      ++ref_counts_[id];
    }
  }
  void acquire(BlockId id) { acquire(std::span<const BlockId>(&id, 1)); }

  /// Gives one hold back; the block is free when nobody holds it.
  /// @throws InvalidSlotError for an id that is out of range or not live; nothing has changed.
  void free(BlockId id) {
    if (!is_live(id)) [[unlikely]] {
      detail::throw_not_live("BlockAllocator.free", "block id", id, capacity_);
    }
    drop(id);
  }

  /// Gives one hold of each of `ids` back: all or none. An id may be named as often as it is held.
  /// @throws InvalidSlotError for an id that is out of range, not live, or named more often than it
  ///         is held; nothing has changed.
  void free(std::span<const BlockId> ids) {
    const std::size_t num_freed_before = num_freed_;
    for (std::size_t i = 0; i < ids.size(); ++i) {
      if (!is_live(ids[i])) [[unlikely]] {
        for (std::size_t j = 0; j < i; ++j) ++ref_counts_[ids[j]];
        num_freed_ = num_freed_before;
        detail::throw_not_live("BlockAllocator.free", "block id", ids[i], capacity_);
      }
      drop(ids[i]);
    }
  }

  /// How often `id` is held; 0 when it is free.
  /// @throws InvalidSlotError when out of range.
  [[nodiscard]] std::uint32_t ref_count(BlockId id) const {
    if (id >= capacity_) [[unlikely]] {
      detail::throw_out_of_range("BlockAllocator.ref_count", "block id", id, capacity_);
    }
    return id < fresh_ ? ref_counts_[id] : 0;
  }

  /// True for an id that somebody holds; any number may be asked about.
  [[nodiscard]] bool is_live(std::uint64_t id) const noexcept {
    return id < fresh_ && ref_counts_[id] != 0;
  }

  /// Blocks that nobody holds.
  [[nodiscard]] std::size_t free_count() const noexcept { return capacity_ - fresh_ + num_freed_; }
  /// Blocks that somebody holds.
  [[nodiscard]] std::size_t in_use() const noexcept { return fresh_ - num_freed_; }
  /// Most blocks that were ever held at once.
  [[nodiscard]] std::size_t peak_in_use() const noexcept {
    return fresh_;  // a fresh id is handed out only when every id before it is held
  }
  [[nodiscard]] std::size_t capacity() const noexcept { return capacity_; }

 private:
  static std::size_t checked_capacity(std::size_t capacity) {
    if (capacity > kMaxCapacity) {
      detail::throw_capacity("BlockAllocator", "capacity " + std::to_string(capacity) +
                                                   "; expected at most 2147483647 (ids are int32)");
    }
    return capacity;
  }

  BlockId take() noexcept {
    const BlockId id = num_freed_ != 0 ? freed_[--num_freed_] : static_cast<BlockId>(fresh_++);
    ref_counts_[id] = 1;
    return id;
  }

  void drop(BlockId id) noexcept {
    if (--ref_counts_[id] == 0) freed_[num_freed_++] = id;
  }

  [[nodiscard]] bool none_free() const noexcept { return num_freed_ == 0 && fresh_ == capacity_; }

  [[noreturn]] PAGEDKV_COLD void throw_cannot_acquire(BlockId id) const {
    constexpr const char* where = "BlockAllocator.acquire";
    if (!is_live(id)) detail::throw_not_live(where, "block id", id, capacity_);
    detail::throw_capacity(
        where, "block id " + std::to_string(id) + " is held 4294967295 times; expected fewer");
  }

  // Counters are wider than ids: a store of an id then cannot change them, as the compiler sees it,
  // and they stay in registers over a loop.
  std::size_t capacity_;
  std::size_t fresh_ = 0;      // ids from here on were never handed out; their counts are unset
  std::size_t num_freed_ = 0;  // height of the stack of ids that came back
  std::unique_ptr<std::uint32_t[]> ref_counts_;
  std::unique_ptr<BlockId[]> freed_;
};

}  // namespace pagedkv::inline v0_1
