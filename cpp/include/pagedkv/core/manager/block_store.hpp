#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <new>
#include <numeric>
#include <optional>
#include <span>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "pagedkv/core/block_allocator.hpp"
#include "pagedkv/core/eviction/eviction_queue.hpp"
#include "pagedkv/core/manager/event_log.hpp"
#include "pagedkv/core/manager/expiry.hpp"
#include "pagedkv/core/manager/options.hpp"
#include "pagedkv/core/manager/prefix_tree.hpp"
#include "pagedkv/core/manager/salts.hpp"
#include "pagedkv/detail/grow_array.hpp"

namespace pagedkv::inline v0_1::detail {

/// The blocks of a manager and the prefix index over them: who holds a block, what it holds, which
/// one is taken next and which one is evicted. Knows nothing of sequences.
template <class Hash>
class BlockStore {
 public:
  using Tree = PrefixTree<Hash>;

  explicit BlockStore(const ManagerOptions& options, Hash hash)
      : specs_(options.groups),
        capacity_(options.num_blocks),
        first_id_(options.null_block ? 1 : 0),
        fresh_(first_id_),
        blocks_(options.num_blocks),
        freed_(options.num_blocks),
        queue_(options.eviction, options.num_blocks, kNumPriorities),
        events_(options.events, options.groups.size()),
        evicted_keys_(std::bit_ceil(std::clamp<std::size_t>(options.num_blocks, 16, 65536))) {
    for (const auto& spec : specs_) {
      trees_.emplace_back(spec.block_size, options.prefix_caching ? options.num_blocks : 1, hash);
    }
  }

  // --- taking and giving back ---

  /// Blocks that `take` could hand out.
  [[nodiscard]] std::size_t available() const noexcept {
    return capacity_ - fresh_ + num_freed_ + evictable_;
  }
  [[nodiscard]] std::size_t capacity() const noexcept { return capacity_ - first_id_; }
  [[nodiscard]] std::size_t cached() const noexcept { return cached_; }
  [[nodiscard]] std::uint64_t evictions() const noexcept { return evictions_; }
  [[nodiscard]] std::uint32_t refs(BlockId b) const noexcept { return blocks_[b].refs; }
  [[nodiscard]] bool is_indexed(BlockId b) const noexcept { return blocks_[b].node != kNoEntry; }

  /// One block, held once, in no index: given back ones first, then fresh ones, then by eviction.
  /// The caller has checked `available()`.
  BlockId take() {
    BlockId b;
    if (num_freed_ != 0) {
      b = freed_[--num_freed_];
    } else if (fresh_ < capacity_) {
      b = static_cast<BlockId>(fresh_++);
    } else {
      b = *evict_one();
    }
    blocks_[b] = {1, kNoEntry};
    return b;
  }

  void ref(BlockId b) {
    if (blocks_[b].refs++ != 0) return;
    --evictable_;
    queue_.acquire(b);
    if (!expiry_.empty()) expiry_.clear(b);
    if (!released_.empty()) unlist(b);
  }

  /// Gives one hold back. A sequence gives its blocks back the tail before the head.
  /// @param ttl  steps after which the block is evicted if nobody holds it then; 0: no such limit.
  void unref(BlockId b, std::uint32_t ttl = 0) {
    if (--blocks_[b].refs != 0) return;
    if (blocks_[b].node == kNoEntry) {
      freed_[num_freed_++] = b;
      return;
    }
    ++evictable_;
    queue_.release(b, is_leaf(b));
    const bool is_limited = num_limited_salts_ != 0 && salt_of(b).max_blocks;
    // What could not be found when its time comes goes at once.
    if ((ttl != 0 && !expiry_.set(b, step_ + ttl)) || (is_limited && !list_released(b))) evict(b);
  }

  /// Gives one hold back of each block of a table, the last one first; holes are passed over.
  void unref_backwards(std::span<const std::int32_t> table, std::uint32_t ttl) {
    if (ttl != 0 || num_limited_salts_ != 0) {
      for (std::size_t i = table.size(); i-- > 0;) {
        if (table[i] != kNoBlock) unref(static_cast<BlockId>(table[i]), ttl);
      }
      return;
    }
    queue_.release_each([&](auto release) {
      for (std::size_t i = table.size(); i-- > 0;) {
        if (table[i] == kNoBlock) continue;
        const auto b = static_cast<BlockId>(table[i]);
        if (--blocks_[b].refs != 0) continue;
        if (blocks_[b].node == kNoEntry) {
          freed_[num_freed_++] = b;
          continue;
        }
        ++evictable_;
        release(b, is_leaf(b));
      }
    });
  }

