#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "pagedkv/core/block_allocator.hpp"
#include "pagedkv/core/manager/batch.hpp"
#include "pagedkv/core/manager/block_store.hpp"
#include "pagedkv/core/manager/sequence.hpp"
#include "pagedkv/core/manager/sequence_blocks.hpp"

namespace pagedkv::inline v0_1::detail {

/// Moves what sequences hold to a second pool of ids, that of the host, and back. Callers have
/// checked arguments and room.
template <class Hash>
class Swapping {
 public:
  Swapping(BlockStore<Hash>& store, SequenceBlocks<Hash>& blocks, std::size_t num_host_blocks)
      : store_(store), blocks_(blocks), host_(num_host_blocks) {}

  /// Blocks that these sequences need on the other side.
  [[nodiscard]] static std::size_t num_held(std::span<Sequence* const> sequences) noexcept {
    std::size_t blocks = 0;
    for (const Sequence* s : sequences) for_each_held(*s, [&](std::int32_t) { ++blocks; });
    return blocks;
  }
  [[nodiscard]] std::size_t num_free_host_blocks() const noexcept { return host_.free_count(); }

  /// Memory for what `move_out` notes of `s`.
  static void reserve(Sequence& s) {
    for (auto& group : s.groups) {
      if (group.partial_source != kNoBlock) reserve_more(group.blocks, 1);
    }
  }

  /// Replaces every block that `s` holds by one of the host, and then gives the old ones back.
  /// Pairs (old, new) go to `copies`. The sequence leaves the index.
  void move_out(Sequence& s, std::vector<BlockCopy>& copies) {
    const std::size_t first = copies.size();
    const auto replace = [&](std::int32_t& entry) {
      if (entry == kNoBlock) return;
      copies.push_back({entry, static_cast<std::int32_t>(host_.allocate())});
      entry = copies.back().dst;
    };
    blocks_.drop_copy_sources(s);
    for (auto& group : s.groups) {
      // A source that was to be copied is copied now; so is a state that was to be taken over.
      if (group.partial_source != kNoBlock) {
        group.blocks.push_back(std::exchange(group.partial_source, kNoBlock));
      }
      if (group.state_slot == kNoBlock) std::swap(group.state_slot, group.state_source);
      for (std::int32_t& entry : group.blocks) replace(entry);
      replace(group.state_slot);
    }
    for (std::size_t i = copies.size(); i-- > first;) {
      store_.unref(static_cast<BlockId>(copies[i].src), s.ttl);
    }
    blocks_.leave_index(s);
    ++s.table_version;
    s.status = SequenceStatus::swapped;
  }

  /// Replaces every block of the host by a new one here, pairs (old, new) to `copies`.
  void move_in(Sequence& s, std::vector<BlockCopy>& copies) {
    const auto replace = [&](std::int32_t& entry) {
      if (entry == kNoBlock) return;
      copies.push_back({entry, static_cast<std::int32_t>(store_.take())});
      entry = copies.back().dst;
      host_.free(static_cast<BlockId>(copies.back().src));
    };
    for (auto& group : s.groups) {
      for (std::int32_t& entry : group.blocks) replace(entry);
      replace(group.state_slot);
      group.tail_is_own = true;
    }
    ++s.table_version;
    s.status = SequenceStatus::running;
  }

  /// Gives back what a sequence that is swapped out holds.
  void give_back(Sequence& s) {
    for_each_held(s, [&](std::int32_t b) { host_.free(static_cast<BlockId>(b)); });
    for (auto& group : s.groups) group.clear();
  }

 private:
  template <class Visit>
  static void for_each_held(const Sequence& s, Visit visit) {
    for (const auto& group : s.groups) {
      for (const std::int32_t b : group.blocks) {
        if (b != kNoBlock) visit(b);
      }
      for (const std::int32_t b : {group.partial_source, group.state_slot, group.state_source}) {
        if (b != kNoBlock) visit(b);
      }
    }
  }

  BlockStore<Hash>& store_;
  SequenceBlocks<Hash>& blocks_;
  BlockAllocator host_;
};

}  // namespace pagedkv::inline v0_1::detail
