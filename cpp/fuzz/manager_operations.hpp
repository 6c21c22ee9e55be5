#pragma once

// KVCacheManager over the operations that a source of choices spells: lengths, batches and contents
// against a model, every error against the state before it, every invariant by check().

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "manager_driver.hpp"

namespace pagedkv_fuzz {

template <class Hash, class Source>
class ManagerRun : public ManagerDriver<Hash, Source> {
  using Driver = ManagerDriver<Hash, Source>;
  using Driver::decided, Driver::decided_copies, Driver::state, Driver::check_lengths_of,
      Driver::fits, Driver::take_batch, Driver::run;
  using Driver::in_, Driver::world_, Driver::m_, Driver::sequences_;
  using Driver::kMaxSequences, Driver::kMaxLength;
  using Driver::some, Driver::one, Driver::ids_of, Driver::some_batch, Driver::some_token,
      Driver::some_salt, Driver::write_text, Driver::tidy;
  using typename Driver::Sequences;

 public:
  using Driver::check, Driver::Driver;

  /// One operation.
  void step() {
    switch (in_.below(24)) {
      case 0:
      case 1:
      case 2: return add();
      case 3:
      case 4: return acquire();
      case 5:
      case 6:
      case 7: return schedule();
      case 8:
      case 9:
      case 10: return commit();
      case 11:
      case 12: return append();
      case 13:
      case 14: return decode();
      case 15: return truncate();
      case 16: return accept();
      case 17: return fork();
      case 18: return in_.below(2) == 0 ? preempt() : free();
      case 19: return swap();
      case 20: return hold_or_release();
      case 21: return pin_or_unpin();
      case 22: return change_pool();
      default: return misuse();
    }
  }
  /// Ends everything: nothing may be left.
  void finish() {
    std::vector<SeqId> ids;
    for (const auto& [id, s] : sequences_) ids.push_back(id);
    m_.free(ids);
    while (!leases_.empty()) release(leases_.begin()->first);
    for (const SeqId id : pinned_) m_.unpin(id);
    check();
    PAGEDKV_FUZZ_CHECK(m_.num_free_blocks() == m_.stats().num_blocks && m_.num_sequences() == 0);
    m_.reset();
    check();
    PAGEDKV_FUZZ_CHECK(world_.num_stored() == 0 && m_.stats().num_cached_blocks == 0);
  }

 private:
  void add() {
    if (sequences_.size() == kMaxSequences) return;
    ModelSequence s;
    s.id = ++last_id_;
    s.salt = some_salt();
    if (in_.below(4) == 0) s.extras.push_back({in_.below(12), 1 + in_.below(6), "x"});
    if (in_.below(8) == 0) s.extras.push_back({12 + in_.below(12), 1 + in_.below(6), "yy"});
    s.text = Text(s.salt, s.extras);
    pagedkv::AddOptions options;
    options.salt = s.salt;
    options.extras = s.extras;
    options.priority = static_cast<std::uint8_t>(in_.below(4) == 0 ? in_.below(101) : 0);
    options.ttl = static_cast<std::uint32_t>(in_.below(5) == 0 ? in_.below(20) : 0);
    options.reuse = in_.below(8) != 0;
    options.store = in_.below(8) != 0;
    s.known = in_.below(5 * m_.options().block_size + 1);
    write_text(s, s.known);
    m_.add(s.id, s.text.tokens(), options);
    if (!options.reuse) without_reuse_.insert(s.id);
    sequences_.emplace(s.id, std::move(s));
  }

  void acquire() {
    const Sequences chosen = some(Standing::waiting);
    std::vector<std::int32_t> cached(chosen.size()), found(chosen.size());
    for (std::size_t i = 0; i < chosen.size(); ++i) {
      const auto& s = *chosen[i];
      found[i] = static_cast<std::int32_t>(m_.probe(s.text.tokens(), s.salt, s.extras));
      if (without_reuse_.contains(s.id)) found[i] = 0;
    }
    m_.acquire(ids_of(chosen), cached);
    PAGEDKV_FUZZ_CHECK(cached == found);
    for (std::size_t i = 0; i < chosen.size(); ++i) {
      auto& s = *chosen[i];
      s.standing = Standing::running;
      s.scheduled = s.committed = static_cast<std::size_t>(cached[i]);
      PAGEDKV_FUZZ_CHECK(s.committed == 0 || s.committed < s.known);
      decided(cached[i]);
    }
    check_lengths_of(chosen);
  }

