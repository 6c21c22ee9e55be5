#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "pagedkv/core/block_allocator.hpp"
#include "pagedkv/core/dtype.hpp"
#include "pagedkv/core/errors.hpp"
#include "pagedkv/core/ssm_snapshot.hpp"
#include "pagedkv/core/ssm_state_spec.hpp"
#include "pagedkv/detail/checked_math.hpp"
#include "pagedkv/detail/storage.hpp"

namespace pagedkv::inline v0_1 {

class SsmStatePool;

/// One request's recurrent state inside an `SsmStatePool`: a handle, cheap to copy. It knows which
/// tenancy of the slot it was made for: once the slot is released every access is an
/// InvalidSlotError, also when the slot has been handed out again. The pool must outlive it and
/// stay where it is. `Pool` is `SsmStatePool` or, for reading alone, `const SsmStatePool`.
template <class Pool>
class BasicSsmSlot {
  static constexpr bool kReadOnly = std::is_const_v<Pool>;
  using Byte = std::conditional_t<kReadOnly, const std::byte, std::byte>;

 public:
  /// `[num_layers, num_heads, head_dim, d_state]` as bytes, 64-byte aligned.
  [[nodiscard]] std::span<Byte> ssm_state() const {
    return state("SsmSlot.ssm_state").first(pool_->spec().ssm_bytes());
  }
  /// `[num_layers, conv_dim, d_conv - 1]` as bytes, 64-byte aligned.
  [[nodiscard]] std::span<Byte> conv_state() const {
    return state("SsmSlot.conv_state").last(pool_->spec().conv_bytes());
  }
  /// The same as elements of `T`.
  /// @throws ShapeError when `T` does not hold elements of the spec's dtype.
  template <class T>
  [[nodiscard]] auto ssm_state_as() const {
    detail::expect_elements_of<T>("SsmSlot.ssm_state_as", pool_->spec().dtype);
    return detail::span_cast<T>(ssm_state());
  }
  template <class T>
  [[nodiscard]] auto conv_state_as() const {
    detail::expect_elements_of<T>("SsmSlot.conv_state_as", pool_->spec().dtype);
    return detail::span_cast<T>(conv_state());
  }

  /// Tokens that the state has consumed.
  [[nodiscard]] std::uint64_t position() const { return tenancy("SsmSlot.position").position; }
  /// The id that the slot was allocated for.
  [[nodiscard]] std::uint64_t request_id() const {
    return tenancy("SsmSlot.request_id").request_id;
  }
  [[nodiscard]] std::size_t index() const noexcept { return index_; }
  /// False once the slot was released.
  [[nodiscard]] bool is_live() const noexcept {
    return pool_->is_live(index_) && pool_->tenancies_[index_].generation == generation_;
  }

  /// Counts `n` more tokens as consumed.
  /// @throws CapacityError when the position would overflow 64 bits.
  void advance(std::uint64_t n = 1) const
    requires(!kReadOnly)
  {
    auto& position = tenancy("SsmSlot.advance").position;
    if (n > std::numeric_limits<std::uint64_t>::max() - position) {
      detail::throw_capacity("SsmSlot.advance", "position " + std::to_string(position) + " and " +
                                                    std::to_string(n) +
                                                    " more; expected a sum below 2^64");
    }
    position += n;
  }

  /// Sets the tokens consumed, for a state that was written from elsewhere.
  void set_position(std::uint64_t position) const
    requires(!kReadOnly)
  {
    tenancy("SsmSlot.set_position").position = position;
  }

  /// A copy of state and position that outlives the slot.
  [[nodiscard]] SsmSnapshot snapshot() const {
    SsmSnapshot copy(pool_->spec());
    copy.position = tenancy("SsmSlot.snapshot").position;
    std::ranges::copy(ssm_state(), copy.ssm_state().begin());
    std::ranges::copy(conv_state(), copy.conv_state().begin());
    return copy;
  }

  /// Puts state and position back as they were; the request id stays.
  /// @throws ShapeError when the snapshot is of another spec; nothing has changed.
  void restore(const SsmSnapshot& snapshot) const
    requires(!kReadOnly)
  {
    auto& tenancy = this->tenancy("SsmSlot.restore");
    if (snapshot.spec() != pool_->spec()) {
      detail::throw_shape("SsmSlot.restore", "a snapshot of " + snapshot.spec().repr() +
                                                 "; expected " + pool_->spec().repr());
    }
    std::ranges::copy(snapshot.ssm_state(), ssm_state().begin());
    std::ranges::copy(snapshot.conv_state(), conv_state().begin());
    tenancy.position = snapshot.position;
  }

