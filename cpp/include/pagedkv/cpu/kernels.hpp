#pragma once

// The kernels of one instruction set, as functions. Linking `pagedkv::kernels` gives one such table
// for each set and the choice at run time; the headers alone give the kernels for the flags that
// they are compiled with.

#include <cstddef>
#include <cstdint>

#include "pagedkv/cpu/attention_span.hpp"
#include "pagedkv/cpu/isa.hpp"
#include "pagedkv/cpu/row_kernels.hpp"

namespace pagedkv::inline v0_1::cpu {

/// None allocates or throws; arguments were checked.
struct Kernels {
  Isa isa;
  /// Most rows of a span of this call that are not converted first.
  int direct_rows;
  /// Most rows of a span.
  int packed_rows;
  /// Working memory of `attend` and `merge`, in bytes.
  std::size_t (*attention_scratch)(const AttentionCall&) noexcept;
  /// One item, with working memory that is 64-byte aligned.
  void (*attend)(const AttentionCall&, const AttentionItem&, std::byte* scratch) noexcept;
  /// The parts of a span, for one head of keys and values, become its result.
  /// @param partials  of its pieces, one after the other.
  void (*merge)(const AttentionCall&, const AttentionSpan&, std::int64_t kv_head,
                std::byte* partials, std::byte* scratch) noexcept;
  /// What the operations that move keys and values do with a row.
  RowKernels rows;
};

}  // namespace pagedkv::inline v0_1::cpu
