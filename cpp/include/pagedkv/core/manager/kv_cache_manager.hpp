#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "pagedkv/core/block_allocator.hpp"
#include "pagedkv/core/errors.hpp"
#include "pagedkv/core/manager/batch.hpp"
#include "pagedkv/core/manager/batch_writer.hpp"
#include "pagedkv/core/manager/block_store.hpp"
#include "pagedkv/core/manager/call_checks.hpp"
#include "pagedkv/core/manager/call_guard.hpp"
#include "pagedkv/core/manager/commit_forecast.hpp"
#include "pagedkv/core/manager/invariants.hpp"
#include "pagedkv/core/manager/options.hpp"
#include "pagedkv/core/manager/prefix_match.hpp"
#include "pagedkv/core/manager/reuse_counts.hpp"
#include "pagedkv/core/manager/sequence.hpp"
#include "pagedkv/core/manager/sequence_blocks.hpp"

namespace pagedkv::inline v0_1 {

/// How a prompt that is registered may use the prefix index.
struct AddOptions {
  std::string_view salt = {};      ///< prompts of different salts share nothing
  std::vector<Extra> extras = {};  ///< what the token ids do not tell (images), in order
  std::uint8_t priority = 0;       ///< 0 to 100: blocks of lower priority are evicted first
  std::uint32_t ttl = 0;           ///< schedule steps that its blocks outlive it; 0: no limit
  bool reuse = true;               ///< look for a prefix
  bool store = true;               ///< let others find its blocks
};

/// Decides which physical block holds which tokens, for many sequences over one pool of block ids.
/// It deals in ids alone and never touches keys or values.
///
/// A sequence has three lengths: `known` (token ids given), `scheduled` (slots handed out) and
/// `committed` (keys and values written). `acquire` takes what the prefix index has, `schedule`
/// hands out slots for the next tokens, `commit` says that they are written, `append` makes token
/// ids known; a block that is full, committed and known can be found by others. Every call takes
/// the whole batch and is all or nothing. Decisions depend on the sequence of calls alone. One
/// caller at a time; a second one gets an error.
template <class Hash = detail::MultilinearHash>
class BasicKVCacheManager {
 public:
  /// @throws ShapeError, CapacityError for options that make no sense; std::bad_alloc.
  explicit BasicKVCacheManager(ManagerOptions options, std::optional<Hash> hash = std::nullopt)
      : options_(resolved(std::move(options))),
        store_(options_, hash ? *hash : Hash(options_.hash_key.value_or(random_key()))),
        blocks_(store_, options_.prefix_caching),
        forecast_(store_, blocks_.pending_copies(), options_.prefix_caching),
        host_(options_.num_host_blocks) {}

  BasicKVCacheManager(const BasicKVCacheManager&) = delete;
  BasicKVCacheManager& operator=(const BasicKVCacheManager&) = delete;

  /// Registers a sequence and its tokens; takes no block. O(tokens).
  /// @throws SequenceError for an id that is taken, ShapeError for options out of range.
  void add(SeqId id, std::span<const TokenId> tokens, const AddOptions& options = {}) {
    const auto held = exclusive_.hold("KVCacheManager.add");
    if (sequences_.find(id) != nullptr) detail::throw_taken("KVCacheManager.add", id);
    if (options.priority > 100) {
      detail::throw_shape("KVCacheManager.add",
                          "priority " + std::to_string(options.priority) + "; expected 0 to 100");
    }
    for (const Extra& extra : options.extras) {
      if (extra.length == 0 || extra.start > detail::kMaxTokens ||
          extra.length > detail::kMaxTokens) {
        detail::throw_shape("KVCacheManager.add", "extra of " + std::to_string(extra.length) +
                                                      " tokens at " + std::to_string(extra.start) +
                                                      "; expected at least 1 token");
      }
    }
    const std::uint32_t salt = store_.salt(options.salt);
    Sequence& s = new_sequence(id);
    s.tokens.assign(tokens.begin(), tokens.end());
    s.extras = options.extras;
    s.salt = salt;
    s.priority = options.priority;
    s.ttl = options.ttl;
    s.reuse = options.reuse;
    s.store = options.store;
  }

