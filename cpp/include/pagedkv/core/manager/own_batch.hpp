#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <memory>

#include "pagedkv/core/manager/batch.hpp"

namespace pagedkv::inline v0_1::detail {

/// The batch of a manager for callers that bring none; grows by doubling. One that somebody still
/// looks at lives on beside its successor.
class OwnBatch {
 public:
  /// @param maker  makes a batch of that size by `new_batch`.
  template <class Maker>
  Batch& with_room(const Maker& maker, std::size_t rows, std::size_t tokens, std::size_t blocks) {
    if (batch_ == nullptr || rows > batch_->max_seqs() || tokens > batch_->max_tokens() ||
        blocks > batch_->max_blocks_per_seq()) {
      const auto grown = [](std::size_t needed) {
        return std::bit_ceil(std::max<std::size_t>(needed, 16));
      };
      batch_.reset(new Batch(maker.new_batch(grown(rows), grown(tokens), grown(blocks))));
    }
    return *batch_;
  }

 private:
  std::shared_ptr<Batch> batch_;
};

}  // namespace pagedkv::inline v0_1::detail
