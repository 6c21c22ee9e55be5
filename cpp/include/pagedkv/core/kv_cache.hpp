#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>

#include "pagedkv/core/backend.hpp"
#include "pagedkv/core/block_allocator.hpp"
#include "pagedkv/core/dtype.hpp"
#include "pagedkv/core/errors.hpp"
#include "pagedkv/core/paged_seq_state.hpp"
#include "pagedkv/detail/checked_math.hpp"
#include "pagedkv/detail/fork_guard.hpp"
#include "pagedkv/detail/storage.hpp"

namespace pagedkv::inline v0_1 {

/// The keys and values of one layer for one sequence, in one of two layouts:
///
///  - contiguous: `k`, `v` are `[num_kv_heads, capacity, head_dim]`; `block_size()` is 0.
///  - paged: `k`, `v` are pools `[num_blocks, num_kv_heads, block_size, head_dim]` that any number
///    of sequences share (`share()`), with a block table and a context length of this sequence
///    alone.
///
/// `append` is all or nothing and `capacity()` is a hard limit. A paged cache gives its blocks back
/// on `release()` and at the end of its life. Moves, never copies. Caches that share an allocator
/// are for one thread at a time, except that `append` within reserved room and `to_dense` of
/// different caches may run side by side.
template <Backend B>
class KvCache {
 public:
  using Device = typename B::Device;
  using Context = typename B::Context;
  using Buffer = typename B::Buffer;

  /// A cache for `capacity` tokens in one piece.
  /// @throws ShapeError for a head count or head_dim of 0 or an overflow; std::bad_alloc.
  static KvCache contiguous(std::size_t capacity, std::size_t num_kv_heads, std::size_t head_dim,
                            DType dtype = DType::float32, Device device = {}) {
    auto pool = make_pool("KvCache.contiguous", 1, num_kv_heads, capacity, head_dim, dtype, device);
    return KvCache(std::move(pool), num_kv_heads, head_dim, capacity, device);
  }

  /// A pool of `num_blocks` blocks and the first sequence's cache over it.
  /// @param allocator  hands out the block ids of this pool; shared by all caches over it.
  /// @throws ShapeError for a dimension of 0, an overflow, no allocator, or an allocator with ids
  ///         beyond the pool; std::bad_alloc.
  static KvCache paged(std::size_t num_blocks, std::size_t num_kv_heads, std::size_t head_dim,
                       std::size_t block_size, std::size_t max_blocks_per_seq,
                       std::shared_ptr<BlockAllocator> allocator, DType dtype = DType::float32,
                       Device device = {}) {
    constexpr const char* where = "KvCache.paged";
    if (block_size == 0) detail::throw_zero(where, "block_size");
    if (allocator == nullptr) {
      detail::throw_shape(where, "no allocator; expected the one that hands out the pool's blocks");
    }
    if (allocator->capacity() > num_blocks) {
      detail::throw_shape(where, "an allocator of " + std::to_string(allocator->capacity()) +
                                     " ids for a pool of " + std::to_string(num_blocks) +
                                     " blocks; expected no more ids than blocks");
    }
    static_cast<void>(detail::checked_product(where, {block_size, max_blocks_per_seq}));  // tokens
    auto pool = make_pool(where, num_blocks, num_kv_heads, block_size, head_dim, dtype, device);
    return KvCache(std::move(pool), num_kv_heads, head_dim,
                   Paged{std::move(allocator), {block_size, max_blocks_per_seq, device}}, device);
  }

  KvCache(KvCache&&) noexcept = default;
  KvCache& operator=(KvCache&& other) noexcept {
    if (this != &other) {
      std::destroy_at(this);  // gives the blocks back
      std::construct_at(this, std::move(other));
    }
    return *this;
  }
  ~KvCache() { give_back(); }

