#pragma once

#include <algorithm>
#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "pagedkv/core/block_allocator.hpp"
#include "pagedkv/core/block_table.hpp"
#include "pagedkv/core/errors.hpp"
#include "pagedkv/detail/checked_math.hpp"
#include "pagedkv/detail/copy.hpp"
#include "pagedkv/detail/storage.hpp"

namespace pagedkv::inline v0_1 {

/// A growing sequence of float64 vectors in blocks of 16 tokens, all allocated up front: appending
/// allocates nothing. Blocks are reached through a `BlockTable`. Values survive bit for bit. For
/// one thread at a time. Copies are deep.
class PagedKvCache {
 public:
  /// Tokens a block.
  static constexpr std::size_t kBlockSize = 16;

  /// @param max_tokens  most tokens held; 0 is legal and always full.
  /// @param dim         elements a token, at least 1.
  /// @throws ShapeError for a dim of 0 or an overflow, CapacityError for 2^31 blocks or more,
  ///         std::bad_alloc.
  PagedKvCache(std::size_t max_tokens, std::size_t dim)
      : max_tokens_(max_tokens),
        dim_(dim),
        table_(1, kBlockSize),
        storage_(checked_bytes(max_tokens, dim)) {
    const auto num_blocks = static_cast<BlockId>(detail::ceil_div(max_tokens, kBlockSize));
    for (BlockId id = 0; id < num_blocks; ++id) table_.append_block(0, id);
    blocks_in_order_ = num_blocks;
  }

  PagedKvCache(const PagedKvCache& other)
      : max_tokens_(other.max_tokens_),
        dim_(other.dim_),
        len_(other.len_),
        blocks_in_order_(other.blocks_in_order_),
        table_(other.table_),
        storage_(other.storage_.clone()) {}
  PagedKvCache& operator=(const PagedKvCache& other) { return *this = PagedKvCache(other); }
  /// Leaves `other` as a cache for 0 tokens.
  PagedKvCache(PagedKvCache&& other) noexcept
      : max_tokens_(std::exchange(other.max_tokens_, 0)),
        dim_(other.dim_),
        len_(std::exchange(other.len_, 0)),
        blocks_in_order_(std::exchange(other.blocks_in_order_, 0)),
        table_(std::move(other.table_)),
        storage_(std::move(other.storage_)) {}
  PagedKvCache& operator=(PagedKvCache&& other) noexcept {
    PagedKvCache taken(std::move(other));
    std::swap(max_tokens_, taken.max_tokens_);
    std::swap(dim_, taken.dim_);
    std::swap(len_, taken.len_);
    std::swap(blocks_in_order_, taken.blocks_in_order_);
    std::swap(table_, taken.table_);
    std::swap(storage_, taken.storage_);
    return *this;
  }

  /// Appends one token of `dim()` values.
  /// @throws ShapeError for another size (checked first), CapacityError when full.
  void append(std::span<const double> token) {
    if (token.size() != dim_) [[unlikely]] {
      detail::throw_shape(
          "PagedKvCache.append",
          std::to_string(token.size()) + " values; expected " + std::to_string(dim_) + " (dim)");
    }
    if (len_ == max_tokens_) [[unlikely]]
      throw_full("PagedKvCache.append", 1);
    detail::copy_bytes(token_bytes(len_), reinterpret_cast<const std::byte*>(token.data()),
                       dim_ * sizeof(double));
    ++len_;
  }

  /// Appends `tokens.size() / dim()` tokens, `[n, dim]` row-major: all or none; none is fine.
  /// @throws ShapeError when `dim()` does not divide the size, CapacityError beyond
  ///         `max_tokens()`.
  void append_tensor(std::span<const double> tokens) {
    constexpr const char* where = "PagedKvCache.append_tensor";
    if (tokens.size() % dim_ != 0) [[unlikely]] {
      detail::throw_shape(where, std::to_string(tokens.size()) +
                                     " values; expected a multiple of " + std::to_string(dim_) +
                                     " (dim)");
    }
    const std::size_t n = tokens.size() / dim_;
    if (n > max_tokens_ - len_) [[unlikely]]
      throw_full(where, n);
    const auto* from = reinterpret_cast<const std::byte*>(tokens.data());
    const detail::Transfer transfer(tokens.size_bytes());
    for_each_run(len_, len_ + n, [&](std::byte* run, std::size_t size) {
      transfer.copy(run, from, size);
      from += size;
    });
    len_ += n;
  }

