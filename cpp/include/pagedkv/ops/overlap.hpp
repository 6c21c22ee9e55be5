#pragma once

// Whether two strided arrays share memory. What is read in one thread must not be written in
// another, and views of one tensor often interleave: keys and values of `[num_blocks, 2, ...]`, or
// the latent and the rotary part of `[num_blocks, block_size, 576]`. Comparing first and last bytes
// would refuse those.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "pagedkv/core/errors.hpp"
#include "pagedkv/detail/macros.hpp"
#include "pagedkv/ops/views.hpp"

namespace pagedkv::inline v0_1 {

/// The bytes of an array: runs of `run()` bytes, repeated in up to three dimensions.
class MemoryRegion {
 public:
  /// So many runs, so far apart.
  struct Dimension {
    std::int64_t size;
    std::int64_t stride;  ///< in bytes
  };

  MemoryRegion(const void* data, std::int64_t run, std::array<Dimension, 3> dimensions) noexcept
      : begin_(reinterpret_cast<std::intptr_t>(data)), run_(run) {
    for (Dimension d : dimensions) {
      if (d.size == 0) run_ = 0;
      if (d.size <= 1) continue;
      if (d.stride < 0) {
        begin_ += (d.size - 1) * d.stride;
        d.stride = -d.stride;
      }
      std::size_t i = rank_++;
      for (; i > 0 && dimensions_[i - 1].stride < d.stride; --i)
        dimensions_[i] = dimensions_[i - 1];
      dimensions_[i] = d;
    }
  }
  explicit MemoryRegion(const CacheView& c) noexcept
      : MemoryRegion(c.data, static_cast<std::int64_t>(c.row_bytes()),
                     {{{c.num_blocks, c.block_stride},
                       {c.num_heads, c.head_stride},
                       {c.block_size, c.token_stride}}}) {}
  explicit MemoryRegion(const RowsView& r) noexcept
      : MemoryRegion(r.data, static_cast<std::int64_t>(r.row_bytes()),
                     {{{r.num_tokens, r.token_stride}, {r.num_heads, r.head_stride}, {1, 0}}}) {}
  /// The scales of a cache.
  MemoryRegion(const ScaleView& s, const CacheView& c) noexcept
      : MemoryRegion(s.data, s.data == nullptr ? 0 : 4,
                     {{{s.block_stride == 0 ? 1 : c.num_blocks, s.block_stride * 4},
                       {s.head_stride == 0 ? 1 : c.num_heads, s.head_stride * 4},
                       {s.slot_stride == 0 ? 1 : c.block_size, s.slot_stride * 4}}}) {}

  [[nodiscard]] bool empty() const noexcept { return run_ == 0; }
  /// Address of the first byte.
  [[nodiscard]] std::intptr_t begin() const noexcept { return begin_; }
  /// Address behind the last byte.
  [[nodiscard]] std::intptr_t end() const noexcept { return begin_ + extent(0); }

  /// Whether two elements may share memory. True also for some arrays where none do, of dimensions
  /// that interleave.
  [[nodiscard]] bool meets_itself() const noexcept {
    if (empty()) return false;
    for (std::size_t i = 0; i < rank_; ++i) {
      if (dimensions_[i].stride < extent(i + 1)) return true;
    }
    return false;
  }
  /// Whether two arrays may share memory. Exact for arrays apart from one another, and for those of
  /// equal strides; else true where their first and last bytes interleave.
  [[nodiscard]] bool meets(const MemoryRegion& other) const noexcept {
    return !empty() && !other.empty() && meets(0, other, 0, other.begin_ - begin_);
  }

 private:
  /// Bytes from the first to the last, of dimension `from` and those within it.
  [[nodiscard]] std::int64_t extent(std::size_t from) const noexcept {
    std::int64_t bytes = run_;
    for (std::size_t i = from; i < rank_; ++i) {
      bytes += (dimensions_[i].size - 1) * dimensions_[i].stride;
    }
    return bytes;
  }
  /// The same question for what lies within dimension `i` of this and `j` of the other, which
  /// begins `ahead` bytes further.
  [[nodiscard]] bool meets(std::size_t i, const MemoryRegion& other, std::size_t j,
                           std::int64_t ahead) const noexcept {
    if (ahead >= extent(i) || -ahead >= other.extent(j)) return false;
    if (i == rank_ || j == other.rank_) return true;
    const std::int64_t stride = dimensions_[i].stride;
    if (stride == 0 || stride != other.dimensions_[j].stride || stride < extent(i + 1) ||
        stride < other.extent(j + 1)) {
      return true;
    }
    // Of one period of the other, only two of this one are near.
    const std::int64_t within = (ahead % stride + stride) % stride;
    return meets(i + 1, other, j + 1, within) || meets(i + 1, other, j + 1, within - stride);
  }

  std::intptr_t begin_;
  std::int64_t run_;
  std::array<Dimension, 3> dimensions_{};  // largest stride first
  std::size_t rank_ = 0;
};

namespace detail_overlap {

struct Named {
  MemoryRegion region;
  const char* name;
};

[[noreturn]] PAGEDKV_COLD inline void throw_overlap(const char* where, const char* a,
                                                    const char* b) {
  detail::throw_shape(where, std::string(a) + " shares memory with " + b +
                                 "; expected what is written to lie apart from all else");
}

/// ShapeError when a `written` array meets itself, another one, or one that is `read`.
inline void check(const char* where, const std::vector<Named>& written,
                  const std::vector<Named>& read) {
  for (std::size_t i = 0; i < written.size(); ++i) {
    if (written[i].region.meets_itself()) throw_overlap(where, written[i].name, "itself");
    for (std::size_t j = 0; j < i; ++j) {
      if (written[i].region.meets(written[j].region)) {
        throw_overlap(where, written[i].name, written[j].name);
      }
    }
    for (const Named& other : read) {
      if (written[i].region.meets(other.region)) throw_overlap(where, written[i].name, other.name);
    }
  }
}

/// The same for caches that are read and written, of which there may be many. O(n log n) where they
/// lie apart.
inline void check_caches(const char* where, const CacheView* caches, std::size_t count) {
  std::vector<MemoryRegion> regions;
  regions.reserve(count);
  for (std::size_t i = 0; i < count; ++i) {
    regions.emplace_back(caches[i]);
    if (regions.back().meets_itself()) throw_overlap(where, "a cache", "itself");
  }
  std::sort(regions.begin(), regions.end(),
            [](const MemoryRegion& a, const MemoryRegion& b) { return a.begin() < b.begin(); });
  for (std::size_t i = 0; i < count; ++i) {
    for (std::size_t j = i + 1; j < count && regions[j].begin() < regions[i].end(); ++j) {
      if (regions[i].meets(regions[j])) throw_overlap(where, "a cache", "another one");
    }
  }
}

}  // namespace detail_overlap
}  // namespace pagedkv::inline v0_1
