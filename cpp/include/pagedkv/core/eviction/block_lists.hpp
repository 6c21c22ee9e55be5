#pragma once

// Lists of blocks for the eviction policies.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "pagedkv/core/block_allocator.hpp"

namespace pagedkv::inline v0_1::detail {

/// Where a block is, seen from an eviction policy.
enum class Place : std::uint32_t {
  listed = 0,                ///< in a list
  aside = 0xFFFF'FFFD,       ///< evictable, but something in the index depends on it
  referenced = 0xFFFF'FFFE,  ///< in use, and in no list
  absent = 0xFFFF'FFFF,      ///< not in the index
};

/// Several lists over the blocks `[0, capacity)`, oldest to newest; a block is in one at most.
/// Every call is O(1); 8 bytes a block and a list; nothing is allocated after construction.
///
/// The lists are rings: each has an end node, numbered after the blocks, so that a block leaves its
/// list without knowing which it is. Who is in no list keeps its place where its link would be.
class BlockLists {
 public:
  BlockLists(std::size_t capacity, std::size_t num_lists)
      : ends_(static_cast<std::uint32_t>(capacity)),
        older_(new std::uint32_t[capacity + num_lists]),
        newer_(new std::uint32_t[capacity + num_lists]) {
    std::fill_n(older_.get(), capacity, static_cast<std::uint32_t>(Place::absent));
    for (std::size_t list = 0; list < num_lists; ++list) {
      const auto end = static_cast<std::uint32_t>(capacity + list);
      older_[end] = newer_[end] = end;
    }
  }

  [[nodiscard]] Place place(BlockId b) const noexcept {
    return older_[b] < static_cast<std::uint32_t>(Place::aside) ? Place::listed
                                                                : static_cast<Place>(older_[b]);
  }

  [[nodiscard]] bool empty(std::size_t list) const noexcept {
    return newer_[end_of(list)] == end_of(list);
  }
  /// Of a list that is not empty.
  [[nodiscard]] BlockId oldest(std::size_t list) const noexcept { return newer_[end_of(list)]; }
  [[nodiscard]] BlockId newest(std::size_t list) const noexcept { return older_[end_of(list)]; }

  /// `b` is in no list.
  void push_newest(std::size_t list, BlockId b) noexcept {
    link(older_[end_of(list)], b, end_of(list));
  }
  void push_oldest(std::size_t list, BlockId b) noexcept {
    link(end_of(list), b, newer_[end_of(list)]);
  }

  /// Puts `b` in `place`, which is not `listed`, from wherever it is.
  void move_to(Place place, BlockId b) noexcept {
    if (this->place(b) == Place::listed) {
      newer_[older_[b]] = newer_[b];
      older_[newer_[b]] = older_[b];
    }
    older_[b] = static_cast<std::uint32_t>(place);
  }

  /// Block `from` is called `to` from now on; `to` was absent, `from` is afterwards.
  void rename(BlockId from, BlockId to) noexcept {
    older_[to] = older_[from];
    if (place(from) == Place::listed) link(older_[from], to, newer_[from]);
    older_[from] = static_cast<std::uint32_t>(Place::absent);
  }

 private:
  [[nodiscard]] std::uint32_t end_of(std::size_t list) const noexcept {
    return ends_ + static_cast<std::uint32_t>(list);
  }

  void link(std::uint32_t older, BlockId b, std::uint32_t newer) noexcept {
    older_[b] = older;
    newer_[b] = newer;
    newer_[older] = b;
    older_[newer] = b;
  }

  std::uint32_t ends_;  // number of the first list's end node
  std::unique_ptr<std::uint32_t[]> older_;
  std::unique_ptr<std::uint32_t[]> newer_;
};

}  // namespace pagedkv::inline v0_1::detail