  /// Changes the count of holds alone, to see what a change would do; to be undone.
  void change_count(BlockId b, std::int32_t by) noexcept {
    blocks_[b].refs += static_cast<std::uint32_t>(by);
  }

  /// One schedule step has passed: evicts what expires now.
  void advance_step() {
    ++step_;
    while (const auto b = expiry_.next(step_)) evict(*b);
  }
  [[nodiscard]] std::uint64_t step() const noexcept { return step_; }

  /// Evicts the block whose turn it is; nothing when none can go. The block is the caller's.
  std::optional<BlockId> evict_one() {
    const auto victim = queue_.victim([this](BlockId b) { return can_go(b); });
    if (!victim) return std::nullopt;
    --evictable_;
    ++evictions_;
    forget(*victim);
    return victim;
  }

  /// Evicts `b`, which nobody holds, out of turn; false when what hangs below it forbids that.
  bool evict(BlockId b) {
    if (!can_go(b)) return false;
    queue_.remove(b);
    --evictable_;
    ++evictions_;
    forget(b);
    freed_[num_freed_++] = b;
    return true;
  }

  /// A block that `evict_one` gave.
  void give_free(BlockId b) noexcept { freed_[num_freed_++] = b; }

  // --- the index ---

  [[nodiscard]] const Tree& tree(std::size_t g) const noexcept { return trees_[g]; }
  [[nodiscard]] Tree& tree(std::size_t g) noexcept { return trees_[g]; }

  /// Puts block `b`, which is held, into the index as the content of `node`, at `depth` blocks from
  /// the root. False when the salt's limit forbids it. Needs no memory but for events.
  bool attach(std::size_t g, NodeId node, BlockId b, std::size_t depth, std::uint8_t priority) {
    Salt& salt = salts_[trees_[g][node].salt];
    if (salt.max_blocks && salt.blocks >= *salt.max_blocks && !evict_from(salt)) return false;
    events_.stored(g, trees_[g], node, salt.bytes);
    trees_[g].set_block(node, static_cast<std::int32_t>(b));
    blocks_[b].node = entry(g, node);
    queue_.insert(b, trees_[g][node].key, static_cast<std::uint32_t>(depth), priority);
    ++salt.blocks;
    ++cached_;
    return true;
  }

  /// Block `b`, which is held and in no index, takes the place of the block of `node`, which nobody
  /// holds and which holds the same: that one is given back.
  void replace(std::size_t g, NodeId node, BlockId b, std::uint8_t priority) {
    const auto old = static_cast<BlockId>(trees_[g][node].block);
    ref(old);
    queue_.rename(old, b);
    blocks_[b].node = std::exchange(blocks_[old].node, kNoEntry);
    trees_[g].set_block(node, static_cast<std::int32_t>(b));
    unref(old);
    raise_priority(b, priority);
  }

  /// A request reuses block `b`: holds it, and remembers the use.
  void hit(std::size_t g, NodeId node, BlockId b, std::uint8_t priority) {
    trees_[g].touch(node);
    queue_.hit(b);
    ref(b);
    raise_priority(b, priority);
  }

  /// Of an indexed block that is held.
  void raise_priority(BlockId b, std::uint8_t priority) {
    if (is_indexed(b) && priority > queue_.level(b)) queue_.change_level(b, priority);
  }

  /// A new node below `parent`, which has no child with these tokens and extras.
  NodeId insert(std::size_t g, NodeId parent, const TokenId* tokens, std::string_view extras) {
    const NodeId before = trees_[g][parent].first_child;
    const NodeId node = trees_[g].insert(parent, tokens, extras);
    if (before != kNoNode && trees_[g][before].next_sibling == kNoNode) supersede(g, before);
    return node;
  }

  void add_cursor(std::size_t g, NodeId node) noexcept { trees_[g].add_cursor(node); }
  void drop_cursor(std::size_t g, NodeId node) {
    trees_[g].drop_cursor(node);
    prune(g, node);
  }

  /// Group and node of an indexed block.
  [[nodiscard]] std::pair<std::size_t, NodeId> node_of(BlockId b) const noexcept {
    return {blocks_[b].node >> kNodeBits, static_cast<NodeId>(blocks_[b].node & kNodeMask)};
  }

  /// Whether a prefix of this key was evicted not long ago; may forget, for the statistics alone.
  [[nodiscard]] bool was_evicted(std::uint32_t key) const noexcept {
    return evicted_keys_[key & (evicted_keys_.size() - 1)] == key;
  }

  // --- salts ---

