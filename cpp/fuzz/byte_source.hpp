#pragma once

// What the fuzz bodies are made of: a stream of choices read from bytes, and a check that ends a
// run.

#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>

namespace pagedkv_fuzz {

/// The library and its model disagree, or an error came where none may come. libFuzzer shows it as
/// a crash, a unit test as a failure.
struct Mismatch : std::logic_error {
  using std::logic_error::logic_error;
};

/// Reads bytes as choices; zeros once they are used up.
class ByteSource {
 public:
  explicit ByteSource(std::span<const std::uint8_t> bytes) : bytes_(bytes) {}

  [[nodiscard]] bool is_empty() const { return bytes_.empty(); }

  std::uint8_t byte() {
    if (bytes_.empty()) return 0;
    const std::uint8_t value = bytes_.front();
    bytes_ = bytes_.subspan(1);
    return value;
  }

  /// A number below `limit`, which is at most 256.
  std::size_t below(std::size_t limit) { return byte() % limit; }

 private:
  std::span<const std::uint8_t> bytes_;
};

}  // namespace pagedkv_fuzz

/// Ends the run where `condition` does not hold.
#define PAGEDKV_FUZZ_CHECK(condition)                                                       \
  do {                                                                                      \
    if (!(condition)) {                                                                     \
      throw pagedkv_fuzz::Mismatch(std::string(__FILE__) + ":" + std::to_string(__LINE__) + \
                                   ": expected " #condition);                               \
    }                                                                                       \
  } while (false)