  /// Schedules `counts` tokens and does not run them; null when blocks were short.
  const pagedkv::Batch* hand_out(const Sequences& chosen, const std::vector<std::int32_t>& counts,
                                 std::vector<Row>& rows) {
    const std::size_t lookahead = in_.below(4) == 0 ? in_.below(20) : 0;
    const std::size_t pad_to = in_.below(4) == 0 ? in_.below(kMaxSequences + 1) : 0;
    const auto ids = ids_of(chosen);
    pagedkv::Batch* out = some_batch();
    const std::size_t fitting = m_.fit(ids, counts);
    const bool done = fits([&] { out = &m_.schedule(ids, counts, lookahead, out, pad_to); });
    PAGEDKV_FUZZ_CHECK(!done || fitting == ids.size());
    PAGEDKV_FUZZ_CHECK(done || lookahead != 0 || fitting < ids.size());
    if (!done) return nullptr;
    for (std::size_t i = 0; i < chosen.size(); ++i) {
      const auto count = static_cast<std::size_t>(counts[i]);
      chosen[i]->scheduled += count;
      rows.push_back({chosen[i], count});
    }
    take_batch(*out, rows, pad_to);
    return out;
  }

  void schedule() {
    const Sequences chosen = some(Standing::running);
    std::vector<std::int32_t> counts;
    for (auto* s : chosen) {
      const std::size_t room = kMaxLength - s->scheduled;
      const std::size_t count = std::min(room, in_.below(3 * m_.options().block_size + 1));
      counts.push_back(static_cast<std::int32_t>(count));
      write_text(*s, s->scheduled + count);
    }
    std::vector<Row> rows;
    if (const auto* batch = hand_out(chosen, counts, rows)) run(*batch, rows);
    for (auto* s : chosen) tidy(*s);
    check_lengths_of(chosen);
  }

  void commit() {
    const Sequences chosen = some(Standing::running);
    std::vector<std::int32_t> counts;
    for (auto* s : chosen) {
      // Most often all: a sequence whose steps are all done can be swapped, and its state kept.
      const std::size_t pending = s->scheduled - s->committed;
      const std::size_t count = in_.below(3) == 0 ? in_.below(pending + 1) : pending;
      counts.push_back(static_cast<std::int32_t>(count));
      s->committed += count;
    }
    m_.commit(ids_of(chosen), counts);
    check_lengths_of(chosen);
  }

  void append() {
    Sequences chosen = some(in_.below(2) == 0 ? Standing::running : Standing::waiting);
    if (in_.below(4) == 0) chosen = some(Standing::swapped);
    std::vector<TokenId> tokens;
    std::vector<std::int32_t> counts;
    for (auto* s : chosen) {
      const std::size_t count = std::min(kMaxLength - std::min(kMaxLength, s->known), in_.below(6));
      counts.push_back(static_cast<std::int32_t>(count));
      write_text(*s, s->known + count);
      const auto first = s->text.tokens().begin() + static_cast<std::ptrdiff_t>(s->known);
      tokens.insert(tokens.end(), first, first + static_cast<std::ptrdiff_t>(count));
      s->known += count;
    }
    m_.append(ids_of(chosen), tokens, counts);
    check_lengths_of(chosen);
  }

  void decode() {
    const Sequences chosen = some(Standing::running, [](const ModelSequence& s) {
      return s.scheduled > s.committed && std::max(s.scheduled, s.known) < kMaxLength;
    });
    std::vector<TokenId> tokens;
    for (auto* s : chosen) {
      write_text(*s, std::max(s->known, s->scheduled) + 1);
      tokens.push_back(s->text.tokens()[s->known]);
    }
    const auto ids = ids_of(chosen);
    pagedkv::Batch* out = some_batch();
    const bool done = fits([&] { out = &m_.step(ids, tokens, out); });
    if (done || in_.below(2) == 0) {
      const std::vector<std::int32_t> ones(ids.size(), 1);
      if (!done) {
        // The three calls one by one: the last of them must be what does not fit. With a full salt
        // less is held than step could foresee.
        m_.commit(ids, ones);
        m_.append(ids, tokens);
        PAGEDKV_FUZZ_CHECK(is_limited_ || m_.fit(ids, ones) < ids.size());
      }
      std::vector<Row> rows;
      for (auto* s : chosen) {
        s->known += 1, s->committed += 1, s->scheduled += done ? 1 : 0;
        rows.push_back({s, 1});
      }
      if (done) {
        take_batch(*out, rows, 0);
        run(*out, rows);
      }
    }
    for (auto* s : chosen) tidy(*s);
    check_lengths_of(chosen);
  }