  /// Another sequence's cache, empty, over the same pool and allocator.
  /// @throws UnsupportedError for a contiguous cache.
  [[nodiscard]] KvCache share() const {
    fork_guard_.check("KvCache.share");
    if (!paged_) {
      detail::throw_unsupported("KvCache.share",
                                "a contiguous cache; expected a paged one, only a pool of blocks "
                                "can be shared");
    }
    const auto& state = paged_->state;
    return KvCache(
        pool_, num_kv_heads_, head_dim_,
        Paged{paged_->allocator, {state.block_size(), state.max_blocks_per_seq(), device_}},
        device_);
  }

  /// Room for `num_tokens` more tokens: takes the blocks that they need, writes no token. `where`
  /// is the function that errors name.
  /// @throws CapacityError beyond `capacity()`, PoolExhaustedError when blocks are short; nothing
  ///         has changed.
  void reserve(Context& ctx, std::size_t num_tokens, const char* where = "KvCache.reserve") {
    fork_guard_.check(where);
    make_room(where, ctx, num_tokens);
  }

  /// Appends `k.size() / (num_kv_heads * head_dim * element size)` tokens; `k` and `v` are
  /// `[n, num_kv_heads, head_dim]` as bytes. All or nothing. O(bytes).
  /// @throws ShapeError when the sizes do not match; as `reserve` otherwise.
  void append(Context& ctx, std::span<const std::byte> k, std::span<const std::byte> v) {
    constexpr const char* where = "KvCache.append";
    fork_guard_.check(where);
    if (k.size() != v.size() || k.size() % token_bytes() != 0) [[unlikely]] {
      detail::throw_shape(
          where, std::to_string(k.size()) + " bytes of keys and " + std::to_string(v.size()) +
                     " of values; expected equal multiples of " + std::to_string(token_bytes()));
    }
    const std::size_t n = k.size() / token_bytes();
    const std::size_t held_before = paged_ ? paged_->state.blocks().size() : 0;
    make_room(where, ctx, n);
    try {
      for_each_run(len(), len() + n, [&](const RowCopy& rows, std::size_t host_offset) {
        B::write_rows(ctx, pool_->k, rows, k.data() + host_offset);
        B::write_rows(ctx, pool_->v, rows, v.data() + host_offset);
      });
      set_len(ctx, len() + n);
    } catch (...) {
      if (paged_) {
        paged_->state.truncate(*paged_->allocator, held_before * block_size());
      }
      throw;
    }
  }

  /// The same with typed elements on the default context.
  /// @throws ShapeError also when `T` does not hold elements of `dtype()`.
  template <class T>
  void append(std::span<const T> k, std::span<const T> v) {
    detail::expect_elements_of<T>("KvCache.append", dtype());
    Context ctx = B::context(device_);
    append(ctx, std::as_bytes(k), std::as_bytes(v));
  }

  /// Copies keys and values out, each `[len, num_kv_heads, head_dim]` as bytes. O(bytes).
  /// @throws ShapeError when `k` or `v` has another size.
  void to_dense(Context& ctx, std::span<std::byte> k, std::span<std::byte> v) const {
    fork_guard_.check("KvCache.to_dense");
    const std::size_t expected = len() * token_bytes();
    if (k.size() != expected || v.size() != expected) [[unlikely]] {
      detail::throw_shape("KvCache.to_dense", std::to_string(k.size()) + " and " +
                                                  std::to_string(v.size()) + " bytes; expected " +
                                                  std::to_string(expected) + " each");
    }
    for_each_run(0, len(), [&](const RowCopy& rows, std::size_t host_offset) {
      B::read_rows(ctx, pool_->k, rows, k.data() + host_offset);
      B::read_rows(ctx, pool_->v, rows, v.data() + host_offset);
    });
  }

  /// The same with typed elements on the default context.
  template <class T>
  void to_dense(std::span<T> k, std::span<T> v) const {
    detail::expect_elements_of<T>("KvCache.to_dense", dtype());
    Context ctx = B::context(device_);
    to_dense(ctx, std::as_writable_bytes(k), std::as_writable_bytes(v));
  }

