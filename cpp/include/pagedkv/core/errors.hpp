#pragma once

// The error tree. Every message reads "[Type.function] what was given; what was expected", and an
// error leaves the object that raised it as it was.

#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>

#include "pagedkv/detail/macros.hpp"

namespace pagedkv::inline v0_1 {

/// Root of every error that this library raises on its own account. Running out of host memory
/// stays `std::bad_alloc`.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Something about handing out or giving back blocks, pages or slots.
class PoolError : public Error {
 public:
  using Error::Error;
};

/// A pool has fewer free entries than were asked for.
class PoolExhaustedError : public PoolError {
 public:
  PoolExhaustedError(const std::string& message, std::uint64_t needed, std::uint64_t free)
      : PoolError(message), needed_(needed), free_(free) {}

  /// Entries that the call needed.
  [[nodiscard]] std::uint64_t needed() const noexcept { return needed_; }
  /// Entries that were free.
  [[nodiscard]] std::uint64_t free() const noexcept { return free_; }

 private:
  std::uint64_t needed_;
  std::uint64_t free_;
};

/// An id or index is out of range, is not live, or belongs to a pool of another kind.
class InvalidSlotError : public PoolError {
 public:
  /// `slot()` of a call that no slot could have satisfied, for instance `alloc_ssm` on a KV pool.
  static constexpr std::uint64_t kNoSlot = std::numeric_limits<std::uint64_t>::max();

  InvalidSlotError(const std::string& message, std::uint64_t slot)
      : PoolError(message), slot_(slot) {}

  /// The id or index that was given.
  [[nodiscard]] std::uint64_t slot() const noexcept { return slot_; }

 private:
  std::uint64_t slot_;
};

/// A shape, size or dtype is not what the call takes.
class ShapeError : public Error {
 public:
  using Error::Error;
};

/// A fixed limit of the object (tokens, blocks of one sequence) would be passed.
class CapacityError : public Error {
 public:
  using Error::Error;
};

/// The build, the device or the object cannot do this.
class UnsupportedError : public Error {
 public:
  using Error::Error;
};

/// A sequence id is unknown or already taken.
class SequenceError : public Error {
 public:
  using Error::Error;
};

namespace detail {

// Cold and out of line: the hot path holds a call, never the building of a message.

[[nodiscard]] PAGEDKV_COLD inline std::string located(const char* where, const std::string& what) {
  return "[" + std::string(where) + "] " + what;
}

[[noreturn]] PAGEDKV_COLD inline void throw_shape(const char* where, const std::string& what) {
  throw ShapeError(located(where, what));
}

[[noreturn]] PAGEDKV_COLD inline void throw_zero(const char* where, const char* argument) {
  throw ShapeError(located(where, std::string(argument) + " is 0; expected at least 1"));
}

[[noreturn]] PAGEDKV_COLD inline void throw_capacity(const char* where, const std::string& what) {
  throw CapacityError(located(where, what));
}

[[noreturn]] PAGEDKV_COLD inline void throw_unsupported(const char* where,
                                                        const std::string& what) {
  throw UnsupportedError(located(where, what));
}

[[noreturn]] PAGEDKV_COLD inline void throw_exhausted(const char* where, std::uint64_t needed,
                                                      std::uint64_t free) {
  throw PoolExhaustedError(
      located(where, std::to_string(needed) + " needed, " + std::to_string(free) +
                         " free; expected as many "
                         "free as are needed"),
      needed, free);
}

[[noreturn]] PAGEDKV_COLD inline void throw_out_of_range(const char* where, const char* what,
                                                         std::uint64_t slot, std::uint64_t size) {
  throw InvalidSlotError(
      located(where, std::string(what) + " " + std::to_string(slot) +
                         " is out of range; expected less than " + std::to_string(size)),
      slot);
}

/// For a slot of a pool of `size` that is out of range, or in range and not live.
[[noreturn]] PAGEDKV_COLD inline void throw_not_live(const char* where, const char* what,
                                                     std::uint64_t slot, std::uint64_t size) {
  if (slot >= size) throw_out_of_range(where, what, slot, size);
  throw InvalidSlotError(located(where, std::string(what) + " " + std::to_string(slot) +
                                            " is not live (never handed out, or given back "
                                            "already); expected one that is held"),
                         slot);
}

}  // namespace detail
}  // namespace pagedkv::inline v0_1
