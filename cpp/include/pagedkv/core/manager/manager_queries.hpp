#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <random>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "pagedkv/core/manager/batch.hpp"
#include "pagedkv/core/manager/block_store.hpp"
#include "pagedkv/core/manager/call_checks.hpp"
#include "pagedkv/core/manager/call_guard.hpp"
#include "pagedkv/core/manager/holds.hpp"
#include "pagedkv/core/manager/invariants.hpp"
#include "pagedkv/core/manager/options.hpp"
#include "pagedkv/core/manager/prefix_match.hpp"
#include "pagedkv/core/manager/sequence.hpp"
#include "pagedkv/core/manager/sequence_blocks.hpp"

namespace pagedkv::inline v0_1 {

/// What a manager knows, and the calls that only look at it.
template <class Hash>
class ManagerQueries {
 public:
  ManagerQueries(const ManagerQueries&) = delete;
  ManagerQueries& operator=(const ManagerQueries&) = delete;

  /// Tokens known.
  [[nodiscard]] std::size_t num_tokens(SeqId id) const {
    constexpr const char* where = "KVCacheManager.num_tokens";
    const auto held = exclusive_.hold(where);
    return find(where, id).known();
  }
  [[nodiscard]] std::size_t num_scheduled(SeqId id) const {
    constexpr const char* where = "KVCacheManager.num_scheduled";
    const auto held = exclusive_.hold(where);
    return find(where, id).scheduled;
  }
  [[nodiscard]] std::size_t num_committed(SeqId id) const {
    constexpr const char* where = "KVCacheManager.num_committed";
    const auto held = exclusive_.hold(where);
    return find(where, id).committed;
  }
  /// Tokens that the last `acquire` found.
  [[nodiscard]] std::size_t num_cached(SeqId id) const {
    constexpr const char* where = "KVCacheManager.num_cached";
    const auto held = exclusive_.hold(where);
    return find(where, id).cached;
  }
  /// The table of a group, -1 in holes; of an ssm group the block that holds the state, or from
  /// which it will be copied, if any.
  [[nodiscard]] std::vector<std::int32_t> block_ids(SeqId id, std::size_t group = 0) const {
    constexpr const char* where = "KVCacheManager.block_ids";
    const auto held = exclusive_.hold(where);
    const Sequence& s = find(where, id);
    if (group >= s.groups.size()) {
      detail::throw_out_of_range(where, "group", group, s.groups.size());
    }
    const auto& blocks = s.groups[group];
    if (blocks.state_slot != kNoBlock) return {blocks.state_slot};
    if (blocks.state_source != kNoBlock) return {blocks.state_source};
    return blocks.blocks;
  }
  [[nodiscard]] bool contains(SeqId id) const {
    const auto held = exclusive_.hold("KVCacheManager.contains");
    return sequences_.find(id) != nullptr;
  }
  [[nodiscard]] std::size_t num_sequences() const {
    const auto held = exclusive_.hold("KVCacheManager.num_sequences");
    return sequences_.size();
  }
  /// Blocks that `schedule` could take: unused ones, and cached ones that nobody holds.
  [[nodiscard]] std::size_t num_free_blocks() const {
    const auto held = exclusive_.hold("KVCacheManager.num_free_blocks");
    return store_.available();
  }
  /// Share of blocks that are held, in [0, 1].
  [[nodiscard]] double usage() const {
    const auto held = exclusive_.hold("KVCacheManager.usage");
    if (store_.capacity() == 0) return 0.0;
    return 1.0 - static_cast<double>(store_.available()) / static_cast<double>(store_.capacity());
  }
  [[nodiscard]] ManagerStats stats() const {
    const auto held = exclusive_.hold("KVCacheManager.stats");
    ManagerStats stats;
    stats.reuse = store_.salts().total();
    stats.num_sequences = sequences_.size();
    stats.num_blocks = store_.capacity();
    stats.num_free_blocks = store_.available();
    stats.num_cached_blocks = store_.cached();
    stats.evictions = store_.evictions();
    stats.preemptions = preemptions_;
    stats.block_copies = block_copies_;
    stats.steps = store_.step();
    return stats;
  }
  /// Counters of one salt alone; they last while something is of it (a sequence, a block of the
  /// index, a maximum), and may be forgotten afterwards.
  [[nodiscard]] ReuseCounts salt_stats(std::string_view salt) const {
    const auto held = exclusive_.hold("KVCacheManager.salt_stats");
    const auto number = store_.salts().find(salt);
    return number ? store_.salts()[*number].reuse : ReuseCounts{};
  }
  /// Bytes of the books: blocks, index, eviction.
  [[nodiscard]] std::size_t memory_bytes() const {
    const auto held = exclusive_.hold("KVCacheManager.memory_bytes");
    return store_.memory_bytes();
  }
  /// What it was made with, block sizes filled in; never changes.
  [[nodiscard]] const ManagerOptions& options() const noexcept { return options_; }