  /// Copies all tokens out, `[size(), dim()]` row-major.
  /// @throws ShapeError when `out` has another size.
  void as_tensor(std::span<double> out) const {
    if (out.size() != len_ * dim_) [[unlikely]] {
      detail::throw_shape("PagedKvCache.as_tensor",
                          std::to_string(out.size()) + " values; expected " + std::to_string(len_) +
                              " x " + std::to_string(dim_));
    }
    auto* to = reinterpret_cast<std::byte*>(out.data());
    const detail::Transfer transfer(out.size_bytes());
    for_each_run(0, len_, [&](const std::byte* run, std::size_t size) {
      transfer.copy(to, run, size);
      to += size;
    });
  }
  [[nodiscard]] std::vector<double> as_tensor() const {
    std::vector<double> out(len_ * dim_);
    as_tensor(out);
    return out;
  }

  /// All tokens in place, `[size(), dim()]`, where the blocks in use lie in order in memory; else
  /// nothing. O(1). Valid as long as the cache; appending leaves it as it is.
  [[nodiscard]] std::optional<std::span<const double>> as_span() const noexcept {
    if (blocks_in_use() > blocks_in_order_) return std::nullopt;
    if (len_ == 0) return std::span<const double>{};
    return std::span<const double>(reinterpret_cast<const double*>(token_bytes(0)), len_ * dim_);
  }

  /// The `dim()` values of token `i`, in place; O(1).
  /// @throws InvalidSlotError when there is no such token.
  [[nodiscard]] std::span<const double> get_token(std::size_t i) const {
    if (i >= len_) [[unlikely]] {
      detail::throw_out_of_range("PagedKvCache.get_token", "token", i, len_);
    }
    return {reinterpret_cast<const double*>(token_bytes(i)), dim_};
  }

  /// Forgets every token; memory and block order stay. O(1).
  void clear() noexcept { len_ = 0; }

  /// Lays logical block i on physical block `order[i]`. For tests that must not rely on blocks
  /// lying in order.
  /// @throws CapacityError when tokens are held, ShapeError when `order` is not a permutation of
  ///         `[0, num_blocks())`.
  void permute_blocks(std::span<const BlockId> order) {
    constexpr const char* where = "PagedKvCache.permute_blocks";
    if (len_ != 0) detail::throw_capacity(where, "tokens are held; expected an empty cache");
    std::vector<bool> seen(num_blocks());
    for (const BlockId id : order) {
      if (id >= seen.size() || seen[id]) break;
      seen[id] = true;
    }
    if (order.size() != seen.size() || std::ranges::find(seen, false) != seen.end()) {
      detail::throw_shape(where, std::to_string(order.size()) +
                                     " ids; expected a permutation of the " +
                                     std::to_string(seen.size()) + " block ids");
    }
    BlockTable table(1, kBlockSize);
    for (const BlockId id : order) table.append_block(0, id);
    table_ = std::move(table);
    blocks_in_order_ = std::min<std::size_t>(1, order.size());
    while (blocks_in_order_ < order.size() &&
           order[blocks_in_order_] == order[blocks_in_order_ - 1] + 1) {
      ++blocks_in_order_;
    }
  }