 private:
  friend SsmStatePool;

  BasicSsmSlot(Pool& pool, std::size_t index) noexcept
      : pool_(&pool), index_(index), generation_(pool.tenancies_[index].generation) {}

  auto& tenancy(const char* where) const {
    if (!is_live()) [[unlikely]] {
      detail::throw_not_live(where, "slot", index_, pool_->capacity());
    }
    return pool_->tenancies_[index_];
  }

  [[nodiscard]] std::span<Byte> state(const char* where) const {
    static_cast<void>(tenancy(where));
    return {pool_->storage_.data() + index_ * pool_->slot_stride_,
            pool_->conv_offset_ + pool_->spec().conv_bytes()};
  }

  Pool* pool_;
  std::size_t index_;
  std::uint64_t generation_;
};

using SsmSlot = BasicSsmSlot<SsmStatePool>;
using SsmSlotView = BasicSsmSlot<const SsmStatePool>;

/// A fixed number of slots, each the recurrent state and the convolution history of one request
/// over all layers, in host memory. A slot reads as zero and at position 0 whenever it is handed
/// out. For one thread at a time; different slots may be read and written from different threads.
class SsmStatePool {
 public:
  /// @throws ShapeError for an invalid spec or an overflow, UnsupportedError for int4,
  ///         CapacityError for 2^31 slots or more, std::bad_alloc.
  SsmStatePool(std::size_t capacity, const SsmStateSpec& spec)
      : spec_((spec.validate(), spec)),
        conv_offset_(detail::round_up(kName, spec.ssm_bytes(), detail::kCacheLine)),
        slot_stride_(detail::checked_sum(
            kName, conv_offset_, detail::round_up(kName, spec.conv_bytes(), detail::kCacheLine))),
        allocator_(capacity),
        storage_(detail::checked_product(kName, {capacity, slot_stride_})),
        tenancies_(capacity) {}

  /// A slot for `request_id`, zeroed. O(bytes of a slot), the zeroing.
  /// @throws PoolExhaustedError when none is free.
  std::size_t alloc(std::uint64_t request_id) {
    const auto slot = allocator_.try_allocate();
    if (!slot) [[unlikely]]
      detail::throw_exhausted("SsmStatePool.alloc", 1, 0);
    auto& tenancy = tenancies_[*slot];
    // A slot that was never handed out is zero from construction.
    if (tenancy.generation != 0) {
      std::memset(storage_.data() + *slot * slot_stride_, 0, slot_stride_);
    }
    tenancy = {request_id, 0, tenancy.generation + 1};
    return *slot;
  }

  /// Gives a slot back; O(1).
  /// @throws InvalidSlotError for a slot out of range or already free; nothing has changed.
  void release(std::size_t slot) {
    if (!is_live(slot)) [[unlikely]] {
      detail::throw_not_live("SsmStatePool.release", "slot", slot, capacity());
    }
    allocator_.free(static_cast<BlockId>(slot));
  }

  /// The slot, or nothing when it is out of range or not live: nobody reads another request's
  /// state.
  [[nodiscard]] std::optional<SsmSlot> slot(std::size_t index) noexcept {
    if (!is_live(index)) return std::nullopt;
    return SsmSlot(*this, index);
  }
  [[nodiscard]] std::optional<SsmSlotView> slot(std::size_t index) const noexcept {
    if (!is_live(index)) return std::nullopt;
    return SsmSlotView(*this, index);
  }

  [[nodiscard]] bool is_live(std::size_t slot) const noexcept { return allocator_.is_live(slot); }
  [[nodiscard]] const SsmStateSpec& spec() const noexcept { return spec_; }
  [[nodiscard]] std::size_t capacity() const noexcept { return allocator_.capacity(); }
  [[nodiscard]] std::size_t free_count() const noexcept { return allocator_.free_count(); }
  [[nodiscard]] std::size_t used_count() const noexcept { return allocator_.in_use(); }

 private:
  friend SsmSlot;
  friend SsmSlotView;

  static constexpr const char* kName = "SsmStatePool";

  struct Tenancy {
    std::uint64_t request_id = 0;
    std::uint64_t position = 0;
    std::uint64_t generation = 0;  // how often the slot was handed out
  };

  SsmStateSpec spec_;
  std::size_t conv_offset_;  // bytes from the start of a slot to its convolution history
  std::size_t slot_stride_;
  BlockAllocator allocator_;
  detail::Storage storage_;  // [capacity, slot_stride_]
  std::vector<Tenancy> tenancies_;
};

}  // namespace pagedkv::inline v0_1
