#pragma once

// Two attentions of the same queries over different tokens become one over all of them.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "pagedkv/core/errors.hpp"
#include "pagedkv/cpu/kernels.hpp"
#include "pagedkv/cpu/row_copies.hpp"
#include "pagedkv/cpu/row_kernels.hpp"
#include "pagedkv/cpu/thread_pool.hpp"
#include "pagedkv/ops/merge_states_call.hpp"
#include "pagedkv/ops/views.hpp"

namespace pagedkv::inline v0_1::cpu {

/// Each row of the result is (e^lse_a * o_a + e^lse_b * o_b) / (e^lse_a + e^lse_b). A part whose
/// LSE is -inf saw nothing: its row is not read, and may hold anything; where both are, the result
/// is zeros with LSE -inf. O(bytes).
/// @param where  the function that errors name.
/// @throws ShapeError for shapes or dtypes that do not go together, and for memory that is shared
/// in
///         part. Nothing was written.
template <Executor E>
void merge_attention_states(const MergeStatesCall& call, E& executor, const Kernels& kernels,
                            const char* where = "cpu.merge_attention_states") {
  check_merge_states(where, call);
  const std::int64_t heads = call.o.num_heads;
  const auto bytes = 3 * heads * static_cast<std::int64_t>(call.o.row_bytes());
  if (bytes == 0) return;
  constexpr double nothing = -std::numeric_limits<double>::infinity();
  in_pieces(executor, call.o.num_tokens, bytes, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin * heads; i < end * heads; ++i) {
      const std::int64_t token = i / heads, head = i % heads;
      const double a = call.lse_a.at(token, head), b = call.lse_b.at(token, head);
      // A NaN is taken over, whichever side it is on.
      const double highest = a > b || a != a ? a : b;
      double sum = 0, weight_a = 0, weight_b = 0;
      if (highest != nothing) {
        weight_a = a == nothing ? 0 : std::exp(a - highest);
        weight_b = b == nothing ? 0 : std::exp(b - highest);
        sum = weight_a + weight_b;
      }
      const double factor = sum == 0 ? 0 : 1 / sum;
      kernels.rows.merge(call.o.dtype, a == nothing ? nullptr : call.o_a.row(token, head),
                         weight_a * factor, b == nothing ? nullptr : call.o_b.row(token, head),
                         weight_b * factor, call.o.row(token, head), call.o.head_dim);
      if (call.lse.data != nullptr) {
        call.lse.at(token, head) =
            static_cast<float>(highest == nothing ? nothing : highest + std::log(sum));
      }
    }
  });
}

}  // namespace pagedkv::inline v0_1::cpu
