#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <vector>

#include "pagedkv/core/manager/block_store.hpp"
#include "pagedkv/core/manager/pending_copies.hpp"
#include "pagedkv/core/manager/sequence.hpp"

namespace pagedkv::inline v0_1::detail {

/// Counts anew who holds which block and compares that with the books. Fed with every sequence and
/// every hold, then `check()`.
template <class Hash>
class Invariants {
 public:
  Invariants(const BlockStore<Hash>& store, const PendingCopies& pending)
      : store_(store),
        pending_(pending),
        holds_(store.fresh(), 0),
        copies_(store.fresh(), 0),
        cursors_(store.specs().size()),
        users_(store.salts().end()) {}

  void add(const Sequence& s) {
    const std::string name = "sequence " + std::to_string(s.id) + ": ";
    ++users_[s.salt];
    expect(s.committed <= s.scheduled, name + "committed beyond scheduled");
    if (s.status == SequenceStatus::swapped) return;
    for (const BlockId b : s.copy_sources) {
      hold(b);
      ++copies_[b];
    }
    for (std::size_t g = 0; g < s.groups.size(); ++g) {
      const auto& group = s.groups[g];
      const auto& spec = store_.specs()[g];
      for (const std::int32_t b : group.blocks) hold_entry(b);
      for (const auto& shadow : group.shadows) hold(shadow.block);
      for (const std::int32_t b : {group.state_slot, group.state_source, group.partial_source}) {
        hold_entry(b);
      }
      if (group.cursor != kNoNode) {
        ++cursors_[g][group.cursor];
        check_path(name, s, g);
      }
      if (s.status == SequenceStatus::waiting) {
        expect(group.blocks.empty() && s.scheduled == 0, name + "waits and holds blocks");
        continue;
      }
      if (spec.kind != GroupKind::ssm) {
        const bool pending = group.partial_source != kNoBlock;
        const std::size_t room = (group.blocks.size() + (pending ? 1 : 0)) * spec.block_size;
        expect(s.scheduled <= room, name + "scheduled tokens without blocks");
      }
      expect(group.indexed * spec.block_size <= s.committed, name + "indexed beyond committed");
    }
  }

  void add_held(const std::vector<BlockId>& blocks) {
    for (const BlockId b : blocks) hold(b);
  }

  /// @throws Error that names the first invariant that is broken.
  void check() const {
    std::size_t evictable = 0, cached = 0, idle = 0;
    for (std::size_t i = store_.first_id(); i < store_.fresh(); ++i) {
      const auto b = static_cast<BlockId>(i);
      const std::string name = "block " + std::to_string(b) + ": ";
      expect(store_.refs(b) == holds_[i], name + "counted " + std::to_string(holds_[i]) +
                                              " holds, the books say " +
                                              std::to_string(store_.refs(b)));
      expect(pending_.count(b) == copies_[i], name + "number of copies out of it");
      if (!store_.is_indexed(b)) {
        idle += store_.refs(b) == 0;
        continue;
      }
      ++cached;
      evictable += store_.refs(b) == 0;
      const auto [g, node] = store_.node_of(b);
      expect(store_.tree(g)[node].block == static_cast<std::int32_t>(b),
             name + "its node does not know it");
    }
    expect(idle == store_.num_given_back(), "free blocks are lost or listed twice");
    std::vector<bool> listed(store_.fresh());
    for (std::size_t i = 0; i < store_.num_given_back(); ++i) {
      const BlockId b = store_.given_back(i);
      expect(!listed[b] && store_.refs(b) == 0 && !store_.is_indexed(b),
             "block " + std::to_string(b) + ": listed as free and is not");
      listed[b] = true;
    }
    expect(evictable == store_.evictable(), "number of evictable blocks");
    expect(evictable == store_.queued(), "number of blocks in the eviction queues");
    expect(cached == store_.cached(), "number of indexed blocks");
    check_trees();
    for (std::uint32_t salt = 0; salt < users_.size(); ++salt) {
      expect(users_[salt] == store_.salts()[salt].users, "number of sequences of a salt");
    }
  }