  void truncate() {
    const Sequences chosen = some(in_.below(4) == 0 ? Standing::waiting : Standing::running);
    std::vector<std::int32_t> lengths, reached(chosen.size());
    for (const auto* s : chosen) {
      lengths.push_back(static_cast<std::int32_t>(in_.below(std::max(s->known, s->scheduled) + 3)));
    }
    m_.truncate(ids_of(chosen), lengths, reached);
    for (std::size_t i = 0; i < chosen.size(); ++i) {
      auto& s = *chosen[i];
      const auto length = static_cast<std::size_t>(lengths[i]);
      const auto now = static_cast<std::size_t>(reached[i]);
      const std::size_t most = std::min(length, s.scheduled);
      PAGEDKV_FUZZ_CHECK(now <= most);
      const bool exact =
          !world_.has(pagedkv::GroupKind::ssm) && !world_.has(pagedkv::GroupKind::sliding_window);
      PAGEDKV_FUZZ_CHECK(now == most || (!exact && length < s.scheduled));
      s.known = std::min(s.known, length);
      s.scheduled = now;
      s.committed = std::min(s.committed, now);
      tidy(s);
      decided(now);
    }
    check_lengths_of(chosen);
  }

  /// Drafts a tree, accepts a path through it, and makes that contiguous.
  void accept() {
    ModelSequence* s = one(Standing::running);
    if (s == nullptr || s->scheduled != s->committed || s->scheduled + 9 > kMaxLength) return;
    if (world_.has(pagedkv::GroupKind::ssm)) {
      return this->template expect_refusal<pagedkv::UnsupportedError>(
          [&] { (void)accept(*s, {}); });
    }
    const std::size_t num_drafts = 1 + in_.below(8), begin = s->committed;
    std::vector<std::int32_t> path;
    for (std::size_t i = 0; i < num_drafts; ++i) {
      const bool is_known = begin + i < s->known;  // no draft: every branch goes through it
      if (is_known || in_.below(2) == 0) path.push_back(static_cast<std::int32_t>(i));
    }
    write_text(*s, begin + num_drafts);
    std::vector<Row> rows;
    const auto* batch = hand_out({s}, {static_cast<std::int32_t>(num_drafts)}, rows);
    if (batch == nullptr) return tidy(*s);
    world_.run(*batch, rows, [&](std::size_t g, std::size_t, std::size_t p) {
      const auto accepted = std::ranges::find(path, static_cast<std::int32_t>(p - begin));
      if (accepted == path.end()) return std::uint64_t{7};  // of a branch that is left out
      return s->text.content(g, begin + static_cast<std::size_t>(accepted - path.begin()));
    });
    const auto moves = accept(*s, path);
    for (std::size_t g = 0; g < moves.size(); ++g) world_.move_slots(g, moves[g]);
    s->scheduled = s->committed = begin + path.size();
    tidy(*s);
    check_lengths_of({s});
  }
  std::vector<std::vector<pagedkv::SlotMove>> accept(const ModelSequence& s,
                                                     std::span<const std::int32_t> path) {
    return m_.accept({&s.id, 1}, {&path, 1});
  }

  void fork() {
    ModelSequence* s = one(in_.below(4) == 0 ? Standing::waiting : Standing::running);
    if (s == nullptr || sequences_.size() == kMaxSequences) return;
    if (world_.has(pagedkv::GroupKind::ssm) && s->scheduled != s->committed) {
      return this->template expect_refusal<pagedkv::CapacityError>(
          [&] { m_.fork(s->id, last_id_ + 1); });
    }
    m_.fork(s->id, ++last_id_);
    ModelSequence copy = *s;
    copy.id = last_id_;
    copy.scheduled = copy.committed;
    tidy(copy);
    if (without_reuse_.contains(s->id)) without_reuse_.insert(copy.id);
    auto& added = sequences_.emplace(copy.id, copy).first->second;
    check_lengths_of({s, &added});
  }

  void preempt() {
    const Sequences chosen = some(Standing::running);
    m_.preempt(ids_of(chosen));
    for (auto* s : chosen) {
      s->standing = Standing::waiting;
      s->scheduled = s->committed = 0;
      tidy(*s);
    }
    check_lengths_of(chosen);
  }

  void free() {
    const auto ids = ids_of(some(static_cast<Standing>(in_.below(3))));
    m_.free(ids);
    for (const SeqId id : ids) sequences_.erase(id);
  }

  void swap() {
    std::vector<pagedkv::BlockCopy> copies;
    if (in_.below(2) == 0) {
      const Sequences chosen = some(Standing::swapped);
      if (!fits([&] { copies = m_.swap_in(ids_of(chosen)); })) return;
      world_.copy_in(copies);
      for (auto* s : chosen) s->standing = Standing::running;
    } else {
      const Sequences chosen = some(
          Standing::running, [](const ModelSequence& s) { return s.scheduled == s.committed; });
      if (!fits([&] { copies = m_.swap_out(ids_of(chosen)); })) return;
      world_.copy_out(copies);
      for (auto* s : chosen) s->standing = Standing::swapped;
    }
    decided_copies(copies);
  }