  /// The number of a salt; it stays while the salt is of use.
  std::uint32_t salt(std::string_view bytes) {
    if (const auto known = salts_.find(bytes)) return *known;
    for (auto& tree : trees_) tree.reserve(1);
    return salts_.add(
        bytes, trees_.size(),
        [&](std::uint32_t number, std::size_t g) { return trees_[g].add_root(number, bytes); },
        [&](NodeId root, std::size_t g) { trees_[g].remove_root(root); });
  }
  /// A sequence of this salt comes, or goes.
  void add_user(std::uint32_t salt) noexcept { ++salts_[salt].users; }
  void drop_user(std::uint32_t salt) noexcept { --salts_[salt].users; }
  /// At most this many blocks of the salt stay in the index; nothing: no limit.
  void set_salt_limit(std::uint32_t number, std::optional<std::size_t> max_blocks) {
    Salt& salt = salts_[number];
    const bool was_limited = salt.max_blocks.has_value();
    num_limited_salts_ += max_blocks.has_value();
    num_limited_salts_ -= was_limited;
    salt.max_blocks = max_blocks;
    if (!max_blocks) {
      for (const auto& [when, b] : salt.released) released_.erase(b);
      salt.released.clear();
      return;
    }
    for (std::size_t b = first_id_; b < fresh_ && !was_limited; ++b) {
      const auto id = static_cast<BlockId>(b);
      if (blocks_[b].refs == 0 && is_indexed(id) && &salt_of(id) == &salt && !list_released(id))
        evict(id);
    }
    while (salt.blocks > *max_blocks && evict_from(salt)) {
    }
  }
  [[nodiscard]] SaltTable& salts() noexcept { return salts_; }
  [[nodiscard]] const SaltTable& salts() const noexcept { return salts_; }
  [[nodiscard]] NodeId root(std::uint32_t salt, std::size_t g) const noexcept {
    return salts_[salt].roots[g];
  }

  [[nodiscard]] EventLog& events() noexcept { return events_; }
  [[nodiscard]] const std::vector<GroupSpec>& specs() const noexcept { return specs_; }

  // --- compaction ---

  /// Moves blocks that are held or indexed to the lowest ids, except `fixed` ones. Returns where
  /// each id below `fresh()` is now (itself, where it stays); whoever knows ids must translate
  /// them.
  std::vector<BlockId> compact(const std::vector<bool>& fixed) {
    std::vector<BlockId> now_at(fresh_);
    std::iota(now_at.begin(), now_at.end(), BlockId{0});
    const auto live = [&](std::size_t b) {
      return blocks_[b].refs != 0 || blocks_[b].node != kNoEntry;
    };
    std::size_t hole = first_id_, last = fresh_;
    while (true) {
      while (hole < last && live(hole)) ++hole;
      while (last > hole && (!live(last - 1) || fixed[last - 1])) --last;
      if (hole >= last) break;
      move(static_cast<BlockId>(last - 1), static_cast<BlockId>(hole));
      now_at[last - 1] = static_cast<BlockId>(hole);
    }
    const std::size_t end = fresh_;
    while (fresh_ > first_id_ && !live(fresh_ - 1)) --fresh_;
    num_freed_ = 0;
    for (std::size_t b = end; b-- > first_id_;) {
      if (b < fresh_ && !live(b)) freed_[num_freed_++] = static_cast<BlockId>(b);
    }
    released_.clear();
    for (std::uint32_t salt = 0; salt < salts_.end(); ++salt) {
      for (auto& [when, b] : salts_[salt].released) {
        b = now_at[b];
        released_.emplace(b, when);
      }
    }
    expiry_.rename(now_at);
    return now_at;
  }

  // --- for check() ---

  [[nodiscard]] std::size_t fresh() const noexcept { return fresh_; }
  [[nodiscard]] std::size_t first_id() const noexcept { return first_id_; }
  [[nodiscard]] std::size_t evictable() const noexcept { return evictable_; }
  [[nodiscard]] std::size_t queued() const noexcept { return queue_.evictable_count(); }
  [[nodiscard]] std::size_t num_given_back() const noexcept { return num_freed_; }
  [[nodiscard]] BlockId given_back(std::size_t i) const noexcept { return freed_[i]; }

  /// Bytes held for blocks, index and eviction, everything counted.
  [[nodiscard]] std::size_t memory_bytes() const noexcept {
    std::size_t bytes = capacity_ * (sizeof(Block) + sizeof(BlockId));
    for (const auto& tree : trees_) bytes += tree.memory_bytes();
    return bytes + static_cast<std::size_t>(static_cast<double>(capacity_) *
                                            EvictionQueue::bytes_per_block(queue_.kind()));
  }

 private:
  static constexpr std::uint32_t kNodeBits = 28;
  static constexpr std::uint32_t kNodeMask = (1U << kNodeBits) - 1;
  static constexpr std::uint32_t kNoEntry = 0xffffffff;
  static constexpr std::size_t kNumPriorities = 101;

