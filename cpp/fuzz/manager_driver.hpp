#pragma once

// What the operations on a manager are made of: choices among its sequences, and what is observed
// of every call.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "manager_world.hpp"
#include "pagedkv/core/errors.hpp"

namespace pagedkv_fuzz {

template <class Hash, class Source>
class ManagerDriver {
 public:
  ManagerDriver(Source& in, const pagedkv::ManagerOptions& options, Hash hash)
      : in_(in),
        world_(options, hash),
        m_(world_.manager),
        batches_{m_.new_batch(kMaxSequences, 512, 2 * kMaxLength),
                 m_.new_batch(kMaxSequences, 512, 2 * kMaxLength)},
        vocabulary_(2 + in.below(3)) {}

  void check() {
    m_.check();
    world_.check_events();
  }

  /// Digest of everything that the manager decided, which no hash function may change.
  [[nodiscard]] std::uint64_t decisions() const { return decisions_; }

 protected:
  static constexpr std::size_t kMaxSequences = 8;
  static constexpr std::size_t kMaxLength = 60;
  using Sequences = std::vector<ModelSequence*>;

  // --- choosing ---

  TokenId some_token() { return static_cast<TokenId>(in_.below(vocabulary_)); }
  std::string some_salt() { return std::string(in_.below(3), 's'); }

  /// Some of the sequences that stand like this and that `suits`.
  template <class Suits>
  Sequences some(Standing standing, Suits suits) {
    Sequences chosen;
    for (auto& [id, s] : sequences_) {
      if (s.standing == standing && suits(s) && in_.below(2) == 0) chosen.push_back(&s);
    }
    return chosen;
  }
  Sequences some(Standing standing) {
    return some(standing, [](const ModelSequence&) { return true; });
  }
  ModelSequence* one(Standing standing) {
    const Sequences chosen = some(standing);
    return chosen.empty() ? nullptr : chosen[in_.below(chosen.size())];
  }
  static std::vector<SeqId> ids_of(const Sequences& sequences) {
    std::vector<SeqId> ids;
    for (const auto* s : sequences) ids.push_back(s->id);
    return ids;
  }
  /// The manager's own batch or one of two that are ours.
  pagedkv::Batch* some_batch() {
    const std::size_t choice = in_.below(3);
    return choice == 2 ? nullptr : &batches_[choice];
  }
  /// Decides the tokens of `s` up to `length` positions.
  void write_text(ModelSequence& s, std::size_t length) {
    while (s.text.size() < length) s.text.push(some_token());
  }
  /// Forgets the tokens that are neither known nor scheduled.
  static void tidy(ModelSequence& s) { s.text.cut(std::max(s.known, s.scheduled)); }

  // --- observing ---

  template <class T>
  void decided(const T& value) {
    decisions_ = mix(decisions_, static_cast<std::uint64_t>(value));
  }
  void decided_copies(const std::vector<pagedkv::BlockCopy>& copies) {
    for (const auto& copy : copies) decided(copy.src), decided(copy.dst);
  }

  /// Digest of what a refused call must not change.
  [[nodiscard]] std::uint64_t state() const {
    std::uint64_t digest = mix(m_.num_free_blocks(), m_.num_sequences());
    for (const auto& [id, s] : sequences_) {
      digest = mix(mix(digest, m_.num_scheduled(id)), mix(m_.num_committed(id), m_.num_tokens(id)));
      for (std::size_t g = 0; g < world_.groups().size(); ++g) {
        for (const std::int32_t b : m_.block_ids(id, g)) {
          digest = mix(digest, static_cast<std::uint64_t>(b));
        }
      }
    }
    const auto stats = m_.stats();
    return mix(mix(digest, stats.evictions), mix(stats.num_cached_blocks, stats.steps));
  }
  void check_lengths_of(const Sequences& sequences) {
    for (const auto* s : sequences) {
      PAGEDKV_FUZZ_CHECK(m_.num_tokens(s->id) == s->known);
      PAGEDKV_FUZZ_CHECK(m_.num_scheduled(s->id) == s->scheduled);
      PAGEDKV_FUZZ_CHECK(m_.num_committed(s->id) == s->committed);
    }
  }
  /// Runs `call`; false when blocks were short, and then nothing has changed.
  template <class Call>
  bool fits(Call call) {
    const std::uint64_t before = state();
    try {
      call();
      return true;
    } catch (const pagedkv::PoolExhaustedError& error) {
      PAGEDKV_FUZZ_CHECK(error.needed() > error.free());
      PAGEDKV_FUZZ_CHECK(state() == before);
      decided(error.needed());
      return false;
    }
  }
  template <class E, class Call>
  void expect_refusal(Call call) {
    const std::uint64_t before = state();
    try {
      call();
    } catch (const E&) {
      PAGEDKV_FUZZ_CHECK(state() == before);
      return;
    }
    throw Mismatch("expected a refusal and got none");
  }

  void take_batch(const pagedkv::Batch& batch, const std::vector<Row>& rows, std::size_t pad_to) {
    check_batch(m_, batch, rows, pad_to);
    for (std::size_t g = 0; g < batch.num_groups(); ++g) {
      decided_copies(batch[g].copies);
      if (world_.groups()[g].kind == pagedkv::GroupKind::ssm) {
        for (std::size_t i = 0; i < rows.size(); ++i) decided(batch[g].state_slots[i]);
      } else {
        for (std::size_t t = 0; t < batch.num_new_tokens; ++t) decided(batch[g].slot_mapping[t]);
      }
    }
  }
  /// Does the step of a batch, every token being the one of the text.
  void run(const pagedkv::Batch& batch, const std::vector<Row>& rows) {
    world_.run(batch, rows, [&](std::size_t g, std::size_t i, std::size_t p) {
      return rows[i].sequence->text.content(g, p);
    });
  }

  Source& in_;
  ManagerWorld<Hash> world_;
  typename ManagerWorld<Hash>::Manager& m_;
  pagedkv::Batch batches_[2];
  std::size_t vocabulary_;
  std::map<SeqId, ModelSequence> sequences_;
  std::uint64_t decisions_ = 0;
};

}  // namespace pagedkv_fuzz
