#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <variant>

#include "pagedkv/core/errors.hpp"
#include "pagedkv/core/kv_cache_pool.hpp"
#include "pagedkv/core/ssm_state_pool.hpp"

namespace pagedkv::inline v0_1 {

/// The pool that a model's architecture asks for, chosen when the model is loaded: pages of keys
/// and values for a transformer, slots of recurrent state for an SSM. Calls of the other kind are
/// errors, or nothing where they return an optional.
class SequencePool {
 public:
  using Variant = std::variant<KvCachePool, SsmStatePool>;

  /// A pool of `num_pages` slabs of `page_size` values.
  /// Throws what `KvCachePool` does.
  static SequencePool kv(std::size_t page_size, std::size_t num_pages,
                         DType dtype = DType::float32) {
    return SequencePool(KvCachePool(page_size, num_pages, dtype));
  }
  /// A pool of `capacity` slots of `spec`.
  /// Throws what `SsmStatePool` does.
  static SequencePool ssm(std::size_t capacity, const SsmStateSpec& spec) {
    return SequencePool(SsmStatePool(capacity, spec));
  }

  /// @throws PoolExhaustedError when full; InvalidSlotError with `kNoSlot` on an SSM pool.
  std::size_t alloc_kv() {
    return expect<KvCachePool>("SequencePool.alloc_kv", InvalidSlotError::kNoSlot).alloc();
  }
  /// @throws InvalidSlotError for a page out of range or already free, or on an SSM pool.
  void free_kv(std::size_t page) { expect<KvCachePool>("SequencePool.free_kv", page).free(page); }
  /// @throws PoolExhaustedError when full; InvalidSlotError with `kNoSlot` on a KV pool.
  std::size_t alloc_ssm(std::uint64_t request_id) {
    return expect<SsmStatePool>("SequencePool.alloc_ssm", InvalidSlotError::kNoSlot)
        .alloc(request_id);
  }
  /// @throws InvalidSlotError for a slot out of range or already free, or on a KV pool.
  void release_ssm(std::size_t slot) {
    expect<SsmStatePool>("SequencePool.release_ssm", slot).release(slot);
  }

  /// The slot for reading, or nothing: not live, out of range, or a KV pool.
  [[nodiscard]] std::optional<SsmSlotView> ssm_slot(std::size_t slot) const noexcept {
    const auto* pool = std::get_if<SsmStatePool>(&pool_);
    return pool != nullptr ? pool->slot(slot) : std::nullopt;
  }
  /// The slot for writing, likewise.
  [[nodiscard]] std::optional<SsmSlot> ssm_slot_mut(std::size_t slot) noexcept {
    auto* pool = std::get_if<SsmStatePool>(&pool_);
    return pool != nullptr ? pool->slot(slot) : std::nullopt;
  }

  [[nodiscard]] bool is_kv_based() const noexcept {
    return std::holds_alternative<KvCachePool>(pool_);
  }
  [[nodiscard]] bool is_ssm() const noexcept { return std::holds_alternative<SsmStatePool>(pool_); }

  /// The pool itself, for `std::visit`.
  [[nodiscard]] Variant& variant() noexcept { return pool_; }
  [[nodiscard]] const Variant& variant() const noexcept { return pool_; }

 private:
  template <class Pool>
  explicit SequencePool(Pool pool) : pool_(std::move(pool)) {}

  template <class Pool>
  Pool& expect(const char* where, std::uint64_t slot) {
    auto* pool = std::get_if<Pool>(&pool_);
    if (pool == nullptr) [[unlikely]]
      throw_wrong_kind(where, slot);
    return *pool;
  }

  [[noreturn]] PAGEDKV_COLD void throw_wrong_kind(const char* where, std::uint64_t slot) const {
    throw InvalidSlotError(
        detail::located(where, is_ssm() ? "called on an SSM pool; expected a KV pool"
                                        : "called on a KV pool; expected an SSM pool"),
        slot);
  }

  Variant pool_;
};

}  // namespace pagedkv::inline v0_1
