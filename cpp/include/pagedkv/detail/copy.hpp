#pragma once

// Copies between pages and flat arrays: memcpy, but for two cases on x86-64.
//
// A transfer that is larger than the caches gains nothing from them: an ordinary store first reads
// the line that it overwrites, and what it leaves in a cache is gone before anybody reads it. It is
// written around the caches, which takes a third off its traffic.
//
// And memcpy may be `rep movsb`, which on some processors (Zen 3) copies at a twentieth of its
// speed when the destination lies 1 to 31 bytes after the source, modulo 4,096: as a large array
// from malloc lies to an aligned page.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__) || (defined(_M_X64) && !defined(_M_ARM64EC))
#include <emmintrin.h>
#define PAGEDKV_DETAIL_SSE2 1
#else
#define PAGEDKV_DETAIL_SSE2 0
#endif

namespace pagedkv::inline v0_1::detail {

/// Transfers of as many bytes do not fit a last-level cache, source and destination together.
inline constexpr std::size_t kStreamTransferFrom = std::size_t{32} << 20;
/// Pieces below this are left to memcpy: starting and ending costs more than is saved.
inline constexpr std::size_t kOwnCopyFrom = std::size_t{2} << 10;

#if PAGEDKV_DETAIL_SSE2

/// Copies 64 bytes to a multiple of 64, around the caches or not.
template <bool around_caches>
inline void copy_line(std::byte* to, const std::byte* from) noexcept {
  const auto* source = reinterpret_cast<const __m128i*>(from);
  auto* target = reinterpret_cast<__m128i*>(to);
  const __m128i a = _mm_loadu_si128(source);
  const __m128i b = _mm_loadu_si128(source + 1);
  const __m128i c = _mm_loadu_si128(source + 2);
  const __m128i d = _mm_loadu_si128(source + 3);
  if constexpr (around_caches) {
    _mm_stream_si128(target, a);
    _mm_stream_si128(target + 1, b);
    _mm_stream_si128(target + 2, c);
    _mm_stream_si128(target + 3, d);
  } else {
    _mm_store_si128(target, a);
    _mm_store_si128(target + 1, b);
    _mm_store_si128(target + 2, c);
    _mm_store_si128(target + 3, d);
  }
}

/// Copies `size` bytes, line by line; the ends that fill no line with memcpy.
template <bool around_caches>
inline void copy_lines(std::byte* to, const std::byte* from, std::size_t size) noexcept {
  constexpr std::size_t line = 64;
  constexpr std::size_t ahead = 8 * line;
  constexpr auto hint = around_caches ? _MM_HINT_NTA : _MM_HINT_T0;
  const std::size_t past_line = reinterpret_cast<std::uintptr_t>(to) % line;
  const std::size_t head = past_line == 0 ? 0 : std::min(size, line - past_line);
  if (head != 0) std::memcpy(to, from, head);
  std::size_t i = head;
  for (; i + ahead + line <= size; i += line) {
    _mm_prefetch(reinterpret_cast<const char*>(from + i + ahead), hint);
    copy_line<around_caches>(to + i, from + i);
  }
  for (; i + line <= size; i += line) copy_line<around_caches>(to + i, from + i);
  if (i != size) std::memcpy(to + i, from + i, size - i);
}

/// Whether `rep movsb` is slow between these two.
inline bool memcpy_crawls(const std::byte* to, const std::byte* from) noexcept {
  const auto after = reinterpret_cast<std::uintptr_t>(to) - reinterpret_cast<std::uintptr_t>(from);
  return after % 4096 - 1 < 31;
}

/// Copies `size` bytes that do not overlap.
inline void copy_bytes(std::byte* to, const std::byte* from, std::size_t size) noexcept {
  if (size >= kOwnCopyFrom && memcpy_crawls(to, from)) {
    copy_lines<false>(to, from, size);
  } else if (size != 0) {
    std::memcpy(to, from, size);
  }
}

/// The same around the caches. Other threads see the bytes after `stream_fence`.
inline void stream_bytes(std::byte* to, const std::byte* from, std::size_t size) noexcept {
  copy_lines<true>(to, from, size);
}
inline void stream_fence() noexcept { _mm_sfence(); }

/// A few hundred bytes, for which a call of memcpy is a large part. Around the caches only where
/// that writes whole lines.
inline void copy_short(std::byte* to, const std::byte* from, std::size_t size,
                       bool around_caches) noexcept {
  if (size < 16) {
    if (size != 0) std::memcpy(to, from, size);
    return;
  }
  const std::size_t lines = size / 64 * 64;
  std::size_t i = 0;
  if (around_caches && size == lines && reinterpret_cast<std::uintptr_t>(to) % 64 == 0) {
    for (; i < lines; i += 64) copy_line<true>(to + i, from + i);
    return;
  }
  const auto copy_16 = [&](std::size_t at) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + at),
                     _mm_loadu_si128(reinterpret_cast<const __m128i*>(from + at)));
  };
  for (; i < lines; i += 64) {
    const auto* source = reinterpret_cast<const __m128i*>(from + i);
    auto* target = reinterpret_cast<__m128i*>(to + i);
    const __m128i a = _mm_loadu_si128(source);
    const __m128i b = _mm_loadu_si128(source + 1);
    const __m128i c = _mm_loadu_si128(source + 2);
    const __m128i d = _mm_loadu_si128(source + 3);
    _mm_storeu_si128(target, a);
    _mm_storeu_si128(target + 1, b);
    _mm_storeu_si128(target + 2, c);
    _mm_storeu_si128(target + 3, d);
  }
  for (; i + 16 <= size; i += 16) copy_16(i);
  if (i != size) copy_16(size - 16);  // bytes that are copied twice are the same both times
}

#else

inline void copy_bytes(std::byte* to, const std::byte* from, std::size_t size) noexcept {
  if (size != 0) std::memcpy(to, from, size);
}
inline void stream_bytes(std::byte* to, const std::byte* from, std::size_t size) noexcept {
  copy_bytes(to, from, size);
}
inline void stream_fence() noexcept {}
inline void copy_short(std::byte* to, const std::byte* from, std::size_t size, bool) noexcept {
  copy_bytes(to, from, size);
}

#endif

/// Copies the pieces of one transfer, in the way that its whole size asks for. Complete when it
/// goes out of scope.
class Transfer {
 public:
  /// @param size  bytes of all pieces together.
  explicit Transfer(std::size_t size) noexcept : streams_(size >= kStreamTransferFrom) {}
  Transfer(const Transfer&) = delete;
  Transfer& operator=(const Transfer&) = delete;
  ~Transfer() {
    if (streams_) stream_fence();
  }

  /// Copies one piece; source and destination do not overlap.
  void copy(std::byte* to, const std::byte* from, std::size_t size) const noexcept {
    if (streams_ && size >= kOwnCopyFrom) {
      stream_bytes(to, from, size);
    } else {
      copy_bytes(to, from, size);
    }
  }

 private:
  bool streams_;
};

}  // namespace pagedkv::inline v0_1::detail
