#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "pagedkv/core/errors.hpp"
#include "pagedkv/core/manager/batch.hpp"
#include "pagedkv/core/manager/batch_writer.hpp"
#include "pagedkv/core/manager/call_checks.hpp"
#include "pagedkv/core/manager/manager_upkeep.hpp"
#include "pagedkv/core/manager/options.hpp"
#include "pagedkv/core/manager/own_batch.hpp"
#include "pagedkv/core/manager/reuse_counts.hpp"
#include "pagedkv/core/manager/room.hpp"
#include "pagedkv/core/manager/sequence.hpp"
#include "pagedkv/core/manager/swapping.hpp"

namespace pagedkv::inline v0_1 {

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
class BasicKVCacheManager : public ManagerUpkeep<Hash> {
  using Base = ManagerUpkeep<Hash>;
  using Base::options_, Base::store_, Base::blocks_, Base::sequences_, Base::match_,
      Base::exclusive_, Base::preemptions_, Base::block_copies_, Base::call_;
  using typename Base::Sequence;

 public:
  /// @throws ShapeError or CapacityError for options that make no sense; std::bad_alloc.
  explicit BasicKVCacheManager(ManagerOptions options, std::optional<Hash> hash = std::nullopt)
      : Base(std::move(options), std::move(hash)),
        room_(store_, blocks_, options_),
        swapping_(store_, blocks_, options_.num_host_blocks) {}

  /// Registers a sequence and its tokens; takes no block. O(tokens).
  /// @throws SequenceError for an id that is taken, ShapeError for options out of range.
  void add(SeqId id, std::span<const TokenId> tokens, const AddOptions& options = {}) {
    constexpr const char* where = "KVCacheManager.add";
    const auto held = exclusive_.hold(where);
    if (sequences_.find(id) != nullptr) detail::throw_taken(where, id);
    detail::expect_options(where, options);
    const std::uint32_t salt = store_.salt(options.salt);
    Sequence& s = make_sequence(id, [&](Sequence& made) {
      made.tokens.assign(tokens.begin(), tokens.end());
      made.extras = options.extras;
    });
    s.salt = salt;
    store_.add_user(salt);
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
    call_.collect(where, ids, detail::SequenceStatus::waiting, "that holds nothing");
    for (std::size_t i = 0; i < ids.size(); ++i) {
      try {
        acquire_one(call_[i]);
      } catch (...) {
        for (std::size_t done = i + 1; done-- > 0;) release_one(call_[done]);
        throw;
      }
      cached[i] = static_cast<std::int32_t>(call_[i].cached);
    }
  }

  /// How many of these sequences, from the front, `schedule` would take now; changes nothing.
  std::size_t fit(std::span<const SeqId> ids, std::span<const std::int32_t> num_new_tokens) {
    constexpr const char* where = "KVCacheManager.fit";
    const auto held = exclusive_.hold(where);
    detail::expect_sizes(where, ids.size(), num_new_tokens.size());
    call_.collect_running(where, ids);
    detail::expect_counts(where, num_new_tokens);
    return room_.fit(call_.span(), num_new_tokens);
  }