  /// Admits sequences that hold nothing: matches their prefixes and holds what hits; takes no new
  /// block. Their scheduled and committed lengths become the hits, which are written to `cached`.
  /// @throws SequenceError for an id that is unknown, named twice or holds blocks already.
  void acquire(std::span<const SeqId> ids, std::span<std::int32_t> cached) {
    constexpr const char* where = "KVCacheManager.acquire";
    const auto held = exclusive_.hold(where);
    detail::expect_sizes(where, ids.size(), cached.size());
    collect(where, ids, detail::SequenceStatus::waiting, "that holds nothing");
    for (std::size_t i = 0; i < ids.size(); ++i) {
      Sequence& s = *call_[i];
      blocks_.enter(s);
      s.cached = 0;
      if (options_.prefix_caching && s.reuse) {
        match_.find(store_, s.salt, s.tokens, s.extras, options_.partial_reuse);
        detail::count_reuse(store_, match_, s);
        blocks_.take_hit(s, match_);
      }
      s.status = detail::SequenceStatus::running;
      cached[i] = static_cast<std::int32_t>(s.cached);
    }
  }

  /// How many of these sequences, from the front, `schedule` would take now; changes nothing.
  std::size_t fit(std::span<const SeqId> ids, std::span<const std::int32_t> num_new_tokens) {
    constexpr const char* where = "KVCacheManager.fit";
    const auto held = exclusive_.hold(where);
    detail::expect_sizes(where, ids.size(), num_new_tokens.size());
    collect_running(where, ids);
    detail::expect_counts(where, num_new_tokens);
    std::size_t needed = 0, reserve = 0;
    Demand demand(blocks_);
    for (std::size_t i = 0; i < ids.size(); ++i) {
      const auto count = static_cast<std::size_t>(num_new_tokens[i]);
      const std::size_t blocks = demand.next(*call_[i], count);
      needed += blocks;
      if (blocks != 0) reserve = std::max(reserve, reserve_for(call_[i]->committed));
      if (needed + reserve > store_.available()) return i;
    }
    return ids.size();
  }

  /// Hands out slots for the next tokens of each sequence: all or nothing. Continues at the
  /// scheduled length and may pass the known one. Fills `out` (or a batch of the manager's own,
  /// valid until the next call); block copies in it are to be done before the tokens are written.
  /// @param lookahead  room for this many tokens more, without slots yet.
  /// @param pad_to     rows to fill at least; those without a sequence have length 0 and slot -1.
  /// @throws PoolExhaustedError when blocks are short; SequenceError, ShapeError; CapacityError
  /// when
  ///         `out` is too small. Nothing has changed then.
  Batch& schedule(std::span<const SeqId> ids, std::span<const std::int32_t> num_new_tokens,
                  std::size_t lookahead = 0, Batch* out = nullptr, std::size_t pad_to = 0) {
    constexpr const char* where = "KVCacheManager.schedule";
    const auto held = exclusive_.hold(where);
    detail::expect_sizes(where, ids.size(), num_new_tokens.size());
    collect_running(where, ids);
    detail::expect_counts(where, num_new_tokens);
    counts_.assign(num_new_tokens.begin(), num_new_tokens.end());
    Batch& batch = expect_room(where, lookahead, out, pad_to, {});
    begin_step(batch);
    for (std::size_t i = 0; i < call_.size(); ++i) {
      blocks_.grow(*call_[i], counts_[i], lookahead, batch);
      call_[i]->quiet = 0;
    }
    finish_step(batch, pad_to);
    return batch;
  }

