#pragma once

#include <cstddef>
#include <optional>
#include <span>

#include "pagedkv/core/block_allocator.hpp"
#include "pagedkv/core/dtype.hpp"
#include "pagedkv/core/errors.hpp"
#include "pagedkv/detail/checked_math.hpp"
#include "pagedkv/detail/storage.hpp"

namespace pagedkv::inline v0_1 {

/// A fixed number of pages in host memory. A page holds the keys and the values
/// `[num_kv_heads, block_size, head_dim]` of one layer for one block of tokens; each is 64-byte
/// aligned. All pages are allocated and zeroed at construction; after that nothing is allocated.
/// For one thread at a time; different pages may be read and written from different threads.
class BlockPool {
 public:
  /// @param capacity      pages.
  /// @param block_size    tokens a page.
  /// @param num_layers    layers of the model, for information: each layer has its own block list
  ///                      in `BlockTable`.
  /// @param num_kv_heads  heads of keys and values.
  /// @param head_dim      elements a head.
  /// @throws ShapeError for a dimension of 0, an odd head_dim with int4 or an overflow,
  ///         CapacityError for 2^31 pages or more, std::bad_alloc.
  BlockPool(std::size_t capacity, std::size_t block_size, std::size_t num_layers,
            std::size_t num_kv_heads, std::size_t head_dim, DType dtype = DType::float32)
      : block_size_(positive(block_size, "block_size")),
        num_layers_(positive(num_layers, "num_layers")),
        num_kv_heads_(positive(num_kv_heads, "num_kv_heads")),
        head_dim_(positive(head_dim, "head_dim")),
        dtype_(dtype),
        half_bytes_(detail::checked_product(
            kName, {num_kv_heads, block_size, detail::bytes_of(kName, dtype, head_dim)})),
        half_stride_(detail::round_up(kName, half_bytes_, detail::kCacheLine)),
        allocator_(capacity),
        storage_(detail::checked_product(kName, {capacity, 2, half_stride_})) {}

  /// One page, or nothing when the pool is exhausted; O(1). What the page held is still there.
  std::optional<BlockId> allocate() noexcept { return allocator_.try_allocate(); }

  /// Gives a page back; O(1). Its contents stay until somebody writes them.
  /// @throws InvalidSlotError for an id out of range or not live; nothing has changed.
  void free(BlockId id) {
    expect_live("BlockPool.free", id);
    allocator_.free(id);
  }

  /// The keys of page `id`, `[num_kv_heads, block_size, head_dim]`, as bytes; O(1).
  /// @throws InvalidSlotError for an id out of range or not live.
  [[nodiscard]] std::span<std::byte> keys(BlockId id) {
    expect_live("BlockPool.keys", id);
    return half(2 * std::size_t{id});
  }
  /// The values of page `id`, likewise.
  [[nodiscard]] std::span<std::byte> values(BlockId id) {
    expect_live("BlockPool.values", id);
    return half(2 * std::size_t{id} + 1);
  }

  /// The keys of page `id` as elements of `T`.
  /// @throws InvalidSlotError as `keys`; ShapeError when `T` does not hold elements of `dtype()`.
  template <class T>
  [[nodiscard]] std::span<T> keys_as(BlockId id) {
    detail::expect_elements_of<T>("BlockPool.keys_as", dtype_);
    return detail::span_cast<T>(keys(id));
  }
  /// The values of page `id` as elements of `T`, likewise.
  template <class T>
  [[nodiscard]] std::span<T> values_as(BlockId id) {
    detail::expect_elements_of<T>("BlockPool.values_as", dtype_);
    return detail::span_cast<T>(values(id));
  }

  [[nodiscard]] bool is_live(std::uint64_t id) const noexcept { return allocator_.is_live(id); }
  [[nodiscard]] std::size_t free_count() const noexcept { return allocator_.free_count(); }
  [[nodiscard]] std::size_t total_count() const noexcept { return allocator_.capacity(); }
  /// Share of pages in use, in [0, 1]; 0 for a pool without pages.
  [[nodiscard]] double utilization() const noexcept {
    if (total_count() == 0) return 0.0;
    return static_cast<double>(allocator_.in_use()) / static_cast<double>(total_count());
  }

  [[nodiscard]] std::size_t block_size() const noexcept { return block_size_; }
  [[nodiscard]] std::size_t num_layers() const noexcept { return num_layers_; }
  [[nodiscard]] std::size_t num_kv_heads() const noexcept { return num_kv_heads_; }
  [[nodiscard]] std::size_t head_dim() const noexcept { return head_dim_; }
  [[nodiscard]] DType dtype() const noexcept { return dtype_; }

 private:
  static constexpr const char* kName = "BlockPool";

  static std::size_t positive(std::size_t value, const char* argument) {
    if (value == 0) detail::throw_zero(kName, argument);
    return value;
  }

  void expect_live(const char* where, BlockId id) const {
    if (!allocator_.is_live(id)) [[unlikely]] {
      detail::throw_not_live(where, "page id", id, total_count());
    }
  }

  [[nodiscard]] std::span<std::byte> half(std::size_t index) noexcept {
    return {storage_.data() + index * half_stride_, half_bytes_};
  }

  std::size_t block_size_;
  std::size_t num_layers_;
  std::size_t num_kv_heads_;
  std::size_t head_dim_;
  DType dtype_;
  std::size_t half_bytes_;   // bytes of the keys, or of the values, of a page
  std::size_t half_stride_;  // the same, rounded up to a cache line
  BlockAllocator allocator_;
  detail::Storage storage_;  // [capacity, 2, half_stride_]
};

}  // namespace pagedkv::inline v0_1