  struct Block {
    std::uint32_t refs;
    std::uint32_t node;  // group and node, or kNoEntry
  };

  static std::uint32_t entry(std::size_t g, NodeId node) noexcept {
    return static_cast<std::uint32_t>(g) << kNodeBits | static_cast<std::uint32_t>(node);
  }

  [[nodiscard]] bool is_leaf(BlockId b) const noexcept {
    const auto [g, node] = node_of(b);
    return trees_[g][node].first_child == kNoNode;
  }

  /// A parent never goes before its children where they need it: the chain of full attention.
  [[nodiscard]] bool can_go(BlockId b) const noexcept {
    return specs_[node_of(b).first].kind != GroupKind::full_attention || is_leaf(b);
  }

  void move(BlockId from, BlockId to) {
    blocks_[to] = blocks_[from];
    blocks_[from] = {0, kNoEntry};
    if (blocks_[to].node == kNoEntry) return;
    const auto [g, node] = node_of(to);
    trees_[g].set_block(node, static_cast<std::int32_t>(to));
    queue_.rename(from, to);
  }

  /// `b` leaves the index.
  void forget(BlockId b) {
    const auto [g, node] = node_of(b);
    remember_evicted(trees_[g][node].key);
    if (!expiry_.empty()) expiry_.clear(b);
    if (!released_.empty()) unlist(b);
    events_.removed(g, trees_[g], node);
    Salt& salt = salts_[trees_[g][node].salt];
    --salt.blocks;
    --cached_;
    trees_[g].set_block(node, kNoBlock);
    blocks_[b].node = kNoEntry;
    prune(g, node);
  }

  void remember_evicted(std::uint32_t key) {
    evicted_keys_[key & (evicted_keys_.size() - 1)] = key;
  }

  void prune(std::size_t g, NodeId node) {
    const NodeId orphaned = trees_[g].prune(node);
    if (orphaned == kNoNode) return;
    const std::int32_t block = trees_[g][orphaned].block;
    if (block == kNoBlock) return;
    const auto b = static_cast<BlockId>(block);
    if (blocks_[b].refs != 0) return;
    queue_.reconsider(b);
    if (!expiry_.empty()) expiry_.reconsider(b);
  }

  /// Tells the policy that the chain from `node` on, which had no rival, has one now. It ends where
  /// it branches, where somebody uses it, and where the policy knows already.
  void supersede(std::size_t g, NodeId node) {
    if (queue_.kind() != EvictionKind::lifetable) return;
    for (; node != kNoNode && trees_[g][node].next_sibling == kNoNode;
         node = trees_[g][node].first_child) {
      const std::int32_t block = trees_[g][node].block;
      if (block == kNoBlock || !queue_.supersede(static_cast<BlockId>(block))) return;
    }
  }

  /// Makes room under a salt's maximum by evicting what it released first; false when all is held.
  bool evict_from(const Salt& salt) {
    for (const auto& [when, b] : salt.released) {
      if (evict(b)) return true;  // which also took the entry away
    }
    return false;
  }

  /// Notes an evictable block of a salt with a maximum; false when there is no memory for it.
  bool list_released(BlockId b) noexcept {
    try {
      salt_of(b).released.emplace(++last_release_, b);
      released_[b] = last_release_;
      return true;
    } catch (const std::bad_alloc&) {
      salt_of(b).released.erase(last_release_);
      return false;
    }
  }
  void unlist(BlockId b) {
    const auto found = released_.find(b);
    if (found == released_.end()) return;
    salt_of(b).released.erase(found->second);
    released_.erase(found);
  }

  Salt& salt_of(BlockId b) noexcept {
    const auto [g, node] = node_of(b);
    return salts_[trees_[g][node].salt];
  }

  std::vector<GroupSpec> specs_;
  std::size_t capacity_;
  std::size_t first_id_;
  std::size_t fresh_;
  GrowArray<Block> blocks_;
  GrowArray<BlockId> freed_;
  EvictionQueue queue_;
  std::size_t num_freed_ = 0;
  std::size_t evictable_ = 0;
  std::size_t cached_ = 0;
  std::uint64_t evictions_ = 0;
  std::vector<Tree> trees_;
  SaltTable salts_;
  EventLog events_;
  std::uint64_t step_ = 0;
  Expiry expiry_;  // of evictable blocks with a ttl
  std::size_t num_limited_salts_ = 0;
  std::unordered_map<BlockId, std::uint64_t> released_;  // when: of salts with a maximum
  std::uint64_t last_release_ = 0;
  std::vector<std::uint32_t> evicted_keys_;  // direct-mapped
};

}  // namespace pagedkv::inline v0_1::detail