  /// Keys and values of `num_tokens[i]` more tokens of each sequence are written: all or nothing.
  /// @throws CapacityError beyond the scheduled length; SequenceError, ShapeError.
  void commit(std::span<const SeqId> ids, std::span<const std::int32_t> num_tokens) {
    constexpr const char* where = "KVCacheManager.commit";
    const auto held = exclusive_.hold(where);
    detail::expect_sizes(where, ids.size(), num_tokens.size());
    collect_running(where, ids);
    for (Sequence* s : call_) s->quiet = 0;
    detail::expect_counts(where, num_tokens);
    for (std::size_t i = 0; i < ids.size(); ++i) {
      detail::expect_scheduled(where, *call_[i], static_cast<std::size_t>(num_tokens[i]));
    }
    for (std::size_t i = 0; i < ids.size(); ++i) {
      blocks_.commit(*call_[i], static_cast<std::size_t>(num_tokens[i]));
    }
  }

  /// Token ids are now known: `counts[i]` of sequence i, in the order of `tokens`; without counts
  /// one each. All or nothing.
  void append(std::span<const SeqId> ids, std::span<const TokenId> tokens,
              std::span<const std::int32_t> counts = {}) {
    constexpr const char* where = "KVCacheManager.append";
    const auto held = exclusive_.hold(where);
    collect_to_change(where, ids);
    std::size_t total = 0;
    if (counts.empty()) {
      total = ids.size();
    } else {
      detail::expect_sizes(where, ids.size(), counts.size());
      detail::expect_counts(where, counts);
      for (const std::int32_t count : counts) total += static_cast<std::size_t>(count);
    }
    detail::expect_sizes(where, total, tokens.size());
    const TokenId* next = tokens.data();
    for (std::size_t i = 0; i < ids.size(); ++i) {
      const std::ptrdiff_t count = counts.empty() ? 1 : counts[i];
      Sequence& s = *call_[i];
      s.tokens.insert(s.tokens.end(), next, next + count);
      next += count;
      if (s.status == detail::SequenceStatus::running) blocks_.index_full(s);
    }
  }

  /// The decode loop in one call, for each sequence: commit one token, append one, schedule one.
  /// All or nothing.
  Batch& step(std::span<const SeqId> ids, std::span<const TokenId> tokens, Batch* out = nullptr,
              std::size_t pad_to = 0) {
    constexpr const char* where = "KVCacheManager.step";
    const auto held = exclusive_.hold(where);
    detail::expect_sizes(where, ids.size(), tokens.size());
    collect_running(where, ids);
    for (const Sequence* s : call_) detail::expect_scheduled(where, *s, 1);
    counts_.assign(ids.size(), 1);
    Batch& batch = expect_room(where, 0, out, pad_to, tokens);
    busy_.clear();
    for (std::size_t i = 0; i < ids.size(); ++i) {
      Sequence& s = *call_[i];
      if (s.quiet != 0) {
        --s.quiet;
        ++s.committed;
        s.tokens.push_back(tokens[i]);
        ++s.scheduled;
        continue;
      }
      blocks_.commit(s, 1);
      s.tokens.push_back(tokens[i]);
      blocks_.index_full(s);
      busy_.push_back(&s);
    }
    begin_step(batch);
    for (Sequence* s : busy_) {
      blocks_.grow(*s, 1, 0, batch);
      blocks_.foresee_quiet(*s);
    }
    finish_step(batch, pad_to);
    return batch;
  }

  /// Back to at most `num_tokens[i]` tokens each; the lengths reached, which a group with states or
  /// a lost window may make shorter, go to `reached`.
  void truncate(std::span<const SeqId> ids, std::span<const std::int32_t> num_tokens,
                std::span<std::int32_t> reached) {
    constexpr const char* where = "KVCacheManager.truncate";
    const auto held = exclusive_.hold(where);
    detail::expect_sizes(where, ids.size(), num_tokens.size());
    detail::expect_sizes(where, ids.size(), reached.size());
    collect_to_change(where, ids);
    detail::expect_counts(where, num_tokens);
    for (const Sequence* s : call_) detail::expect_not_swapped(where, *s);
    for (std::size_t i = 0; i < ids.size(); ++i) {
      reached[i] = static_cast<std::int32_t>(
          blocks_.truncate(*call_[i], static_cast<std::size_t>(num_tokens[i])));
    }
  }

