#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "pagedkv/core/manager/call_checks.hpp"
#include "pagedkv/core/manager/sequence.hpp"

namespace pagedkv::inline v0_1::detail {

/// The sequences that a call names, each once, looked up before anything changes. Kept for reuse of
/// its memory.
class CallList {
 public:
  explicit CallList(const SequenceMap& sequences) noexcept : sequences_(sequences) {}

  /// @throws SequenceError for an id that is unknown or named twice.
  void collect(const char* where, std::span<const SeqId> ids) {
    collect(where, ids, [](const Sequence&) {});
  }
  /// @throws SequenceError also for one that is not in that state; `expected` says which one is.
  void collect(const char* where, std::span<const SeqId> ids, SequenceStatus status,
               const char* expected) {
    collect(where, ids, [=](const Sequence& s) { expect_status(where, s, status, expected); });
  }
  void collect_running(const char* where, std::span<const SeqId> ids) {
    collect(where, ids, SequenceStatus::running, "that is running (acquire it first)");
  }

  /// For calls that change what the quiet steps of their sequences were foreseen from.
  void end_quiet_steps() noexcept {
    for (Sequence* s : list_) s->quiet = 0;
  }

  [[nodiscard]] std::size_t size() const noexcept { return list_.size(); }
  [[nodiscard]] Sequence& operator[](std::size_t i) const noexcept { return *list_[i]; }
  [[nodiscard]] auto begin() const noexcept { return list_.begin(); }
  [[nodiscard]] auto end() const noexcept { return list_.end(); }
  [[nodiscard]] std::span<Sequence* const> span() const noexcept { return list_; }

 private:
  template <class Expect>
  void collect(const char* where, std::span<const SeqId> ids, Expect expect) {
    ++call_;
    list_.resize(ids.size());
    for (std::size_t i = 0; i < ids.size(); ++i) {
      Sequence* s = sequences_.find(ids[i]);
      if (s == nullptr) [[unlikely]]
        throw_unknown(where, ids[i]);
      if (s->call == call_) [[unlikely]]
        throw_twice(where, ids[i]);
      s->call = call_;
      list_[i] = s;
      expect(*s);
    }
  }

  const SequenceMap& sequences_;
  std::vector<Sequence*> list_;
  std::uint64_t call_ = 0;
};

}  // namespace pagedkv::inline v0_1::detail