  /// Hands out slots for the next tokens of each sequence: all or nothing. Continues at the
  /// scheduled length and may pass the known one. Fills `out` (or a batch of the manager's own,
  /// valid until the next call); block copies in it are to be done before the tokens are written.
  /// @param lookahead  room for this many tokens more, without slots yet.
  /// @param pad_to     rows to fill at least; those without a sequence have length 0 and slot -1.
  /// @throws PoolExhaustedError when blocks are short; CapacityError when `out` is too small;
  ///         SequenceError, ShapeError. Nothing has changed then.
  Batch& schedule(std::span<const SeqId> ids, std::span<const std::int32_t> num_new_tokens,
                  std::size_t lookahead = 0, Batch* out = nullptr, std::size_t pad_to = 0) {
    constexpr const char* where = "KVCacheManager.schedule";
    const auto held = exclusive_.hold(where);
    detail::expect_sizes(where, ids.size(), num_new_tokens.size());
    call_.collect_running(where, ids);
    detail::expect_counts(where, num_new_tokens);
    counts_.assign(num_new_tokens.begin(), num_new_tokens.end());
    Batch& batch = expect_room(where, lookahead, out, pad_to, {});
    const auto filling = batch.hold(where);
    blocks_.reserve(call_.size(), batch);
    for (std::size_t i = 0; i < call_.size(); ++i) {
      blocks_.reserve(call_[i], counts_[i] + lookahead);
    }
    begin_step(batch);
    for (std::size_t i = 0; i < call_.size(); ++i) {
      blocks_.grow(call_[i], counts_[i], lookahead, batch);
      call_[i].quiet = 0;
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
    call_.collect_running(where, ids);
    call_.end_quiet_steps();
    detail::expect_counts(where, num_tokens);
    for (std::size_t i = 0; i < ids.size(); ++i) {
      detail::expect_scheduled(where, call_[i], static_cast<std::size_t>(num_tokens[i]));
    }
    for (std::size_t i = 0; i < ids.size(); ++i) {
      blocks_.commit(call_[i], static_cast<std::size_t>(num_tokens[i]));
    }
  }

  /// Token ids are now known: `counts[i]` of sequence i, in the order of `tokens`; without counts
  /// one each. All or nothing.
  void append(std::span<const SeqId> ids, std::span<const TokenId> tokens,
              std::span<const std::int32_t> counts = {}) {
    constexpr const char* where = "KVCacheManager.append";
    const auto held = exclusive_.hold(where);
    call_.collect(where, ids);
    call_.end_quiet_steps();
    std::size_t total = 0;
    if (counts.empty()) {
      total = ids.size();
    } else {
      detail::expect_sizes(where, ids.size(), counts.size());
      detail::expect_counts(where, counts);
      for (const std::int32_t count : counts) total += static_cast<std::size_t>(count);
    }
    detail::expect_sizes(where, total, tokens.size());
    for (std::size_t i = 0; i < ids.size(); ++i) {
      detail::reserve_more(call_[i].tokens,
                           counts.empty() ? 1 : static_cast<std::size_t>(counts[i]));
    }
    const TokenId* next = tokens.data();
    for (std::size_t i = 0; i < ids.size(); ++i) {
      const std::ptrdiff_t count = counts.empty() ? 1 : counts[i];
      Sequence& s = call_[i];
      s.tokens.insert(s.tokens.end(), next, next + count);
      next += count;
      if (s.status == detail::SequenceStatus::running) blocks_.tokens_known(s);
    }
  }

  /// The decode loop in one call, for each sequence: commit one token, append one, schedule one.
  /// All or nothing.
  Batch& step(std::span<const SeqId> ids, std::span<const TokenId> tokens, Batch* out = nullptr,
              std::size_t pad_to = 0) {
    constexpr const char* where = "KVCacheManager.step";
    const auto held = exclusive_.hold(where);
    detail::expect_sizes(where, ids.size(), tokens.size());
    call_.collect_running(where, ids);
    for (Sequence* s : call_) {
      detail::expect_scheduled(where, *s, 1);
      detail::reserve_more(s->tokens, 1);
      if (s->quiet == 0) blocks_.reserve(*s, 1);
    }
    counts_.assign(ids.size(), 1);
    Batch& batch = expect_room(where, 0, out, pad_to, tokens);
    const auto filling = batch.hold(where);
    blocks_.reserve(call_.size(), batch);
    busy_.clear();
    busy_.reserve(call_.size());
    for (std::size_t i = 0; i < ids.size(); ++i) {
      Sequence& s = call_[i];
      if (s.quiet != 0) {
        --s.quiet;
        ++s.committed;
        s.tokens.push_back(tokens[i]);
        ++s.scheduled;
        continue;
      }
      blocks_.commit(s, 1);
      busy_.push_back(i);
    }
    for (const std::size_t i : busy_) {
      call_[i].tokens.push_back(tokens[i]);
      blocks_.tokens_known(call_[i]);
    }
    begin_step(batch);
    for (const std::size_t i : busy_) {
      blocks_.grow(call_[i], 1, 0, batch);
      blocks_.foresee_quiet(call_[i]);
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
    call_.collect(where, ids);
    call_.end_quiet_steps();
    detail::expect_counts(where, num_tokens);
    for (const Sequence* s : call_) detail::expect_not_swapped(where, *s);
    for (std::size_t i = 0; i < ids.size(); ++i) {
      reached[i] = static_cast<std::int32_t>(
          blocks_.truncate(call_[i], static_cast<std::size_t>(num_tokens[i])));
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
    call_.collect_running(where, ids);
    call_.end_quiet_steps();
    if (has_ssm()) {
      detail::throw_unsupported(where, "an ssm group; expected groups of attention alone");
    }
    for (std::size_t i = 0; i < ids.size(); ++i) detail::expect_path(where, call_[i], paths[i]);
    std::vector<std::vector<SlotMove>> moves(options_.groups.size());
    std::size_t accepted = 0;
    for (const auto& path : paths) accepted += path.size();
    for (auto& of_group : moves) of_group.reserve(accepted);
    for (std::size_t i = 0; i < ids.size(); ++i) blocks_.accept(call_[i], paths[i], moves);
    return moves;
  }

  /// A copy of a sequence that shares every block of what it has committed.
  /// @throws CapacityError with an ssm group for a sequence with scheduled tokens that are not
  ///         committed: its state may have gone past what the copy would know.
  void fork(SeqId id, SeqId new_id) {
    constexpr const char* where = "KVCacheManager.fork";
    const auto held = exclusive_.hold(where);
    call_.collect(where, {&id, 1});
    call_.end_quiet_steps();
    detail::expect_not_swapped(where, call_[0]);
    if (has_ssm()) detail::expect_all_committed(where, call_[0]);
    if (sequences_.find(new_id) != nullptr) detail::throw_taken(where, new_id);
    Sequence& s = call_[0];
    Sequence& copy = make_sequence(new_id, [&](Sequence& made) {
      made.copy_from(s);
      blocks_.reserve_fork(s, made);
    });
    store_.add_user(s.salt);
    blocks_.fork(s, copy);
  }

  /// Gives the blocks of running sequences back and keeps their tokens; `acquire` resumes them.
  void preempt(std::span<const SeqId> ids) {
    constexpr const char* where = "KVCacheManager.preempt";
    const auto held = exclusive_.hold(where);
    call_.collect_running(where, ids);
    call_.end_quiet_steps();
    for (Sequence* s : call_) release_one(*s);
    preemptions_ += ids.size();
  }

  /// Moves sequences to the host pool: all or none. The pairs (block, host block) are to be copied
  /// before the next step writes.
  /// @throws PoolExhaustedError when the host pool is short, CapacityError for a sequence with
  ///         scheduled tokens that are not committed.
  std::vector<BlockCopy> swap_out(std::span<const SeqId> ids) {
    constexpr const char* where = "KVCacheManager.swap_out";
    const auto held = exclusive_.hold(where);
    call_.collect_running(where, ids);
    call_.end_quiet_steps();
    for (const Sequence* s : call_) detail::expect_all_committed(where, *s);
    const std::size_t needed = swapping_.num_held(call_.span());
    const std::size_t free = swapping_.num_free_host_blocks();
    if (needed > free) detail::throw_exhausted(where, needed, free);
    std::vector<BlockCopy> copies;
    copies.reserve(needed);
    for (Sequence* s : call_) swapping_.reserve(*s);
    for (Sequence* s : call_) swapping_.move_out(*s, copies);
    return copies;
  }

  /// Brings sequences back: all or none. The pairs (host block, block) are to be copied before the
  /// next step.
  /// @throws PoolExhaustedError when blocks are short.
  std::vector<BlockCopy> swap_in(std::span<const SeqId> ids) {
    constexpr const char* where = "KVCacheManager.swap_in";
    const auto held = exclusive_.hold(where);
    call_.collect(where, ids, detail::SequenceStatus::swapped, "that is swapped out");
    const std::size_t needed = swapping_.num_held(call_.span());
    if (needed > store_.available()) detail::throw_exhausted(where, needed, store_.available());
    std::vector<BlockCopy> copies;
    copies.reserve(needed);
    for (Sequence* s : call_) swapping_.move_in(*s, copies);
    for (Sequence* s : call_) {
      blocks_.enter_index(*s);
      blocks_.tokens_known(*s);
    }
    return copies;
  }

  /// Ends sequences; what they committed stays findable until it is evicted.
  void free(std::span<const SeqId> ids) {
    constexpr const char* where = "KVCacheManager.free";
    const auto held = exclusive_.hold(where);
    call_.collect(where, ids);
    for (Sequence* s : call_) {
      if (s->status == detail::SequenceStatus::swapped) {
        swapping_.give_back(*s);
      } else {
        blocks_.release(*s);
      }
      store_.drop_user(s->salt);
      sequences_.erase(s->id);
    }
  }

 private:
  /// Tells the managers of a process apart for the batches they fill; no decision depends on it.
  static std::uint64_t next_number() noexcept {
    static std::atomic<std::uint64_t> last = 0;
    return ++last;
  }

  [[nodiscard]] bool has_ssm() const noexcept {
    return std::ranges::any_of(options_.groups,
                               [](const GroupSpec& spec) { return spec.kind == GroupKind::ssm; });
  }

  /// A new sequence that `fill` gives what takes memory.
  template <class Fill>
  Sequence& make_sequence(SeqId id, Fill fill) {
    Sequence& s = sequences_.insert(id);
    s.incarnation = ++last_incarnation_;
    s.table_version = s.call = 0;
    s.scheduled = s.committed = s.cached = s.quiet = s.index_again_at = 0;
    s.status = detail::SequenceStatus::waiting;
    try {
      s.groups.resize(options_.groups.size());
      fill(s);
    } catch (...) {
      sequences_.erase(id);
      throw;
    }
    return s;
  }

  void acquire_one(Sequence& s) {
    blocks_.enter_index(s);
    s.cached = 0;
    if (options_.prefix_caching && s.reuse) {
      match_.find(store_, s.salt, s.tokens, s.extras, options_.partial_reuse);
      detail::count_reuse(store_, match_, s);
      blocks_.take_hit(s, match_);
    }
    s.status = detail::SequenceStatus::running;
  }
  void release_one(Sequence& s) noexcept {
    blocks_.release(s);
    s.status = detail::SequenceStatus::waiting;
  }

  /// The batch that a call fills. Checks that there are blocks for `counts_` tokens of each
  /// sequence (with tokens to append, once one is committed and appended) and that the batch has
  /// room.
  Batch& expect_room(const char* where, std::size_t lookahead, Batch* out, std::size_t pad_to,
                     std::span<const TokenId> appended) {
    const auto sizes = room_.expect(where, call_.span(), counts_, lookahead, appended);
    const std::size_t rows = std::max(call_.size(), pad_to);
    if (out == nullptr) {
      return own_batch_.with_room(*this, rows, std::max(sizes.tokens, rows), sizes.most_blocks);
    }
    out->expect_room(where, options_.groups.size(), rows, sizes.tokens, sizes.most_blocks);
    return *out;
  }

  void begin_step(Batch& batch) {
    store_.advance_step();
    batch.written_by(number_);
    for (std::size_t g = 0; g < options_.groups.size(); ++g) batch[g].copies.clear();
  }
  void finish_step(Batch& batch, std::size_t pad_to) {
    for (std::size_t g = 0; g < options_.groups.size(); ++g)
      block_copies_ += batch[g].copies.size();
    detail::BatchWriter(batch, options_.groups).write(call_.span(), counts_, pad_to);
  }

  detail::Room<Hash> room_;
  detail::Swapping<Hash> swapping_;
  std::vector<std::size_t> counts_;  // new tokens of each sequence of the call
  std::vector<std::size_t> busy_;    // places of those for which a step changes more than lengths
  detail::OwnBatch own_batch_;
  std::uint64_t number_ = next_number();
  std::uint64_t last_incarnation_ = 0;
};

using KVCacheManager = BasicKVCacheManager<>;

}  // namespace pagedkv::inline v0_1
