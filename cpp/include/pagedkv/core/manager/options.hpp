#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "pagedkv/core/block_allocator.hpp"
#include "pagedkv/core/eviction/eviction_queue.hpp"
#include "pagedkv/core/manager/groups.hpp"
#include "pagedkv/core/manager/prefix_tree.hpp"
#include "pagedkv/core/manager/sequence.hpp"
#include "pagedkv/detail/keyed_hash.hpp"

namespace pagedkv::inline v0_1 {

/// Groups of one manager at most.
inline constexpr std::size_t kMaxGroups = 15;
/// Blocks of a manager with a prefix index at most. The index numbers its nodes with 28 bits, and
/// half of them are for those without a block: salts, and tokens whose block was given back.
inline constexpr std::size_t kMaxCachedBlocks = std::size_t{1} << 27;

/// What a manager is made with.
struct ManagerOptions {
  std::size_t num_blocks = 0;   ///< ids [0, num_blocks), shared by all groups
  std::size_t block_size = 16;  ///< tokens a block of groups that do not name their own
  std::vector<GroupSpec> groups = {GroupSpec::full_attention()};
  bool prefix_caching = true;  ///< keep what sequences computed, for others to reuse
  EvictionKind eviction = EvictionKind::lru;
  std::optional<detail::HashKey> hash_key = {};  ///< of the prefix index; nothing: drawn at random
  bool partial_reuse = true;        ///< reuse the common start of a block by copying it
  double watermark = 0.0;           ///< share of blocks kept from sequences that committed nothing
  bool null_block = false;          ///< block 0 is never handed out and pads tables
  bool events = false;              ///< record what enters and leaves the prefix index
  std::size_t num_host_blocks = 0;  ///< ids of the second pool, for swapping
};

/// How a prompt that is registered may use the prefix index.
struct AddOptions {
  std::string_view salt = {};      ///< prompts of different salts share nothing
  std::vector<Extra> extras = {};  ///< what the token ids do not tell (images), in order
  std::uint8_t priority = 0;       ///< 0 to 100: blocks of lower priority are evicted first
  std::uint32_t ttl = 0;           ///< schedule steps that its blocks outlive it; 0: no limit
  bool reuse = true;               ///< look for a prefix
  bool store = true;               ///< let others find its blocks
};

/// The same with every group's block size filled in.
/// @throws ShapeError or CapacityError for options that make no sense.
[[nodiscard]] inline ManagerOptions resolved(ManagerOptions options) {
  constexpr const char* where = "KVCacheManager";
  if (options.num_blocks > BlockAllocator::kMaxCapacity) {
    detail::throw_capacity(
        where, "num_blocks " + std::to_string(options.num_blocks) + "; expected fewer than 2^31");
  }
  if (options.prefix_caching && options.num_blocks > kMaxCachedBlocks) {
    detail::throw_capacity(where, "num_blocks " + std::to_string(options.num_blocks) +
                                      " with prefix caching; expected at most 2^27");
  }
  if (options.groups.empty() || options.groups.size() > kMaxGroups) {
    detail::throw_shape(where, std::to_string(options.groups.size()) + " groups; expected 1 to " +
                                   std::to_string(kMaxGroups));
  }
  if (!(options.watermark >= 0.0 && options.watermark < 1.0)) {
    detail::throw_shape(
        where, "watermark " + std::to_string(options.watermark) + "; expected a share in [0, 1)");
  }
  if (options.null_block && options.num_blocks == 0) detail::throw_zero(where, "num_blocks");
  for (auto& group : options.groups) {
    if (group.block_size == 0) group.block_size = options.block_size;
    group.settle();
  }
  return options;
}

/// Why a prompt's hit was shorter than the prompt.
enum class MissReason : std::uint8_t {
  never_seen,     ///< nobody computed the next block
  evicted,        ///< somebody did, and it was evicted since
  other_salt,     ///< another salt has a prompt that begins like this
  no_checkpoint,  ///< the tokens are known, but no state was kept at their end
  window_lost,    ///< the tokens are known, but the window before them was given back
};
inline constexpr std::size_t kNumMissReasons = 5;
/// Its name, as `Stats.miss_reasons` has it in Python.
[[nodiscard]] constexpr std::string_view miss_reason_name(MissReason reason) noexcept {
  constexpr std::array<std::string_view, kNumMissReasons> names{
      "never_seen", "evicted", "other_salt", "no_checkpoint", "window_lost"};
  return names[static_cast<std::size_t>(reason)];
}

/// Counts of prefix reuse. The hit rate is `hit_tokens / queried_tokens`.
struct ReuseCounts {
  std::uint64_t queries = 0;  ///< sequences that asked by acquire
  std::uint64_t queried_tokens =
      0;                         ///< tokens that they knew, less the one that always is computed
  std::uint64_t hit_tokens = 0;  ///< of these, found
  std::array<std::uint64_t, kNumMissReasons> misses{};  ///< queries that fell short, by reason

  friend bool operator==(const ReuseCounts&, const ReuseCounts&) = default;

  ReuseCounts& operator+=(const ReuseCounts& other) noexcept {
    queries += other.queries;
    queried_tokens += other.queried_tokens;
    hit_tokens += other.hit_tokens;
    for (std::size_t i = 0; i < kNumMissReasons; ++i) misses[i] += other.misses[i];
    return *this;
  }

  [[nodiscard]] double hit_rate() const noexcept {
    if (queried_tokens == 0) return 0.0;
    return static_cast<double>(hit_tokens) / static_cast<double>(queried_tokens);
  }
};

/// What a manager has and did, at the time of the call.
struct ManagerStats {
  ReuseCounts reuse;
  std::size_t num_sequences = 0;
  std::size_t num_blocks = 0;         ///< all that are handed out, the null block not counted
  std::size_t num_free_blocks = 0;    ///< that schedule could take: unused, or cached and evictable
  std::size_t num_cached_blocks = 0;  ///< in the prefix index, in use or not
  std::uint64_t evictions = 0;
  std::uint64_t preemptions = 0;
  std::uint64_t block_copies = 0;
  std::uint64_t steps = 0;

  friend bool operator==(const ManagerStats&, const ManagerStats&) = default;
};

/// Something entered or left the prefix index.
struct CacheEvent {
  enum class Kind : std::uint8_t { stored, removed };
  Kind kind;
  std::uint32_t group;
  std::array<std::uint8_t, 32> hash;  ///< of the whole prefix
  std::array<std::uint8_t, 32>
      parent_hash;              ///< of the prefix one block shorter; the salt's for none
  std::vector<TokenId> tokens;  ///< of the block

  friend bool operator==(const CacheEvent&, const CacheEvent&) = default;
};

}  // namespace pagedkv::inline v0_1