  /// Tree drafts: of the tokens scheduled behind the committed ones, `paths[i]` (increasing
  /// offsets) were accepted. They become committed, the others are given back; the slot moves that
  /// make them contiguous are to be done, in order, before the next step. Their token ids are given
  /// by `append`.
  /// @return moves of each group.
  /// @throws UnsupportedError with an ssm group: a state cannot leave a branch out.
  std::vector<std::vector<SlotMove>> accept(std::span<const SeqId> ids,
                                            std::span<const std::span<const std::int32_t>> paths) {
    constexpr const char* where = "KVCacheManager.accept";
    const auto held = exclusive_.hold(where);
    detail::expect_sizes(where, ids.size(), paths.size());
    collect_running(where, ids);
    for (Sequence* s : call_) s->quiet = 0;
    if (has_ssm()) {
      detail::throw_unsupported(where, "an ssm group; expected groups of attention alone");
    }
    for (std::size_t i = 0; i < ids.size(); ++i) detail::expect_path(where, *call_[i], paths[i]);
    std::vector<std::vector<SlotMove>> moves(options_.groups.size());
    for (std::size_t i = 0; i < ids.size(); ++i) blocks_.accept(*call_[i], paths[i], moves);
    return moves;
  }

  /// A copy of a sequence that shares every block of what it has committed.
  /// @throws CapacityError with an ssm group for a sequence with scheduled tokens that are not
  ///         committed: its state may have gone past what the copy would know.
  void fork(SeqId id, SeqId new_id) {
    constexpr const char* where = "KVCacheManager.fork";
    const auto held = exclusive_.hold(where);
    collect_to_change(where, {&id, 1});
    detail::expect_not_swapped(where, *call_[0]);
    if (has_ssm()) detail::expect_all_committed(where, *call_[0]);
    if (sequences_.find(new_id) != nullptr) detail::throw_taken(where, new_id);
    Sequence& copy = new_sequence(new_id);
    Sequence& s = *sequences_.find(id);
    copy.tokens = s.tokens;
    copy.extras = s.extras;
    copy.salt = s.salt;
    copy.priority = s.priority;
    copy.ttl = s.ttl;
    copy.reuse = s.reuse;
    copy.store = s.store;
    copy.cached = s.cached;
    copy.status = s.status;
    blocks_.fork(s, copy);
  }

  /// Gives the blocks of running sequences back and keeps their tokens; `acquire` resumes them.
  void preempt(std::span<const SeqId> ids) {
    constexpr const char* where = "KVCacheManager.preempt";
    const auto held = exclusive_.hold(where);
    collect_running(where, ids);
    for (Sequence* s : call_) s->quiet = 0;
    for (Sequence* s : call_) {
      blocks_.release(*s);
      s->status = detail::SequenceStatus::waiting;
    }
    preemptions_ += ids.size();
  }

  /// Moves sequences to the host pool: all or none. The pairs (block, host block) are to be copied
  /// before the next step writes.
  /// @throws PoolExhaustedError when the host pool is short, CapacityError for a sequence with
  ///         scheduled tokens that are not committed.
  std::vector<BlockCopy> swap_out(std::span<const SeqId> ids) {
    constexpr const char* where = "KVCacheManager.swap_out";
    const auto held = exclusive_.hold(where);
    collect_running(where, ids);
    for (Sequence* s : call_) s->quiet = 0;
    std::size_t needed = 0;
    for (const Sequence* s : call_) {
      detail::expect_all_committed(where, *s);
      needed += blocks_.num_held(*s);
    }
    if (needed > host_.free_count()) detail::throw_exhausted(where, needed, host_.free_count());
    std::vector<BlockCopy> copies;
    for (Sequence* s : call_) {
      blocks_.move_out(*s, copies, [&] { return static_cast<std::int32_t>(host_.allocate()); });
      s->status = detail::SequenceStatus::swapped;
    }
    return copies;
  }

