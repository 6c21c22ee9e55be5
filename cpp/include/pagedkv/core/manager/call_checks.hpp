#pragma once

// What a call checks before anything changes.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>

#include "pagedkv/core/errors.hpp"
#include "pagedkv/core/manager/options.hpp"
#include "pagedkv/core/manager/sequence.hpp"

namespace pagedkv::inline v0_1::detail {

/// Tokens of a sequence at most: positions are int32.
inline constexpr std::size_t kMaxTokens = std::numeric_limits<std::int32_t>::max();

[[noreturn]] PAGEDKV_COLD inline void throw_sequence(const char* where, SeqId id,
                                                     const std::string& what) {
  throw SequenceError(located(where, "sequence " + std::to_string(id) + " " + what));
}

[[noreturn]] PAGEDKV_COLD inline void throw_unknown(const char* where, SeqId id) {
  throw_sequence(where, id, "is unknown; expected one that was added");
}

[[noreturn]] PAGEDKV_COLD inline void throw_taken(const char* where, SeqId id) {
  throw_sequence(where, id, "is there already; expected a new id");
}

[[noreturn]] PAGEDKV_COLD inline void throw_twice(const char* where, SeqId id) {
  throw_sequence(where, id, "is named twice; expected each id once");
}

[[noreturn]] PAGEDKV_COLD inline void throw_too_long(const char* where, const Sequence& s,
                                                     std::size_t more) {
  throw_capacity(where, "sequence " + std::to_string(s.id) + " of " + std::to_string(s.scheduled) +
                            " tokens and " + std::to_string(more) + " more; expected below 2^31");
}

[[noreturn]] PAGEDKV_COLD inline void throw_not_scheduled(const char* where, const Sequence& s,
                                                          std::size_t n) {
  throw_capacity(where, "sequence " + std::to_string(s.id) + " and " + std::to_string(n) +
                            " tokens; expected at most the " +
                            std::to_string(s.scheduled - s.committed) +
                            " that are scheduled and not committed");
}

[[nodiscard]] constexpr const char* status_name(SequenceStatus status) noexcept {
  switch (status) {
    case SequenceStatus::waiting: return "waiting";
    case SequenceStatus::running: return "running";
    case SequenceStatus::swapped: return "swapped out";
  }
  return "";
}

[[noreturn]] PAGEDKV_COLD inline void throw_status(const char* where, const Sequence& s,
                                                   const char* expected) {
  throw_sequence(where, s.id,
                 std::string("is ") + status_name(s.status) + "; expected one " + expected);
}

inline void expect_status(const char* where, const Sequence& s, SequenceStatus status,
                          const char* expected) {
  if (s.status != status) [[unlikely]]
    throw_status(where, s, expected);
}

inline void expect_not_swapped(const char* where, const Sequence& s) {
  if (s.status == SequenceStatus::swapped) [[unlikely]] {
    throw_sequence(where, s.id, "is swapped out; expected one that is not");
  }
}

inline void expect_sizes(const char* where, std::size_t expected, std::size_t given) {
  if (given != expected) [[unlikely]] {
    throw_shape(where, std::to_string(given) + " values; expected " + std::to_string(expected));
  }
}

inline void expect_counts(const char* where, std::span<const std::int32_t> counts) {
  for (const std::int32_t count : counts) {
    if (count < 0) [[unlikely]] {
      throw_shape(where, "a count of " + std::to_string(count) + "; expected 0 or more");
    }
  }
}

/// `n` more tokens can be committed.
inline void expect_scheduled(const char* where, const Sequence& s, std::size_t n) {
  if (n > s.scheduled - s.committed) [[unlikely]]
    throw_not_scheduled(where, s, n);
}

inline void expect_all_committed(const char* where, const Sequence& s) {
  if (s.scheduled != s.committed) [[unlikely]] {
    throw_capacity(where, "sequence " + std::to_string(s.id) + " with " +
                              std::to_string(s.scheduled - s.committed) +
                              " tokens that are scheduled and not committed; expected none");
  }
}

[[noreturn]] PAGEDKV_COLD inline void throw_blocks_held(const char* where, std::size_t n) {
  throw PoolError(located(where, std::to_string(n) +
                                     " blocks are held; expected none (free or preempt the "
                                     "sequences)"));
}

inline void expect_options(const char* where, const AddOptions& options) {
  if (options.priority > 100) {
    throw_shape(where, "priority " + std::to_string(options.priority) + "; expected 0 to 100");
  }
  for (const Extra& extra : options.extras) {
    if (extra.length == 0 || extra.start > kMaxTokens || extra.length > kMaxTokens) {
      throw_shape(where, "extra of " + std::to_string(extra.length) + " tokens at " +
                             std::to_string(extra.start) + "; expected at least 1 token");
    }
  }
}

inline void expect_at_most_scheduled(const char* where, const Sequence& s, std::size_t n) {
  if (n > s.scheduled) [[unlikely]] {
    throw_capacity(where, std::to_string(n) + " tokens; expected at most the " +
                              std::to_string(s.scheduled) + " scheduled ones");
  }
}

[[noreturn]] PAGEDKV_COLD inline void throw_no_state(const char* where, const Sequence& s,
                                                     std::size_t n) {
  throw_capacity(where, std::to_string(n) + " tokens of sequence " + std::to_string(s.id) + ", " +
                            std::to_string(s.committed) + " of whose " +
                            std::to_string(s.scheduled) +
                            " are committed, with no state kept at that length; expected that of a "
                            "checkpoint, or all when nothing is scheduled beyond them");
}

/// `path` names accepted drafts: increasing offsets into what is scheduled and not committed.
/// Tokens that are known stay in their places, or the index would hold what others computed.
inline void expect_path(const char* where, const Sequence& s, std::span<const std::int32_t> path) {
  std::int64_t before = -1;
  for (const std::int32_t offset : path) {
    if (offset <= before || static_cast<std::size_t>(offset) >= s.scheduled - s.committed) {
      throw_shape(where, "offset " + std::to_string(offset) + " of sequence " +
                             std::to_string(s.id) + "; expected increasing ones below its " +
                             std::to_string(s.scheduled - s.committed) +
                             " tokens that are scheduled and not committed");
    }
    before = offset;
  }
  const std::size_t known = s.known() - std::min(s.known(), s.committed);
  for (std::size_t i = 0; i < std::min(known, path.size()); ++i) {
    if (static_cast<std::size_t>(path[i]) != i) {
      throw_shape(where, "offset " + std::to_string(path[i]) + " at place " + std::to_string(i) +
                             " of sequence " + std::to_string(s.id) + "; expected " +
                             std::to_string(i) + ", because the token there is known");
    }
  }
}

}  // namespace pagedkv::inline v0_1::detail