  /// Back to `num_tokens` tokens, if there are more; blocks that are not needed go back.
  /// @throws Error of the backend; then the cache is shorter all the same, and the next call
  ///         rewrites the device.
  void truncate(Context& ctx, std::size_t num_tokens) {
    fork_guard_.check("KvCache.truncate");
    if (num_tokens >= len()) return;
    if (paged_) paged_->state.truncate(*paged_->allocator, num_tokens);
    set_len(ctx, num_tokens);
  }

  /// Empties the cache and gives its blocks back. Twice is harmless.
  void release() {
    contiguous_len_ = 0;
    if (!paged_ || paged_->allocator == nullptr) return;  // contiguous, or moved from
    paged_->state.release(*paged_->allocator);
  }

  /// Key storage: `[num_kv_heads, capacity, head_dim]` or the pool
  /// `[num_blocks, num_kv_heads, block_size, head_dim]`.
  [[nodiscard]] const Buffer& k() const noexcept { return pool_->k; }
  [[nodiscard]] Buffer& k() noexcept { return pool_->k; }
  /// Value storage, likewise.
  [[nodiscard]] const Buffer& v() const noexcept { return pool_->v; }
  [[nodiscard]] Buffer& v() noexcept { return pool_->v; }
  /// Tokens held.
  [[nodiscard]] std::size_t len() const noexcept {
    return paged_ ? paged_->state.len() : contiguous_len_;
  }
  /// Most tokens that this cache takes.
  [[nodiscard]] std::size_t capacity() const noexcept { return capacity_; }
  [[nodiscard]] std::size_t num_kv_heads() const noexcept { return num_kv_heads_; }
  [[nodiscard]] std::size_t head_dim() const noexcept { return head_dim_; }
  [[nodiscard]] DType dtype() const noexcept { return pool_->k.dtype(); }
  /// Tokens a block; 0 for the contiguous layout.
  [[nodiscard]] std::size_t block_size() const noexcept {
    return paged_ ? paged_->state.block_size() : 0;
  }
  /// Blocks of the pool; 0 for the contiguous layout.
  [[nodiscard]] std::size_t num_blocks() const noexcept {
    return paged_ ? pool_->k.size() / (num_kv_heads_ * block_size() * head_dim_) : 0;
  }
  /// `[max_blocks_per_seq]` int32 on the device, or null for the contiguous layout.
  [[nodiscard]] const Buffer* block_table() const noexcept {
    return paged_ ? &paged_->state.block_table_buf() : nullptr;
  }
  /// `[1]` int32 on the device, or null for the contiguous layout.
  [[nodiscard]] const Buffer* context_lens() const noexcept {
    return paged_ ? &paged_->state.context_lens_buf() : nullptr;
  }
  /// The host's mirror of the block table: the ids that this cache holds, in logical order.
  [[nodiscard]] std::span<const BlockId> paged_block_indices() const noexcept {
    return paged_ ? paged_->state.blocks() : std::span<const BlockId>{};
  }
  /// Null for the contiguous layout.
  [[nodiscard]] std::shared_ptr<BlockAllocator> allocator() const noexcept {
    return paged_ ? paged_->allocator : nullptr;
  }

 private:
  struct Pool {
    Buffer k;
    Buffer v;
    std::size_t row_bytes;  // of one head of one token
  };
  struct Paged {
    std::shared_ptr<BlockAllocator> allocator;
    PagedSeqState<B> state;
  };

  KvCache(std::shared_ptr<Pool> pool, std::size_t num_kv_heads, std::size_t head_dim,
          std::size_t capacity, Device device)
      : pool_(std::move(pool)),
        num_kv_heads_(num_kv_heads),
        head_dim_(head_dim),
        capacity_(capacity),
        device_(device) {}

