#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "pagedkv/core/errors.hpp"
#include "pagedkv/core/manager/block_store.hpp"

namespace pagedkv::inline v0_1::detail {

/// Blocks that are held by name, whatever becomes of the sequences that had them: by leases, or by
/// the ids of pinned sequences.
template <class Hash>
class Holds {
 public:
  explicit Holds(BlockStore<Hash>& store) : store_(store) {}

  /// Holds `blocks` under `key`, in place of what was held under it.
  void hold(std::uint64_t key, std::vector<BlockId> blocks) {
    auto& held = held_[key];
    for (const BlockId b : blocks) store_.ref(b);
    for (const BlockId b : held) store_.unref(b);
    held = std::move(blocks);
  }

  /// @throws SequenceError when nothing is held under `key`, which is that of a `what`.
  void release(const char* where, const char* what, std::uint64_t key) {
    const auto found = held_.find(key);
    if (found == held_.end()) {
      throw SequenceError(located(where, std::string(what) + " " + std::to_string(key) +
                                             " is not held; expected one that is"));
    }
    for (const BlockId b : found->second) store_.unref(b);
    held_.erase(found);
  }

  /// Calls `visit(blocks)` for each key.
  template <class Visit>
  void for_each(Visit visit) const {
    for (const auto& [key, blocks] : held_) visit(blocks);
  }

  /// Translates ids after a compaction.
  void translate(std::span<const BlockId> now_at) {
    for (auto& [key, blocks] : held_) {
      for (BlockId& b : blocks) b = now_at[b];
    }
  }

 private:
  BlockStore<Hash>& store_;
  std::unordered_map<std::uint64_t, std::vector<BlockId>> held_;
};

}  // namespace pagedkv::inline v0_1::detail
