#pragma once

#include <cstddef>
#include <span>

#include "pagedkv/core/block_allocator.hpp"
#include "pagedkv/core/dtype.hpp"
#include "pagedkv/core/errors.hpp"
#include "pagedkv/detail/checked_math.hpp"
#include "pagedkv/detail/storage.hpp"

namespace pagedkv::inline v0_1 {

/// A fixed number of slabs of `page_size` values in host memory, each 64-byte aligned, allocated
/// and zeroed at construction. What a slab's values mean is the caller's. For one thread at a time;
/// different pages may be read and written from different threads.
class KvCachePool {
 public:
  /// @param page_size  values a page, at least 1.
  /// @param num_pages  pages.
  /// @throws ShapeError for a page_size of 0 or an overflow, CapacityError for 2^31 pages or more,
  ///         std::bad_alloc.
  KvCachePool(std::size_t page_size, std::size_t num_pages, DType dtype = DType::float32)
      : page_size_(page_size == 0 ? (detail::throw_zero(kName, "page_size"), 0) : page_size),
        dtype_(dtype),
        page_bytes_(detail::bytes_of(kName, dtype, page_size)),
        page_stride_(detail::round_up(kName, page_bytes_, detail::kCacheLine)),
        allocator_(num_pages),
        storage_(detail::checked_product(kName, {num_pages, page_stride_})) {}

  /// One page; O(1). What it held is still there.
  /// @throws PoolExhaustedError when none is free.
  BlockId alloc() {
    const auto page = allocator_.try_allocate();
    if (!page) [[unlikely]]
      detail::throw_exhausted("KvCachePool.alloc", 1, 0);
    return *page;
  }

  /// Gives a page back; O(1).
  /// @throws InvalidSlotError for a page out of range or not live; nothing has changed.
  void free(std::size_t page) {
    expect_live("KvCachePool.free", page);
    allocator_.free(static_cast<BlockId>(page));
  }

  /// The values of a page as bytes; O(1).
  /// @throws InvalidSlotError for a page out of range or not live.
  [[nodiscard]] std::span<std::byte> page(std::size_t page) {
    expect_live("KvCachePool.page", page);
    return {storage_.data() + page * page_stride_, page_bytes_};
  }

  /// The values of a page as `T`.
  /// @throws InvalidSlotError as above; ShapeError when `T` does not hold elements of `dtype()`.
  template <class T>
  [[nodiscard]] std::span<T> page_as(std::size_t page) {
    detail::expect_elements_of<T>("KvCachePool.page_as", dtype_);
    return detail::span_cast<T>(this->page(page));
  }

  [[nodiscard]] bool is_live(std::size_t page) const noexcept { return allocator_.is_live(page); }
  /// Values a page.
  [[nodiscard]] std::size_t page_size() const noexcept { return page_size_; }
  [[nodiscard]] std::size_t num_pages() const noexcept { return allocator_.capacity(); }
  [[nodiscard]] std::size_t free_count() const noexcept { return allocator_.free_count(); }
  [[nodiscard]] std::size_t used_count() const noexcept { return allocator_.in_use(); }
  [[nodiscard]] DType dtype() const noexcept { return dtype_; }

 private:
  static constexpr const char* kName = "KvCachePool";

  void expect_live(const char* where, std::size_t page) const {
    if (!allocator_.is_live(page)) [[unlikely]] {
      detail::throw_not_live(where, "page", page, num_pages());
    }
  }

  std::size_t page_size_;
  DType dtype_;
  std::size_t page_bytes_;
  std::size_t page_stride_;  // page_bytes_ rounded up to a cache line
  BlockAllocator allocator_;
  detail::Storage storage_;  // [num_pages, page_stride_]
};

}  // namespace pagedkv::inline v0_1