  /// Checks every invariant. O(everything).
  /// @throws Error that names the first one that is broken.
  void check() const {
    const auto held = exclusive_.hold("KVCacheManager.check");
    detail::Invariants<Hash> invariants(store_, blocks_.pending_copies());
    sequences_.for_each([&](const Sequence& s) { invariants.add(s); });
    const auto add_held = [&](const std::vector<BlockId>& blocks) { invariants.add_held(blocks); };
    leases_.for_each(add_held);
    pins_.for_each(add_held);
    invariants.check();
  }

  /// Tokens of this prompt that `acquire` would find now; changes nothing.
  [[nodiscard]] std::size_t probe(std::span<const TokenId> tokens, std::string_view salt = {},
                                  const std::vector<Extra>& extras = {}) {
    const auto held = exclusive_.hold("KVCacheManager.probe");
    const auto number = store_.salts().find(salt);
    if (!number || !options_.prefix_caching) return 0;
    match_.find(store_, *number, tokens, extras, options_.partial_reuse);
    return match_.full_tokens() + match_.partial_tokens();
  }

  /// A batch for this manager, see `Batch`.
  [[nodiscard]] Batch new_batch(std::size_t max_seqs, std::size_t max_tokens,
                                std::size_t max_blocks_per_seq,
                                std::span<std::byte> buffer = {}) const {
    return Batch(options_.groups.size(), max_seqs, max_tokens, max_blocks_per_seq,
                 options_.null_block ? 0 : kNoBlock, buffer);
  }

 protected:
  using Sequence = detail::Sequence;

  ManagerQueries(ManagerOptions options, std::optional<Hash> hash)
      : options_(resolved(std::move(options))),
        store_(options_, hash ? *hash : Hash(options_.hash_key.value_or(random_key()))),
        blocks_(store_, options_.prefix_caching),
        leases_(store_),
        pins_(store_) {}
  ~ManagerQueries() = default;

  [[nodiscard]] const Sequence& find(const char* where, SeqId id) const {
    const Sequence* s = sequences_.find(id);
    if (s == nullptr) [[unlikely]]
      detail::throw_unknown(where, id);
    return *s;
  }

  ManagerOptions options_;
  detail::BlockStore<Hash> store_;
  detail::SequenceBlocks<Hash> blocks_;
  detail::SequenceMap sequences_;
  detail::Holds<Hash> leases_;
  detail::Holds<Hash> pins_;
  detail::PrefixMatch<Hash> match_;
  mutable detail::CallGuard exclusive_;
  std::uint64_t preemptions_ = 0;
  std::uint64_t block_copies_ = 0;

 private:
  static detail::HashKey random_key() {
    std::random_device random;
    const auto word = [&] { return std::uint64_t{random()} << 32 | random(); };
    return {word(), word()};
  }
};

}  // namespace pagedkv::inline v0_1
