#pragma once

// Copies of many rows between strided arrays, as long runs where the strides allow, and cut into
// pieces for several threads.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "pagedkv/cpu/thread_pool.hpp"
#include "pagedkv/detail/copy.hpp"

namespace pagedkv::inline v0_1::cpu {

/// `[num_tokens, num_heads]` rows of `row_bytes` bytes, and where they go. Strides in bytes.
struct RowsCopy {
  std::byte* to = nullptr;
  std::int64_t to_token_stride = 0;
  std::int64_t to_head_stride = 0;
  const std::byte* from = nullptr;
  std::int64_t from_token_stride = 0;
  std::int64_t from_head_stride = 0;
  std::int64_t num_tokens = 0;
  std::int64_t num_heads = 0;
  std::int64_t row_bytes = 0;
};

/// Copies the rows of one call, in the way that its whole size asks for. Each thread has its own;
/// others see the bytes when it has gone out of scope.
class RowTransfer {
 public:
  /// @param size  bytes of the whole call.
  explicit RowTransfer(std::int64_t size) noexcept
      : streams_(static_cast<std::size_t>(size) >= detail::kStreamTransferFrom) {}
  RowTransfer(const RowTransfer&) = delete;
  RowTransfer& operator=(const RowTransfer&) = delete;
  ~RowTransfer() {
    if (streams_) detail::stream_fence();
  }

  /// What is read and what is written do not overlap.
  void copy(RowsCopy rows) const noexcept {
    // Heads one after the other are one row, and so are tokens.
    if (rows.from_head_stride == rows.row_bytes && rows.to_head_stride == rows.row_bytes) {
      rows.row_bytes *= rows.num_heads;
      rows.num_heads = 1;
    }
    if (rows.from_token_stride == rows.row_bytes && rows.to_token_stride == rows.row_bytes) {
      rows.row_bytes *= rows.num_tokens;
      rows.num_tokens = 1;
    }
    // In the order of what is read, where the two differ: the processor fetches that ahead.
    if (rows.from_token_stride > rows.from_head_stride) {
      for (std::int64_t token = 0; token < rows.num_tokens; ++token) {
        for (std::int64_t head = 0; head < rows.num_heads; ++head) copy_one(rows, token, head);
      }
    } else {
      for (std::int64_t head = 0; head < rows.num_heads; ++head) {
        for (std::int64_t token = 0; token < rows.num_tokens; ++token) copy_one(rows, token, head);
      }
    }
  }

  /// One row.
  void copy_row(std::byte* to, const std::byte* from, std::size_t size) const noexcept {
    if (size >= detail::kOwnCopyFrom) {
      streams_ ? detail::stream_bytes(to, from, size) : detail::copy_bytes(to, from, size);
    } else {
      detail::copy_short(to, from, size, streams_);
    }
  }

 private:
  void copy_one(const RowsCopy& rows, std::int64_t token, std::int64_t head) const noexcept {
    copy_row(rows.to + token * rows.to_token_stride + head * rows.to_head_stride,
             rows.from + token * rows.from_token_stride + head * rows.from_head_stride,
             static_cast<std::size_t>(rows.row_bytes));
  }

  bool streams_;
};

/// Bytes that are worth a thread's while.
inline constexpr std::int64_t kBytesAtATime = std::int64_t{256} << 10;

/// Calls `work(begin, end)` for pieces of [0, count), each of about `kBytesAtATime` bytes.
/// @param bytes_each  that are moved for one of `count`.
template <Executor E, class Work>
void in_pieces(E& executor, std::int64_t count, std::int64_t bytes_each, Work&& work) {
  const std::int64_t step =
      std::max<std::int64_t>(kBytesAtATime / std::max<std::int64_t>(bytes_each, 1), 1);
  executor.run((count + step - 1) / step, [&](std::int64_t piece, unsigned) {
    work(piece * step, std::min((piece + 1) * step, count));
  });
}

}  // namespace pagedkv::inline v0_1::cpu
