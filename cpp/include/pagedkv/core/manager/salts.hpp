#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "pagedkv/core/block_allocator.hpp"
#include "pagedkv/core/manager/options.hpp"
#include "pagedkv/core/manager/prefix_tree.hpp"
#include "pagedkv/detail/grow_array.hpp"

namespace pagedkv::inline v0_1::detail {

/// Prompts of one salt share their blocks with each other and with nobody else.
struct Salt {
  std::string bytes;
  std::vector<NodeId> roots;  // one a group; empty: a number that is free
  std::size_t users = 0;      // sequences
  std::size_t blocks = 0;     // in the index
  std::optional<std::size_t> max_blocks;
  ReuseCounts reuse;
  std::map<std::uint64_t, BlockId> released;  // with a maximum: evictable blocks, in order

  /// Whether nothing is of this salt: no sequence, no block, no maximum.
  [[nodiscard]] bool is_idle() const noexcept {
    return !roots.empty() && users == 0 && blocks == 0 && !max_blocks;
  }
};

/// Salts by number. Idle ones are forgotten when there are many, so that a salt for each user does
/// not fill the memory; what they counted stays in the total. O(1) amortised.
class SaltTable {
 public:
  [[nodiscard]] std::optional<std::uint32_t> find(std::string_view bytes) const {
    const auto found = numbers_.find(std::string(bytes));
    if (found == numbers_.end()) return std::nullopt;
    return found->second;
  }

  /// A new salt. `make_root(number, group)` and `drop_root(root, group)` are the index's and do not
  /// fail.
  template <class MakeRoot, class DropRoot>
  std::uint32_t add(std::string_view bytes, std::size_t num_groups, MakeRoot make_root,
                    DropRoot drop_root) {
    if (numbers_.size() >= most_) {
      forget_idle(drop_root);
      most_ = std::max(kMostIdle, 2 * numbers_.size());
    }
    if (free_.empty()) {
      reserve_more(free_, salts_.size() + 1);  // so that giving numbers back needs no memory
      salts_.emplace_back();
      free_.push_back(static_cast<std::uint32_t>(salts_.size() - 1));
    }
    const std::uint32_t number = free_.back();
    Salt salt;
    salt.bytes = bytes;
    salt.roots.reserve(num_groups);
    numbers_.emplace(bytes, number);
    free_.pop_back();
    for (std::size_t g = 0; g < num_groups; ++g) salt.roots.push_back(make_root(number, g));
    salts_[number] = std::move(salt);
    return number;
  }

  [[nodiscard]] Salt& operator[](std::uint32_t number) noexcept { return salts_[number]; }
  [[nodiscard]] const Salt& operator[](std::uint32_t number) const noexcept {
    return salts_[number];
  }
  /// Numbers are below this; some may be free.
  [[nodiscard]] std::size_t end() const noexcept { return salts_.size(); }
  [[nodiscard]] bool is_known(std::uint32_t number) const noexcept {
    return !salts_[number].roots.empty();
  }

  /// Counts of all salts, forgotten ones included.
  [[nodiscard]] ReuseCounts total() const noexcept {
    ReuseCounts sum = forgotten_;
    for (const Salt& salt : salts_) sum += salt.reuse;
    return sum;
  }

 private:
  static constexpr std::size_t kMostIdle = 1024;

  template <class DropRoot>
  void forget_idle(DropRoot drop_root) {
    for (std::uint32_t number = 0; number < salts_.size(); ++number) {
      Salt& salt = salts_[number];
      if (!salt.is_idle()) continue;
      free_.push_back(number);
      forgotten_ += salt.reuse;
      numbers_.erase(salt.bytes);
      for (std::size_t g = 0; g < salt.roots.size(); ++g) drop_root(salt.roots[g], g);
      salt = {};
    }
  }

  std::vector<Salt> salts_;
  std::vector<std::uint32_t> free_;
  std::unordered_map<std::string, std::uint32_t> numbers_;
  std::size_t most_ = kMostIdle;
  ReuseCounts forgotten_;
};

}  // namespace pagedkv::inline v0_1::detail