  /// Brings sequences back: all or none. The pairs (host block, block) are to be copied before the
  /// next step.
  /// @throws PoolExhaustedError when blocks are short.
  std::vector<BlockCopy> swap_in(std::span<const SeqId> ids) {
    constexpr const char* where = "KVCacheManager.swap_in";
    const auto held = exclusive_.hold(where);
    collect(where, ids, detail::SequenceStatus::swapped, "that is swapped out");
    std::size_t needed = 0;
    for (const Sequence* s : call_) needed += blocks_.num_held(*s);
    if (needed > store_.available()) detail::throw_exhausted(where, needed, store_.available());
    std::vector<BlockCopy> copies;
    for (Sequence* s : call_) {
      blocks_.move_in(*s, copies, [&](std::int32_t b) { host_.free(static_cast<BlockId>(b)); });
      s->status = detail::SequenceStatus::running;
    }
    for (Sequence* s : call_) {
      blocks_.enter(*s);
      blocks_.index_full(*s);
    }
    return copies;
  }

  /// Ends sequences; what they committed stays findable until it is evicted.
  void free(std::span<const SeqId> ids) {
    constexpr const char* where = "KVCacheManager.free";
    const auto held = exclusive_.hold(where);
    collect(where, ids);
    for (Sequence* s : call_) {
      if (s->status == detail::SequenceStatus::swapped) {
        give_back_host(*s);
      } else {
        blocks_.release(*s);
      }
      sequences_.erase(s->id);
    }
  }