  [[nodiscard]] std::size_t max_tokens() const noexcept { return max_tokens_; }
  /// Blocks allocated: `ceil(max_tokens / 16)`.
  [[nodiscard]] std::size_t num_blocks() const noexcept {
    return detail::ceil_div(max_tokens_, kBlockSize);
  }
  /// Blocks that hold tokens.
  [[nodiscard]] std::size_t blocks_in_use() const noexcept {
    return detail::ceil_div(len_, kBlockSize);
  }
  /// Tokens held.
  [[nodiscard]] std::size_t len() const noexcept { return len_; }
  [[nodiscard]] std::size_t size() const noexcept { return len_; }
  [[nodiscard]] std::size_t dim() const noexcept { return dim_; }
  [[nodiscard]] bool is_empty() const noexcept { return len_ == 0; }
  [[nodiscard]] const BlockTable& block_table() const noexcept { return table_; }
  /// The blocks as they lie in memory, `[num_blocks(), 16, dim()]` as bytes.
  [[nodiscard]] std::span<const std::byte> storage() const noexcept {
    return {storage_.data(), storage_.size()};
  }

  /// `PagedKvCache(len=20, max=64, dim=8, blocks=2/4)`
  [[nodiscard]] std::string repr() const {
    return "PagedKvCache(len=" + std::to_string(len_) + ", max=" + std::to_string(max_tokens_) +
           ", dim=" + std::to_string(dim_) + ", blocks=" + std::to_string(blocks_in_use()) + "/" +
           std::to_string(num_blocks()) + ")";
  }

 private:
  static std::size_t checked_bytes(std::size_t max_tokens, std::size_t dim) {
    constexpr const char* where = "PagedKvCache";
    if (dim == 0) detail::throw_zero(where, "dim");
    const std::size_t num_blocks = detail::ceil_div(max_tokens, kBlockSize);
    if (num_blocks > BlockAllocator::kMaxCapacity) {
      detail::throw_capacity(where, "max_tokens " + std::to_string(max_tokens) +
                                        "; expected fewer than 2^31 blocks of 16");
    }
    return detail::checked_product(where, {num_blocks, kBlockSize, dim, sizeof(double)});
  }

  [[noreturn]] PAGEDKV_COLD void throw_full(const char* where, std::size_t n) const {
    detail::throw_capacity(where, std::to_string(len_) + " tokens held and " + std::to_string(n) +
                                      " more; expected at most " + std::to_string(max_tokens_) +
                                      " (max_tokens) in all");
  }

  [[nodiscard]] const std::byte* token_bytes(std::size_t i) const noexcept {
    const std::size_t slot = table_.blocks(0)[i / kBlockSize] * kBlockSize + i % kBlockSize;
    return storage_.data() + slot * dim_ * sizeof(double);
  }
  [[nodiscard]] std::byte* token_bytes(std::size_t i) noexcept {
    return const_cast<std::byte*>(std::as_const(*this).token_bytes(i));
  }

  /// Calls `visit(bytes, size)` for every longest run of tokens [first, last) that lies in one
  /// piece.
  template <class Self, class Visit>
  static void for_each_run_of(Self& self, std::size_t first, std::size_t last, Visit visit) {
    if (first == last) return;
    const auto blocks = self.table_.blocks(0);
    while (first < last) {
      std::size_t block = first / kBlockSize;
      while ((block + 1) * kBlockSize < last && blocks[block + 1] == blocks[block] + 1) ++block;
      const std::size_t end = std::min((block + 1) * kBlockSize, last);
      visit(self.token_bytes(first), (end - first) * self.dim_ * sizeof(double));
      first = end;
    }
  }
  template <class Visit>
  void for_each_run(std::size_t first, std::size_t last, Visit visit) const {
    for_each_run_of(*this, first, last, visit);
  }
  template <class Visit>
  void for_each_run(std::size_t first, std::size_t last, Visit visit) {
    for_each_run_of(*this, first, last, visit);
  }

  std::size_t max_tokens_;
  std::size_t dim_;
  std::size_t len_ = 0;
  std::size_t blocks_in_order_ = 0;  // leading blocks that lie one behind the other in memory
  BlockTable table_;                 // every block from the start, one list
  detail::Storage storage_;          // [num_blocks, 16, dim] float64
};

}  // namespace pagedkv::inline v0_1
