#pragma once

// Statistics of prefix reuse, with the reason of every miss.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "pagedkv/core/manager/block_store.hpp"
#include "pagedkv/core/manager/options.hpp"
#include "pagedkv/core/manager/prefix_match.hpp"
#include "pagedkv/core/manager/sequence.hpp"

namespace pagedkv::inline v0_1::detail {

/// Why `match` is shorter than it might be. O(1): a bounded number of salts is tried.
template <class Hash>
[[nodiscard]] MissReason miss_reason(const BlockStore<Hash>& store, const PrefixMatch<Hash>& match,
                                     const Sequence& s) {
  constexpr std::size_t kSaltsTried = 64;
  const auto& specs = store.specs();
  const auto forgets = [](const GroupSpec& of) {
    return of.kind == GroupKind::ssm ? MissReason::no_checkpoint : MissReason::window_lost;
  };
  const auto end_of_path = [&](std::size_t group) {
    return match.path(group).size() * specs[group].block_size;
  };
  std::size_t g = match.limiting_group();
  if (end_of_path(g) > match.full_tokens()) {
    // It knows what comes next and only rounds down, to whole blocks of its own, what others have.
    for (std::size_t other = 0; other < specs.size(); ++other) {
      const bool knows_more = end_of_path(other) > match.full_tokens();
      if (knows_more && specs[other].kind != GroupKind::full_attention) {
        return forgets(specs[other]);
      }
      if (end_of_path(other) < end_of_path(g)) g = other;
    }
  }
  const auto& spec = specs[g];
  const auto path = match.path(g);
  const std::size_t first = end_of_path(g);
  if (first + spec.block_size > s.known()) return MissReason::never_seen;
  // A state or a window alone forgets its tokens sooner than the groups beside it. What they know
  // beyond its last whole block says nothing of it.
  std::size_t known = 0;
  for (std::size_t other = 0; other < specs.size(); ++other) {
    known = std::max(known, end_of_path(other));
  }
  if (spec.kind != GroupKind::full_attention &&
      spec.block_of(known) * spec.block_size > match.full_tokens()) {
    return forgets(spec);
  }
  const auto& tree = store.tree(g);
  const auto extras = extras_key(s.extras, first, first + spec.block_size);
  const NodeId parent = path.empty() ? store.root(s.salt, g) : path.back();
  const std::span tokens(s.tokens.data() + first, spec.block_size);
  if (store.was_evicted(PrefixTree<Hash>::next_key(tree[parent].key, tokens, extras))) {
    return MissReason::evicted;
  }
  if (path.empty()) {
    const std::size_t tried = std::min(store.salts().end(), kSaltsTried);
    for (std::uint32_t salt = 0; salt < tried; ++salt) {
      if (salt != s.salt && store.salts().is_known(salt) &&
          tree.find(store.root(salt, g), tokens.data(), extras) != kNoNode) {
        return MissReason::other_salt;
      }
    }
  }
  return MissReason::never_seen;
}

/// Counts what `match` found for `s`, under its salt.
template <class Hash>
void count_reuse(BlockStore<Hash>& store, const PrefixMatch<Hash>& match, const Sequence& s) {
  ReuseCounts& counts = store.salts()[s.salt].reuse;
  const std::size_t asked = s.known() == 0 ? 0 : s.known() - 1;
  const std::size_t found = match.full_tokens() + match.partial_tokens();
  ++counts.queries;
  counts.queried_tokens += asked;
  counts.hit_tokens += found;
  const std::size_t block_size = store.specs()[match.limiting_group()].block_size;
  if (match.full_tokens() / block_size < asked / block_size) {
    ++counts.misses[static_cast<std::size_t>(miss_reason(store, match, s))];
  }
}

}  // namespace pagedkv::inline v0_1::detail