  /// Tokens of this prompt that `acquire` would find now; changes nothing.
  [[nodiscard]] std::size_t probe(std::span<const TokenId> tokens, std::string_view salt = {},
                                  const std::vector<Extra>& extras = {}) {
    const auto held = exclusive_.hold("KVCacheManager.probe");
    const auto number = store_.find_salt(salt);
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

  /// What `schedule` and `step` fill for callers that bring no batch; null before the first time.
  [[nodiscard]] std::shared_ptr<Batch> own_batch() const {
    const auto held = exclusive_.hold("KVCacheManager.own_batch");
    return own_batch_;
  }

  // --- holding on ---

  /// Keeps the blocks of the first `num_tokens` scheduled tokens from reuse and eviction until
  /// `release`, also when the sequence ends: a transfer or an offload is reading them.
  [[nodiscard]] std::uint64_t hold(SeqId id, std::size_t num_tokens) {
    constexpr const char* where = "KVCacheManager.hold";
    const auto held = exclusive_.hold(where);
    collect_running(where, {&id, 1});
    if (num_tokens > call_[0]->scheduled) {
      detail::throw_capacity(where, std::to_string(num_tokens) + " tokens; expected at most the " +
                                        std::to_string(call_[0]->scheduled) + " scheduled ones");
    }
    auto blocks = held_blocks(*call_[0], num_tokens);
    for (const BlockId b : blocks) store_.ref(b);
    leases_.emplace(++last_lease_, std::move(blocks));
    return last_lease_;
  }
  /// @throws SequenceError for a lease that is not there (any more).
  void release(std::uint64_t lease) {
    const auto held = exclusive_.hold("KVCacheManager.release");
    let_go("KVCacheManager.release", "lease", leases_, lease);
  }

  /// Keeps what a sequence has committed until `unpin`, also when the sequence ends. Pinning again
  /// adds what was committed since.
  void pin(SeqId id) {
    constexpr const char* where = "KVCacheManager.pin";
    const auto held = exclusive_.hold(where);
    collect_running(where, {&id, 1});
    auto blocks = held_blocks(*call_[0], call_[0]->committed);
    for (const BlockId b : blocks) store_.ref(b);
    auto& pinned = pins_[id];
    for (const BlockId b : pinned) store_.unref(b);
    pinned = std::move(blocks);
  }
  void unpin(SeqId id) {
    const auto held = exclusive_.hold("KVCacheManager.unpin");
    let_go("KVCacheManager.unpin", "pinned sequence", pins_, id);
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
    if (store_.available() != store_.capacity()) {
      throw PoolError(detail::located(
          where, std::to_string(store_.capacity() - store_.available()) +
                     " blocks are held; expected none (free or preempt the sequences)"));
    }
    while (const auto b = store_.evict_one()) store_.give_free(*b);
  }

  /// Packs held and cached blocks to the lowest ids; the pairs (block, new block) are to be copied
  /// before the next step. Blocks under a lease stay where they are.
  std::vector<BlockCopy> compact() {
    const auto held = exclusive_.hold("KVCacheManager.compact");
    std::vector<bool> fixed(store_.fresh());
    for (const auto& [lease, blocks] : leases_) {
      for (const BlockId b : blocks) fixed[b] = true;
    }
    const auto now_at = store_.compact(fixed);
    sequences_.for_each([&](Sequence& s) {
      if (s.status != detail::SequenceStatus::swapped) blocks_.translate(s, now_at);
    });
    blocks_.pending_copies().translate(now_at);
    for (auto& [id, blocks] : pins_) {
      for (BlockId& b : blocks) b = now_at[b];
    }
    std::vector<BlockCopy> copies;
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
  /// The table of a group, -1 in holes; of an ssm group the block that holds the state, if any.
  [[nodiscard]] std::vector<std::int32_t> block_ids(SeqId id, std::size_t group = 0) const {
    constexpr const char* where = "KVCacheManager.block_ids";
    const auto held = exclusive_.hold(where);
    const Sequence& s = find(where, id);
    if (group >= s.groups.size()) {
      detail::throw_out_of_range(where, "group", group, s.groups.size());
    }
    const auto& blocks = s.groups[group];
    if (blocks.state_slot != kNoBlock) return {blocks.state_slot};
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
    for (const auto& salt : store_.salts()) stats.reuse += salt.reuse;
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
  /// Counters of one salt alone.
  [[nodiscard]] ReuseCounts salt_stats(std::string_view salt) const {
    const auto held = exclusive_.hold("KVCacheManager.salt_stats");
    const auto number = store_.find_salt(salt);
    return number ? store_.salts()[*number].reuse : ReuseCounts{};
  }
  /// What entered and left the prefix index since the last call, in order.
  [[nodiscard]] std::vector<CacheEvent> take_events() {
    const auto held = exclusive_.hold("KVCacheManager.take_events");
    return store_.events().take();
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
    for (const auto& [id, blocks] : leases_) invariants.add_held(blocks);
    for (const auto& [id, blocks] : pins_) invariants.add_held(blocks);
    invariants.check();
  }

 private:
  using Sequence = detail::Sequence;
  using Demand = typename detail::SequenceBlocks<Hash>::Demand;
  using Holds = std::unordered_map<std::uint64_t, std::vector<BlockId>>;

  /// Tells the managers of a process apart for the batches they fill; no decision depends on it.
  static std::uint64_t next_number() noexcept {
    static std::atomic<std::uint64_t> last = 0;
    return ++last;
  }

  static detail::HashKey random_key() {
    std::random_device random;
    const auto word = [&] { return std::uint64_t{random()} << 32 | random(); };
    return {word(), word()};
  }

  [[nodiscard]] bool has_ssm() const noexcept {
    return std::ranges::any_of(options_.groups,
                               [](const GroupSpec& spec) { return spec.kind == GroupKind::ssm; });
  }

  Sequence& new_sequence(SeqId id) {
    Sequence& s = sequences_.insert(id);
    s.incarnation = ++last_incarnation_;
    s.table_version = s.call = 0;
    s.scheduled = s.committed = s.cached = s.quiet = 0;
    s.groups.resize(options_.groups.size());
    s.status = detail::SequenceStatus::waiting;
    return s;
  }

  [[nodiscard]] const Sequence& find(const char* where, SeqId id) const {
    const Sequence* s = sequences_.find(id);
    if (s == nullptr) [[unlikely]]
      detail::throw_unknown(where, id);
    return *s;
  }

  // --- checking a call before anything changes ---

  /// Puts the sequences of a call into `call_`.
  void collect(const char* where, std::span<const SeqId> ids) {
    ++last_call_;
    call_.resize(ids.size());
    for (std::size_t i = 0; i < ids.size(); ++i) {
      Sequence* s = sequences_.find(ids[i]);
      if (s == nullptr) [[unlikely]]
        detail::throw_unknown(where, ids[i]);
      if (s->call == last_call_) [[unlikely]]
        detail::throw_twice(where, ids[i]);
      s->call = last_call_;
      call_[i] = s;
    }
  }
  /// For calls that change what the quiet steps of a sequence were foreseen from.
  void collect_to_change(const char* where, std::span<const SeqId> ids) {
    collect(where, ids);
    for (Sequence* s : call_) s->quiet = 0;
  }
  void collect(const char* where, std::span<const SeqId> ids, detail::SequenceStatus status,
               const char* expected) {
    collect(where, ids);
    for (const Sequence* s : call_) detail::expect_status(where, *s, status, expected);
  }
  void collect_running(const char* where, std::span<const SeqId> ids) {
    collect(where, ids, detail::SequenceStatus::running, "that is running (acquire it first)");
  }

  /// Blocks that must stay free beside what a sequence of that committed length takes.
  [[nodiscard]] std::size_t reserve_for(std::size_t committed) const noexcept {
    if (committed != 0 || options_.watermark == 0.0) return 0;
    return static_cast<std::size_t>(
        std::ceil(options_.watermark * static_cast<double>(store_.capacity())));
  }

  /// Checks that `call_` can be given `counts_` tokens and that the batch has room for them. With
  /// tokens to append, one is committed and appended first, and what that gives back and holds
  /// counts.
  Batch& expect_room(const char* where, std::size_t lookahead, Batch* out, std::size_t pad_to,
                     std::span<const TokenId> appended) {
    std::size_t needed = 0, most_held = 0, reserve = 0, tokens = 0, most_blocks = 0;
    std::optional<Demand> demand(blocks_);
    for (std::size_t i = 0; i < call_.size(); ++i) {
      const Sequence& s = *call_[i];
      if (s.quiet != 0 && !appended.empty()) {
        most_blocks = std::max(most_blocks, s.table_length);
        ++tokens;
        continue;
      }
      const std::size_t more = counts_[i] + lookahead;
      if (more > detail::kMaxTokens - s.scheduled) detail::throw_too_long(where, s, more);
      const std::size_t blocks = demand->next(s, more);
      needed += blocks;
      if (!appended.empty()) most_held += forecast_.most_held_by_commit(s);
      if (blocks != 0) reserve = std::max(reserve, reserve_for(s.committed + !appended.empty()));
      tokens += counts_[i];
      most_blocks = std::max(most_blocks, blocks_.table_length(s, more));
    }
    demand.reset();
    std::size_t available = store_.available();
    if (needed + most_held + reserve > available && !appended.empty()) {
      const auto after = forecast_.after_commit(call_, appended, [this] {
        std::size_t blocks = 0;
        Demand then(blocks_);
        for (const Sequence* s : call_) blocks += then.next(*s, 1);
        return blocks;
      });
      needed = after.needed;
      (after.change < 0 ? needed : available) += static_cast<std::size_t>(std::abs(after.change));
    }
    if (needed + reserve > available) {
      detail::throw_exhausted(where, needed, available - std::min(available, reserve));
    }
    const std::size_t rows = std::max(call_.size(), pad_to);
    if (out == nullptr) return own_batch(rows, std::max(tokens, rows), most_blocks);
    if (out->num_groups() != options_.groups.size() || rows > out->max_seqs() ||
        tokens > out->max_tokens() || most_blocks > out->max_blocks_per_seq()) {
      detail::throw_capacity(
          where, std::to_string(rows) + " sequences, " + std::to_string(tokens) + " new tokens, " +
                     std::to_string(most_blocks) + " blocks a sequence, " +
                     std::to_string(options_.groups.size()) + " groups; expected at most " +
                     std::to_string(out->max_seqs()) + ", " + std::to_string(out->max_tokens()) +
                     ", " + std::to_string(out->max_blocks_per_seq()) + ", " +
                     std::to_string(out->num_groups()) + ", the batch's own");
    }
    return *out;
  }

  /// The batch for callers that bring none; grows by doubling.
  Batch& own_batch(std::size_t rows, std::size_t tokens, std::size_t blocks) {
    if (own_batch_ == nullptr || rows > own_batch_->max_seqs() ||
        tokens > own_batch_->max_tokens() || blocks > own_batch_->max_blocks_per_seq()) {
      const auto grown = [](std::size_t needed) {
        return std::bit_ceil(std::max<std::size_t>(needed, 16));
      };
      own_batch_ = std::make_shared<Batch>(new_batch(grown(rows), grown(tokens), grown(blocks)));
    }
    return *own_batch_;
  }

  // --- doing ---

  void begin_step(Batch& batch) {
    store_.advance_step();
    batch.fill_by(number_);
    for (std::size_t g = 0; g < options_.groups.size(); ++g) batch[g].copies.clear();
  }
  void finish_step(Batch& batch, std::size_t pad_to) {
    for (std::size_t g = 0; g < options_.groups.size(); ++g)
      block_copies_ += batch[g].copies.size();
    detail::BatchWriter(batch, options_.groups).write(call_, counts_, pad_to);
  }

  /// Blocks of the first `num_tokens` tokens, the tail before the head.
  [[nodiscard]] std::vector<BlockId> held_blocks(const Sequence& s, std::size_t num_tokens) const {
    std::vector<BlockId> blocks;
    for (std::size_t g = 0; g < s.groups.size(); ++g) {
      const auto& group = s.groups[g];
      const std::size_t count =
          std::min(options_.groups[g].blocks_for(num_tokens), group.blocks.size());
      auto shadow = group.shadows.rbegin();
      for (std::size_t i = count; i-- > 0;) {
        // What is above them in the index stays too.
        while (shadow != group.shadows.rend() && shadow->depth > i) ++shadow;
        if (shadow != group.shadows.rend() && shadow->depth == i) blocks.push_back(shadow->block);
        if (group.blocks[i] != kNoBlock) blocks.push_back(static_cast<BlockId>(group.blocks[i]));
      }
      for (const std::int32_t b : {group.state_slot, group.state_source}) {
        if (b != kNoBlock && num_tokens != 0) blocks.push_back(static_cast<BlockId>(b));
      }
    }
    return blocks;
  }

  void give_back_host(Sequence& s) {
    blocks_.for_each_held(s, [&](std::int32_t b) { host_.free(static_cast<BlockId>(b)); });
    for (auto& group : s.groups) group.clear();
  }

  void let_go(const char* where, const char* what, Holds& holds, std::uint64_t key) {
    const auto found = holds.find(key);
    if (found == holds.end()) {
      throw SequenceError(detail::located(where, std::string(what) + " " + std::to_string(key) +
                                                     " is not held; expected one that is"));
    }
    for (const BlockId b : found->second) store_.unref(b);
    holds.erase(found);
  }

  ManagerOptions options_;
  detail::BlockStore<Hash> store_;
  detail::SequenceBlocks<Hash> blocks_;
  detail::CommitForecast<Hash> forecast_;
  BlockAllocator host_;
  detail::SequenceMap sequences_;
  detail::PrefixMatch<Hash> match_;
  mutable detail::CallGuard exclusive_;
  std::vector<Sequence*> call_;      // sequences of the call that is running
  std::vector<std::size_t> counts_;  // new tokens of each
  std::vector<Sequence*> busy_;      // those of a step for which more than the lengths changes
  std::shared_ptr<Batch> own_batch_;
  Holds leases_;
  Holds pins_;
  std::uint64_t number_ = next_number();
  std::uint64_t last_lease_ = 0;
  std::uint64_t last_incarnation_ = 0;
  std::uint64_t last_call_ = 0;
  std::uint64_t preemptions_ = 0;
  std::uint64_t block_copies_ = 0;
};

using KVCacheManager = BasicKVCacheManager<>;

}  // namespace pagedkv::inline v0_1