  void hold_or_release() {
    if (!leases_.empty() && in_.below(2) == 0) return release(leases_.begin()->first);
    const ModelSequence* s = one(Standing::running);
    if (s == nullptr) return;
    const bool all_committed = s->scheduled == s->committed;
    std::size_t num_tokens = in_.below(s->scheduled + 1);
    if (world_.has(pagedkv::GroupKind::ssm) && in_.below(2) == 0) num_tokens = s->scheduled;
    const auto before = state();
    try {
      const std::uint64_t lease = m_.hold(s->id, num_tokens);
      leases_.emplace(lease, world_.committed_slots(*s, num_tokens));
    } catch (const pagedkv::CapacityError&) {  // no state is kept at that length
      PAGEDKV_FUZZ_CHECK(world_.has(pagedkv::GroupKind::ssm) && state() == before);
      PAGEDKV_FUZZ_CHECK(num_tokens != 0 && !(all_committed && num_tokens == s->scheduled));
    }
  }
  void release(std::uint64_t lease) {
    world_.check_held(leases_.at(lease));
    m_.release(lease);
    leases_.erase(lease);
  }

  void pin_or_unpin() {
    if (!pinned_.empty() && in_.below(2) == 0) {
      const SeqId id = *pinned_.begin();
      m_.unpin(id);
      pinned_.erase(id);
      return this->template expect_refusal<pagedkv::SequenceError>([&] { m_.unpin(id); });
    }
    if (const ModelSequence* s = one(Standing::running)) {
      m_.pin(s->id);
      pinned_.insert(s->id);
    }
  }

  void change_pool() {
    switch (in_.below(5)) {
      case 0: return decided(m_.evict(in_.below(4)));
      case 1: {
        const auto copies = m_.compact();
        world_.copy_blocks(copies);
        return decided_copies(copies);
      }
      case 2: {
        std::optional<std::size_t> limit;
        if (in_.below(2) == 0) limit = in_.below(12);
        is_limited_ = is_limited_ || limit;
        return m_.set_salt_limit(some_salt(), limit);
      }
      case 3:
        if (m_.num_free_blocks() == m_.stats().num_blocks) return m_.reset();
        return this->template expect_refusal<pagedkv::PoolError>([&] { m_.reset(); });
      default: {
        const auto before = state();
        std::vector<TokenId> tokens(in_.below(20));
        for (TokenId& token : tokens) token = some_token();
        const std::size_t found = m_.probe(tokens, some_salt());
        PAGEDKV_FUZZ_CHECK(found == 0 || found < tokens.size());
        PAGEDKV_FUZZ_CHECK(state() == before);
        return decided(found);
      }
    }
  }

  void misuse() {
    const SeqId unknown = last_id_ + 1;
    const std::int32_t one_token = 1;
    this->template expect_refusal<pagedkv::SequenceError>(
        [&] { m_.commit({&unknown, 1}, {&one_token, 1}); });
    const ModelSequence* s = one(Standing::running);
    if (s == nullptr) return;
    const SeqId twice[] = {s->id, s->id};
    const std::int32_t ones[] = {1, 1};
    this->template expect_refusal<pagedkv::SequenceError>([&] { m_.schedule(twice, ones); });
    this->template expect_refusal<pagedkv::SequenceError>([&] { m_.add(s->id, {}); });
    const auto pending = static_cast<std::int32_t>(s->scheduled - s->committed);
    const std::int32_t too_many = pending + 1;
    this->template expect_refusal<pagedkv::CapacityError>(
        [&] { m_.commit({&s->id, 1}, {&too_many, 1}); });
    this->template expect_refusal<pagedkv::ShapeError>([&] { m_.commit({&s->id, 1}, ones); });
    if (pending != 0) {
      this->template expect_refusal<pagedkv::CapacityError>(
          [&] { (void)m_.swap_out({&s->id, 1}); });
    }
    pagedkv::Batch small = m_.new_batch(1, 1, 1);
    const auto count = static_cast<std::int32_t>(m_.options().block_size + 1);
    if (m_.fit({&s->id, 1}, {&count, 1}) == 1) {
      this->template expect_refusal<pagedkv::CapacityError>(
          [&] { m_.schedule({&s->id, 1}, {&count, 1}, 0, &small); });
    }
  }

  std::set<SeqId> without_reuse_;
  std::map<std::uint64_t, std::vector<typename ManagerWorld<Hash>::Held>> leases_;
  std::set<SeqId> pinned_;
  bool is_limited_ = false;  // a salt has had a maximum
  SeqId last_id_ = 0;
};

/// @throws Mismatch where the manager and its model disagree, Error where an invariant is broken.
inline void run_manager_operations(std::span<const std::uint8_t> bytes) {
  ByteSource in(bytes);
  const auto options = choose_options(in);
  using Hash = pagedkv::detail::MultilinearHash;
  ManagerRun<Hash, ByteSource> run(in, options, Hash());
  while (!in.is_empty()) {
    run.step();
    run.check();
  }
  run.finish();
}

}  // namespace pagedkv_fuzz
