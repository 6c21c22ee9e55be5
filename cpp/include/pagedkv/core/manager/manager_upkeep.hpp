#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "pagedkv/core/manager/batch.hpp"
#include "pagedkv/core/manager/call_checks.hpp"
#include "pagedkv/core/manager/call_list.hpp"
#include "pagedkv/core/manager/coverage.hpp"
#include "pagedkv/core/manager/manager_queries.hpp"
#include "pagedkv/core/manager/options.hpp"
#include "pagedkv/core/manager/sequence.hpp"

namespace pagedkv::inline v0_1 {

/// The calls of a manager that keep blocks for somebody, and those about the pool as a whole.
template <class Hash>
class ManagerUpkeep : public ManagerQueries<Hash> {
  using Queries = ManagerQueries<Hash>;

 public:
  // --- holding on ---

  /// Keeps the blocks of the first `num_tokens` scheduled tokens from reuse and eviction until
  /// `release`, also when the sequence ends: a transfer or an offload is reading them. What they
  /// hold of these tokens does not change, also not a state: the sequence goes on in a copy of it.
  /// @throws CapacityError beyond the scheduled length; with an ssm group also for a length at
  /// which
  ///         no state is kept: neither that of a checkpoint nor all that is scheduled, committed.
  [[nodiscard]] std::uint64_t hold(SeqId id, std::size_t num_tokens) {
    constexpr const char* where = "KVCacheManager.hold";
    const auto held = exclusive_.hold(where);
    call_.collect_running(where, {&id, 1});
    Sequence& s = call_[0];
    detail::expect_at_most_scheduled(where, s, num_tokens);
    const detail::Coverage<Hash> coverage(store_);
    if (!coverage.has_states(s, num_tokens)) detail::throw_no_state(where, s, num_tokens);
    leases_.hold(last_lease_ + 1, coverage.blocks(s, num_tokens));
    if (num_tokens == s.committed && s.committed == s.scheduled) blocks_.freeze_states(s);
    return ++last_lease_;
  }
  /// @throws SequenceError for a lease that is not there (any more).
  void release(std::uint64_t lease) {
    constexpr const char* where = "KVCacheManager.release";
    const auto held = exclusive_.hold(where);
    leases_.release(where, "lease", lease);
  }

  /// Keeps what a sequence has committed, so that others find it, until `unpin`, also when the
  /// sequence ends; of an ssm group the latest checkpoint. Pinning again takes the place of that.
  void pin(SeqId id) {
    constexpr const char* where = "KVCacheManager.pin";
    const auto held = exclusive_.hold(where);
    call_.collect_running(where, {&id, 1});
    pins_.hold(id, detail::Coverage<Hash>(store_).findable(call_[0]));
  }
  /// @throws SequenceError for a sequence that is not pinned.
  void unpin(SeqId id) {
    constexpr const char* where = "KVCacheManager.unpin";
    const auto held = exclusive_.hold(where);
    pins_.release(where, "pinned sequence", id);
  }

  // --- the pool ---

  /// Evicts up to `n` blocks of the prefix index; returns how many went.
  std::size_t evict(std::size_t n) {
    const auto held = exclusive_.hold("KVCacheManager.evict");
    std::size_t evicted = 0;
    for (; evicted < n; ++evicted) {
      const auto b = store_.evict_one();
      if (!b) break;
      store_.give_free(*b);
    }
    return evicted;
  }

  /// Empties the prefix index.
  /// @throws PoolError while anything is held.
  void reset() {
    constexpr const char* where = "KVCacheManager.reset";
    const auto held = exclusive_.hold(where);
    const std::size_t in_use = store_.capacity() - store_.available();
    if (in_use != 0) detail::throw_blocks_held(where, in_use);
    while (const auto b = store_.evict_one()) store_.give_free(*b);
  }

  /// Packs held and cached blocks to the lowest ids; the pairs (block, new block) are to be copied
  /// before the next step. Blocks under a lease stay where they are.
  std::vector<BlockCopy> compact() {
    const auto held = exclusive_.hold("KVCacheManager.compact");
    std::vector<bool> fixed(store_.fresh());
    leases_.for_each([&](const std::vector<BlockId>& blocks) {
      for (const BlockId b : blocks) fixed[b] = true;
    });
    std::vector<BlockCopy> copies;
    copies.reserve(store_.fresh());
    const auto now_at = store_.compact(fixed);
    sequences_.for_each([&](Sequence& s) {
      if (s.status != detail::SequenceStatus::swapped) blocks_.translate(s, now_at);
    });
    blocks_.pending_copies().translate(now_at);
    pins_.translate(now_at);
    for (std::size_t b = 0; b < now_at.size(); ++b) {
      if (now_at[b] != b) {
        copies.push_back({static_cast<std::int32_t>(b), static_cast<std::int32_t>(now_at[b])});
      }
    }
    return copies;
  }

  /// At most this many blocks of a salt stay in the index; nothing: no limit.
  void set_salt_limit(std::string_view salt, std::optional<std::size_t> max_blocks) {
    const auto held = exclusive_.hold("KVCacheManager.set_salt_limit");
    store_.set_salt_limit(store_.salt(salt), max_blocks);
  }

  // --- looking ---

  /// What entered and left the prefix index since the last call, in order.
  [[nodiscard]] std::vector<CacheEvent> take_events() {
    const auto held = exclusive_.hold("KVCacheManager.take_events");
    return store_.events().take();
  }

 protected:
  using Queries::store_, Queries::blocks_, Queries::sequences_, Queries::leases_, Queries::pins_,
      Queries::exclusive_;
  using typename Queries::Sequence;

  ManagerUpkeep(ManagerOptions options, std::optional<Hash> hash)
      : Queries(std::move(options), std::move(hash)), call_(sequences_) {}
  ~ManagerUpkeep() = default;

  detail::CallList call_;  // the sequences that the present call names

 private:
  std::uint64_t last_lease_ = 0;
};

}  // namespace pagedkv::inline v0_1
