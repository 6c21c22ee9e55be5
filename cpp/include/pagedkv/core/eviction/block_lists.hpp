#pragma once

// Lists of blocks for the eviction policies.

#include <cstddef>
#include <cstdint>
#include <vector>

#include "pagedkv/core/block_allocator.hpp"

namespace pagedkv::inline v0_1::detail {

/// Priority of a block; blocks of the lowest level are evicted first.
using Level = std::uint8_t;

/// Where a block is, seen from an eviction policy.
enum class Place : std::uint32_t {
  listed = 0,                ///< in a list
  aside = 0xFFFF'FFFD,       ///< evictable, but something in the index depends on it
  referenced = 0xFFFF'FFFE,  ///< in use, and in no list
  absent = 0xFFFF'FFFF,      ///< not in the index
};

/// Several lists over the blocks `[0, capacity)`, oldest to newest; a block is in one at most, and
/// each has a `Note`. Every call is O(1); 8 bytes and a note a block; nothing is allocated after
/// construction.
///
/// The lists are rings: each has an end node, numbered after the blocks, so that a block leaves its
/// list without knowing which it is. Who is in no list keeps its place where its link would be.
/// Links and note lie together, since whoever moves a block looks at both.
template <class Note>
class BlockLists {
 public:
  BlockLists(std::size_t capacity, std::size_t num_lists)
      : ends_(static_cast<std::uint32_t>(capacity)), nodes_(capacity + num_lists) {
    for (std::size_t list = 0; list < num_lists; ++list) {
      Node& end = nodes_[end_of(list)];
      end.older = end.newer = end_of(list);
    }
  }

  [[nodiscard]] Note& note(BlockId b) noexcept { return nodes_[b]; }
  [[nodiscard]] const Note& note(BlockId b) const noexcept { return nodes_[b]; }

  [[nodiscard]] Place place(BlockId b) const noexcept {
    const std::uint32_t older = nodes_[b].older;
    return older < kPlaces ? Place::listed : static_cast<Place>(older);
  }

  [[nodiscard]] bool empty(std::size_t list) const noexcept { return oldest(list) == end_of(list); }
  /// Of a list that is not empty.
  [[nodiscard]] BlockId oldest(std::size_t list) const noexcept {
    return nodes_[end_of(list)].newer;
  }
  [[nodiscard]] BlockId newest(std::size_t list) const noexcept {
    return nodes_[end_of(list)].older;
  }

  /// `b` is in no list.
  void push_newest(std::size_t list, BlockId b) noexcept { link(newest(list), b, end_of(list)); }
  void push_oldest(std::size_t list, BlockId b) noexcept { link(end_of(list), b, oldest(list)); }

  /// Puts `b` in `place`, which is not `listed`, from wherever it is.
  void move_to(Place place, BlockId b) noexcept {
    Node& node = nodes_[b];
    if (node.older < kPlaces) {
      nodes_[node.older].newer = node.newer;
      nodes_[node.newer].older = node.older;
    }
    node.older = static_cast<std::uint32_t>(place);
  }

  /// Block `from` is called `to` from now on; `to` was absent, `from` is afterwards.
  void rename(BlockId from, BlockId to) noexcept {
    nodes_[to] = nodes_[from];
    if (place(from) == Place::listed) link(nodes_[from].older, to, nodes_[from].newer);
    nodes_[from].older = static_cast<std::uint32_t>(Place::absent);
  }

 private:
  static constexpr auto kPlaces = static_cast<std::uint32_t>(Place::aside);
  struct Node : Note {
    std::uint32_t older = static_cast<std::uint32_t>(Place::absent);
    std::uint32_t newer = 0;
  };

  [[nodiscard]] std::uint32_t end_of(std::size_t list) const noexcept {
    return ends_ + static_cast<std::uint32_t>(list);
  }

  void link(std::uint32_t older, BlockId b, std::uint32_t newer) noexcept {
    nodes_[b].older = older;
    nodes_[b].newer = newer;
    nodes_[older].newer = b;
    nodes_[newer].older = b;
  }

  std::uint32_t ends_;  // number of the first list's end node
  std::vector<Node> nodes_;
};

}  // namespace pagedkv::inline v0_1::detail