 private:
  static void expect(bool holds, const std::string& what) {
    if (!holds) throw Error("[KVCacheManager.check] " + what);
  }

  void hold(BlockId b) {
    expect(b >= store_.first_id() && b < holds_.size(),
           "block " + std::to_string(b) + ": held and was never handed out");
    ++holds_[b];
  }
  void hold_entry(std::int32_t b) {
    if (b != kNoBlock) hold(static_cast<BlockId>(b));
  }

  /// The path of the index spells the sequence's tokens.
  void check_path(const std::string& name, const Sequence& s, std::size_t g) const {
    const auto& tree = store_.tree(g);
    const std::size_t block_size = store_.specs()[g].block_size;
    NodeId node = s.groups[g].cursor;
    for (std::size_t depth = s.groups[g].indexed; depth-- > 0; node = tree[node].parent) {
      expect(tree[node].parent != kNoNode, name + "its path is too short");
      const auto tokens = tree.tokens(node);
      expect(std::equal(tokens.begin(), tokens.end(),
                        s.tokens.begin() + static_cast<std::ptrdiff_t>(depth * block_size)),
             name + "its path has other tokens");
      if (store_.specs()[g].kind == GroupKind::full_attention) {
        expect(tree[node].block != kNoBlock &&
                   store_.refs(static_cast<BlockId>(tree[node].block)) != 0,
               name + "a block of its path can be evicted");
      }
    }
    expect(node == store_.root(s.salt, g), name + "its path does not end at its salt");
  }

  void check_trees() const {
    for (std::size_t g = 0; g < store_.specs().size(); ++g) {
      const auto& tree = store_.tree(g);
      std::size_t nodes = 0;
      for (std::uint32_t salt = 0; salt < store_.salts().end(); ++salt) {
        if (!store_.salts().is_known(salt)) continue;
        std::size_t blocks = 0;
        std::vector<NodeId> open{store_.root(salt, g)};
        while (!open.empty()) {
          const NodeId id = open.back();
          open.pop_back();
          ++nodes;
          const auto& node = tree[id];
          const std::string name = "node " + std::to_string(id) + ": ";
          expect(node.salt == salt, name + "is under another salt");
          blocks += node.block != kNoBlock;
          const auto cursors = cursors_[g].find(id);
          expect(node.cursors == (cursors == cursors_[g].end() ? 0 : cursors->second),
                 name + "number of cursors");
          expect(node.parent == kNoNode || node.block != kNoBlock || node.cursors != 0 ||
                     node.first_child != kNoNode,
                 name + "nothing hangs on it");
          NodeId before = kNoNode;
          for (NodeId child = node.first_child; child != kNoNode;
               child = tree[child].next_sibling) {
            expect(tree[child].parent == id && tree[child].prev_sibling == before,
                   name + "its children do not know each other");
            expect(tree.find(id, tree.tokens(child).data(), tree.extras(child)) == child,
                   name + "a child is not found");
            if (store_.specs()[g].kind == GroupKind::full_attention && node.parent != kNoNode) {
              expect(node.block != kNoBlock, name + "went before its children");
              expect(refs(node.block) != 0 || refs(tree[child].block) == 0,
                     name + "can be evicted while a child is held");
            }
            before = child;
            open.push_back(child);
          }
        }
        if (store_.specs().size() == 1) {
          expect(blocks == store_.salts()[salt].blocks, "number of blocks of a salt");
        }
      }
      expect(nodes == tree.size(), "nodes are lost");
    }
  }

  [[nodiscard]] std::uint32_t refs(std::int32_t block) const noexcept {
    return block == kNoBlock ? 0 : store_.refs(static_cast<BlockId>(block));
  }

  const BlockStore<Hash>& store_;
  const PendingCopies& pending_;
  std::vector<std::uint32_t> holds_;
  std::vector<std::uint32_t> copies_;
  std::vector<std::unordered_map<NodeId, std::uint32_t>> cursors_;
  std::vector<std::size_t> users_;  // of each salt
};

}  // namespace pagedkv::inline v0_1::detail
