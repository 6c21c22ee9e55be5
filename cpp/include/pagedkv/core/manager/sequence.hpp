#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "pagedkv/core/block_allocator.hpp"
#include "pagedkv/core/manager/groups.hpp"
#include "pagedkv/core/manager/prefix_tree.hpp"
#include "pagedkv/detail/grow_array.hpp"

namespace pagedkv::inline v0_1 {

using SeqId = std::uint64_t;

/// Something in a prompt that its token ids do not tell, an image for instance: tokens
/// [start, start + length) stand for content with this digest.
struct Extra {
  std::size_t start;
  std::size_t length;
  std::string digest;
};

namespace detail {

enum class SequenceStatus : std::uint8_t {
  waiting,  // holds nothing: new, or preempted
  running,
  swapped,  // its blocks are ids of the host pool
};

/// A block of the index that a sequence holds without using it: it computed the same block itself.
struct Shadow {
  std::size_t depth;  // blocks from the root
  BlockId block;
};

/// What a sequence holds of one group.
struct SequenceGroup {
  std::vector<std::int32_t> blocks;    // logical to physical, kNoBlock in holes; ssm: empty
  std::size_t live_from = 0;           // sliding window: blocks [sinks, live_from) were given back
  NodeId cursor = kNoNode;             // where the path of indexed blocks ends
  std::size_t indexed = 0;             // blocks on that path
  std::vector<Shadow> shadows;         // in order of depth
  std::int32_t state_slot = kNoBlock;  // ssm: the block that holds the running state
  std::int32_t state_source =
      kNoBlock;  // ssm: held checkpoint to copy into a slot when one is made
  std::int32_t partial_source = kNoBlock;  // held block whose first tokens are to be copied
  bool tail_is_own = false;  // the last block is held by nobody else and is in no index

  void clear() noexcept {
    blocks.clear();
    shadows.clear();
    live_from = indexed = 0;
    cursor = kNoNode;
    state_slot = state_source = partial_source = kNoBlock;
    tail_is_own = false;
  }
};

/// Calls `visit(entry)` for each block that is outside the window once `committed` tokens are.
template <class Group, class Visit>
void for_each_leaving(const GroupSpec& spec, Group& group, std::size_t committed, Visit visit) {
  const std::size_t visible =
      std::min(spec.block_of(spec.first_visible(committed)), group.blocks.size());
  for (std::size_t i = std::max(group.live_from, spec.sink_blocks()); i < visible; ++i) {
    if (group.blocks[i] != kNoBlock) visit(group.blocks[i]);
  }
}

/// What a step looks at comes first, in two cache lines.
struct alignas(kCacheLine) Sequence {
  SeqId id = 0;
  std::uint64_t call = 0;  // last call that named it, to find one named twice
  SequenceStatus status = SequenceStatus::waiting;
  std::uint8_t priority = 0;
  bool reuse = true;
  bool store = true;
  std::uint32_t salt = 0;
  std::size_t scheduled = 0;
  std::size_t committed = 0;
  std::size_t quiet = 0;            // decode steps to come that change its lengths alone
  std::size_t table_length = 0;     // entries of its longest table, as scheduled
  std::uint64_t incarnation = 0;    // new for every add and fork: batches know rows by it
  std::uint64_t table_version = 0;  // changes when an entry changes that was there before
  std::vector<TokenId> tokens;      // known ones
  std::vector<SequenceGroup> groups;
  std::size_t cached = 0;  // tokens that the last acquire found
  std::size_t index_again_at =
      0;  // tokens: a block could not enter the index, until then none does
  std::vector<BlockId> copy_sources;  // held until the copies out of them are committed
  std::vector<Extra> extras;
  std::uint32_t ttl = 0;  // 0: none

  [[nodiscard]] std::size_t known() const noexcept { return tokens.size(); }

  /// What `add` was told of `other`, and how far it has come into the index; holds nothing.
  void copy_from(const Sequence& other) {
    tokens = other.tokens;
    extras = other.extras;
    salt = other.salt;
    priority = other.priority;
    ttl = other.ttl;
    reuse = other.reuse;
    store = other.store;
    cached = other.cached;
    index_again_at = other.index_again_at;
    status = other.status;
  }
};

/// Sequences by id: open addressing, linear probing, no allocation once there is room. A record
/// that was erased keeps its vectors for the next one.
class SequenceMap {
 public:
  SequenceMap() : slots_(64, kFree) {}

  [[nodiscard]] Sequence* find(SeqId id) const noexcept {
    for (std::size_t i = home(id);; i = next(i)) {
      if (slots_[i] == kFree) return nullptr;
      Sequence* s = records_[slots_[i]].get();
      if (s->id == id) return s;
    }
  }

  /// A record for an id that is not there yet.
  Sequence& insert(SeqId id) {
    if (2 * (size_ + 1) > slots_.size()) grow();
    std::uint32_t record;
    if (unused_.empty()) {
      reserve_more(unused_, records_.size() + 1);  // so that erase needs no memory
      records_.push_back(std::make_unique<Sequence>());
      record = static_cast<std::uint32_t>(records_.size() - 1);
    } else {
      record = unused_.back();
      unused_.pop_back();
    }
    records_[record]->id = id;
    place(id, record);
    ++size_;
    return *records_[record];
  }

  void erase(SeqId id) noexcept {
    std::size_t hole = home(id);
    while (records_[slots_[hole]]->id != id) hole = next(hole);
    unused_.push_back(slots_[hole]);
    // Entries behind the hole move up, so that no probe stops short of them.
    for (std::size_t i = next(hole); slots_[i] != kFree; i = next(i)) {
      const std::size_t at_home = home(records_[slots_[i]]->id);
      const std::size_t mask = slots_.size() - 1;
      if (((i - at_home) & mask) >= ((i - hole) & mask)) {
        slots_[hole] = slots_[i];
        hole = i;
      }
    }
    slots_[hole] = kFree;
    --size_;
  }

  [[nodiscard]] std::size_t size() const noexcept { return size_; }

  /// Calls `visit(sequence)` for each, in an order that depends on the history of calls alone.
  template <class Visit>
  void for_each(Visit visit) const {
    for (const std::uint32_t record : slots_) {
      if (record != kFree) visit(*records_[record]);
    }
  }

 private:
  static constexpr std::uint32_t kFree = 0xffffffff;

  [[nodiscard]] std::size_t home(SeqId id) const noexcept {
    return static_cast<std::size_t>((id * 0x9e3779b97f4a7c15ULL) >> 32) & (slots_.size() - 1);
  }
  [[nodiscard]] std::size_t next(std::size_t i) const noexcept {
    return (i + 1) & (slots_.size() - 1);
  }
  void place(SeqId id, std::uint32_t record) noexcept {
    std::size_t i = home(id);
    while (slots_[i] != kFree) i = next(i);
    slots_[i] = record;
  }
  void grow() {
    std::vector<std::uint32_t> old(2 * slots_.size(), kFree);
    old.swap(slots_);
    for (const std::uint32_t record : old) {
      if (record != kFree) place(records_[record]->id, record);
    }
  }

  std::vector<std::uint32_t> slots_;
  std::vector<std::unique_ptr<Sequence>> records_;
  std::vector<std::uint32_t> unused_;
  std::size_t size_ = 0;
};

}  // namespace detail
}  // namespace pagedkv::inline v0_1
