#pragma once

// Attention over paged keys and values, for a mixed batch of sequences.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "pagedkv/core/errors.hpp"
#include "pagedkv/cpu/attention_span.hpp"
#include "pagedkv/cpu/kernels.hpp"
#include "pagedkv/cpu/thread_pool.hpp"
#include "pagedkv/detail/storage.hpp"
#include "pagedkv/ops/check_attention.hpp"

namespace pagedkv::inline v0_1::cpu {

namespace detail_attention {

/// Tokens a piece of a span of few rows. Fixed, so that a result depends neither on the number of
/// threads nor on the rest of the batch; small enough to give each of many threads one.
inline constexpr std::int64_t kPieceTokens = 512;

/// The pieces of a call, and what they need.
class Plan {
 public:
  Plan(const AttentionCall& call, const Kernels& kernels) {
    const std::int64_t group = call.group_size();
    const bool packed_only = call.q_rope.head_dim != 0;
    const bool direct_only = call.k_cache.dtype == DType::float64;
    for (std::int64_t seq = 0; seq < call.num_seqs; ++seq) {
      const std::int64_t rows = call.query_len(seq) * group;
      const bool direct = !packed_only && rows <= kernels.direct_rows;
      const std::int64_t most = direct || direct_only ? kernels.direct_rows : kernels.packed_rows;
      for (std::int64_t first = 0; first < rows; first += most) {
        add(call, seq, first, std::min(most, rows - first), direct || packed_only);
      }
    }
  }

  [[nodiscard]] std::int64_t num_items() const noexcept { return items_; }
  [[nodiscard]] std::size_t partial_bytes() const noexcept { return partials_; }
  [[nodiscard]] const std::vector<AttentionSpan>& spans() const noexcept { return spans_; }

  [[nodiscard]] const AttentionSpan& span_of(std::int64_t item) const noexcept {
    const auto after = std::upper_bound(
        spans_.begin(), spans_.end(), item,
        [](std::int64_t i, const AttentionSpan& span) { return i < span.first_item; });
    return *(after - 1);
  }

 private:
  void add(const AttentionCall& call, std::int64_t seq, std::int64_t first, std::int64_t count,
           bool in_pieces) {
    const std::int64_t group = call.group_size(), length = call.seq_lens[seq];
    const std::int64_t context = length - call.query_len(seq);
    const std::int64_t lowest = context + first / group;
    const std::int64_t highest = context + (first + count - 1) / group;
    AttentionSpan span;
    span.seq = seq;
    span.first_row = first;
    span.num_rows = count;
    span.end = call.causal ? highest + 1 : length;
    span.begin = call.window == 0 ? 0 : std::max<std::int64_t>(lowest - call.window + 1, 0);
    span.sinks = std::min(call.sink_tokens, span.end);
    if (span.begin <= span.sinks) span.begin = span.sinks = 0;
    span.piece = in_pieces ? kPieceTokens : std::int64_t{1} << 40;
    span.first_piece = span.begin / span.piece;
    span.num_pieces = std::max<std::int64_t>((span.end - 1) / span.piece - span.first_piece + 1, 1);
    span.first_item = items_;
    span.partials = static_cast<std::int64_t>(partials_);
    items_ += span.num_pieces * call.k_cache.num_heads;
    if (span.num_pieces > 1) {
      partials_ += static_cast<std::size_t>(span.num_pieces * call.k_cache.num_heads) *
                   cpu::partial_bytes(call, count);
    }
    spans_.push_back(span);
  }

  std::vector<AttentionSpan> spans_;
  std::int64_t items_ = 0;
  std::size_t partials_ = 0;
};

}  // namespace detail_attention

/// Attention of the queries of a batch over the keys and values of their sequences. A sequence's
/// result depends, bit for bit, on nothing but that sequence: not on the rest of the batch, and not
/// on the number of threads. O(queries * tokens they see); allocates the plan and working memory.
/// @param call  checked: see `check_attention`.
/// @throws std::bad_alloc with nothing written.
template <Executor E>
void attend(const AttentionCall& call, E& executor, const Kernels& kernels) {
  const detail_attention::Plan plan(call, kernels);
  if (plan.num_items() == 0) return;
  const std::size_t scratch = (kernels.attention_scratch(call) + 4095) / 4096 * 4096;
  // Read once: the pool may be resized meanwhile.
  const unsigned workers = executor.size();
  static thread_local detail::Storage kept;
  const std::size_t needed = scratch * workers + plan.partial_bytes();
  if (kept.size() < needed) {
    kept = detail::Storage();
    kept = detail::Storage(needed);
  }
  std::byte* const memory = kept.data();
  std::byte* const partials = memory + scratch * workers;
  // Whoever does the last piece of a span and head merges its pieces, in their order.
  const auto heads = static_cast<std::size_t>(call.k_cache.num_heads);
  const auto left = std::make_unique<std::atomic<std::int64_t>[]>(plan.spans().size() * heads);
  for (std::size_t i = 0; i < plan.spans().size() * heads; ++i) {
    left[i].store(plan.spans()[i / heads].num_pieces, std::memory_order_relaxed);
  }
  const auto task = [&](std::int64_t index, unsigned worker) {
    const AttentionSpan& span = plan.span_of(index);
    const std::int64_t within = index - span.first_item;
    AttentionItem item{&span, within / span.num_pieces, within % span.num_pieces, nullptr};
    std::byte* const own = memory + scratch * worker;
    if (span.num_pieces == 1) return kernels.attend(call, item, own);
    const std::size_t part = partial_bytes(call, span.num_rows);
    std::byte* const first =
        partials + span.partials + static_cast<std::size_t>(item.kv_head * span.num_pieces) * part;
    item.partial = first + static_cast<std::size_t>(item.piece) * part;
    kernels.attend(call, item, own);
    const auto counter = static_cast<std::size_t>(&span - plan.spans().data()) * heads +
                         static_cast<std::size_t>(item.kv_head);
    if (left[counter].fetch_sub(1, std::memory_order_acq_rel) == 1) {
      kernels.merge(call, span, item.kv_head, first, own);
    }
  };
  executor.run(plan.num_items(), task, workers);
}

/// `attend`, checked: paged attention, and with `q_rope` and `k_rope_cache` that of MLA.
/// Throws what `check_attention` and `attend` do, with nothing written.
template <Executor E>
void paged_attention(const AttentionCall& call, E& executor, const Kernels& kernels,
                     const char* where = "cpu.paged_attention") {
  check_attention(where, call);
  attend(call, executor, kernels);
}

}  // namespace pagedkv::inline v0_1::cpu