  KvCache(std::shared_ptr<Pool> pool, std::size_t num_kv_heads, std::size_t head_dim, Paged paged,
          Device device)
      : pool_(std::move(pool)),
        num_kv_heads_(num_kv_heads),
        head_dim_(head_dim),
        capacity_(paged.state.block_size() * paged.state.max_blocks_per_seq()),
        device_(device),
        paged_(std::move(paged)) {}

  static std::shared_ptr<Pool> make_pool(const char* where, std::size_t num_blocks,
                                         std::size_t num_kv_heads, std::size_t block_size,
                                         std::size_t head_dim, DType dtype, Device device) {
    if (num_kv_heads == 0) detail::throw_zero(where, "num_kv_heads");
    if (head_dim == 0) detail::throw_zero(where, "head_dim");
    // A row ends on a whole byte; neither a token nor a block overflows, also where there is none.
    const std::size_t row = detail::bytes_of(where, dtype, head_dim);
    static_cast<void>(detail::checked_product(where, {num_kv_heads, row}));
    static_cast<void>(detail::checked_product(where, {num_kv_heads, block_size, head_dim}));
    const std::size_t size =
        detail::checked_product(where, {num_blocks, num_kv_heads, block_size, head_dim});
    return std::make_shared<Pool>(Pool{B::allocate(device, dtype, size, std::byte{0}),
                                       B::allocate(device, dtype, size, std::byte{0}), row});
  }

  [[nodiscard]] std::size_t row_bytes() const noexcept { return pool_->row_bytes; }
  [[nodiscard]] std::size_t token_bytes() const noexcept { return num_kv_heads_ * row_bytes(); }

  void make_room(const char* where, Context& ctx, std::size_t num_tokens) {
    if (num_tokens > capacity() - len()) [[unlikely]] {
      detail::throw_capacity(where, std::to_string(len()) + " tokens held and " +
                                        std::to_string(num_tokens) + " more; expected at most " +
                                        std::to_string(capacity()) + " in all");
    }
    if (paged_) paged_->state.ensure_capacity(ctx, *paged_->allocator, len() + num_tokens);
  }

  /// Calls `move(rows, host_offset)` for every piece of tokens [first, last) that is a rectangle in
  /// memory: a (block, head) of the paged layout, a head of the contiguous one.
  template <class Move>
  void for_each_run(std::size_t first, std::size_t last, Move move) const {
    const std::size_t row = row_bytes();
    // The contiguous layout is one block of `capacity` tokens.
    const std::size_t block_tokens = paged_ ? block_size() : capacity_;
    const auto blocks = paged_block_indices();
    for (std::size_t token = first; token < last;) {
      const std::size_t offset = token % block_tokens;
      const std::size_t count = std::min(block_tokens - offset, last - token);
      const std::size_t block = paged_ ? blocks[token / block_tokens] : 0;
      for (std::size_t head = 0; head < num_kv_heads_; ++head) {
        const std::size_t slot = (block * num_kv_heads_ + head) * block_tokens + offset;
        move(RowCopy{count, row, slot * row, row, token_bytes()},
             (token - first) * token_bytes() + head * row);
      }
      token += count;
    }
  }

  void set_len(Context& ctx, std::size_t len) {
    if (!paged_) {
      contiguous_len_ = len;
      return;
    }
    const std::size_t before = paged_->state.len();
    paged_->state.set_len(len);
    try {
      paged_->state.sync_context_len(ctx);
    } catch (...) {
      paged_->state.set_len(before);
      throw;
    }
  }

  void give_back() noexcept {
    // Only a caller who freed this cache's ids behind its back can make this fail; the ids are then
    // no longer the cache's to give back.
    try {
      release();
    } catch (...) {
    }
  }

  std::shared_ptr<Pool> pool_;
  std::size_t num_kv_heads_;
  std::size_t head_dim_;
  std::size_t capacity_;
  std::size_t contiguous_len_ = 0;
  [[no_unique_address]] Device device_;
  std::optional<Paged> paged_;
  [[no_unique_address]] detail::ForkGuard<B::survives_fork> fork_guard_;
};

}  // namespace pagedkv::inline v0_1
