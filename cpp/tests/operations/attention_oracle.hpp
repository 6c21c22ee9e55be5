#pragma once

// Attention written plainly, in double, and problems to compare it with.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "pagedkv/ops/attention_call.hpp"

namespace pagedkv_test {

using namespace pagedkv;

/// One element as a double, by the definition of its format.
inline double element(const std::byte* row, DType dtype, std::int64_t i) {
  const auto small_float = [](unsigned bits, int exponent_bits, int mantissa_bits, bool ieee) {
    const unsigned mantissa = bits & ((1U << mantissa_bits) - 1);
    const unsigned exponent = bits >> mantissa_bits & ((1U << exponent_bits) - 1);
    const double sign = (bits >> (exponent_bits + mantissa_bits) & 1U) != 0 ? -1 : 1;
    const int bias = (1 << (exponent_bits - 1)) - 1;
    const unsigned top = (1U << exponent_bits) - 1;
    if (ieee && exponent == top) {
      return mantissa == 0 ? sign * std::numeric_limits<double>::infinity()
                           : std::numeric_limits<double>::quiet_NaN();
    }
    if (!ieee && exponent == top && mantissa == (1U << mantissa_bits) - 1) {
      return std::numeric_limits<double>::quiet_NaN();
    }
    if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias - mantissa_bits);
    return sign * std::ldexp((1U << mantissa_bits) + mantissa,
                             static_cast<int>(exponent) - bias - mantissa_bits);
  };
  const auto load = [&](auto value) {
    std::memcpy(&value, row + i * static_cast<std::int64_t>(sizeof value), sizeof value);
    return value;
  };
  switch (dtype) {
    case DType::float64: return load(double{});
    case DType::float32: return static_cast<double>(load(float{}));
    case DType::float16: return small_float(load(std::uint16_t{}), 5, 10, true);
    case DType::bfloat16: return small_float(load(std::uint16_t{}), 8, 7, true);
    case DType::float8_e4m3: return small_float(load(std::uint8_t{}), 4, 3, false);
    case DType::float8_e5m2: return small_float(load(std::uint8_t{}), 5, 2, true);
    case DType::int8: return load(std::int8_t{});
    case DType::int4: {
      const int byte = std::to_integer<int>(row[i / 2]);
      const int nibble = i % 2 == 0 ? byte & 15 : byte >> 4;
      return nibble >= 8 ? nibble - 16 : nibble;
    }
    case DType::int32: return load(std::int32_t{});
  }
  return 0;
}

struct PlainResult {
  std::vector<double> out;  ///< `[num_tokens, num_q_heads, v_head_dim]`
  std::vector<double> lse;  ///< `[num_tokens, num_q_heads]`
};

/// The keys, or the values, of one sequence and head, `[length][head_dim]`; what has no block is
/// zero.
inline std::vector<double> rows_of(const AttentionCall& call, const CacheView& cache,
                                   std::int64_t seq, std::int64_t kv_head) {
  const std::int64_t length = call.seq_lens[seq], size = cache.block_size, dim = cache.head_dim;
  std::vector<double> rows(static_cast<std::size_t>(length * dim));
  for (std::int64_t j = 0; j < length; ++j) {
    const std::int64_t block = call.block_tables[seq * call.block_table_stride + j / size];
    if (block < 0) continue;
    const std::byte* row = cache.row(block, kv_head, j % size);
    for (std::int64_t i = 0; i < dim; ++i) {
      rows[static_cast<std::size_t>(j * dim + i)] = element(row, cache.dtype, i);
    }
  }
  return rows;
}

inline std::vector<double> row_of(const RowsView& rows, std::int64_t token, std::int64_t head) {
  std::vector<double> row;
  for (std::int64_t i = 0; i < rows.head_dim; ++i) {
    row.push_back(element(rows.row(token, head), rows.dtype, i));
  }
  return row;
}

inline double dot(const std::vector<double>& a, const std::vector<double>& b, std::int64_t row) {
  double sum = 0;
  const double* const from = b.data() + row * static_cast<std::int64_t>(a.size());
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * from[i];
  return sum;
}

/// Whether the query at `position`, new token `token` of the call, sees token j.
inline bool sees(const AttentionCall& call, std::int64_t seq, std::int64_t token,
                 std::int64_t position, std::int64_t j) {
  const std::int64_t context = call.seq_lens[seq] - call.query_len(seq);
  if (call.causal && j > position) return false;
  if (call.window != 0 && j <= position - call.window && j >= call.sink_tokens) return false;
  return call.tree_mask == nullptr || j < context ||
         call.tree_mask[token * call.tree_mask_stride + j - context] != 0;
}

/// What `call` asks for: one query after the other, all in double.
inline PlainResult plain_attention(const AttentionCall& call) {
  constexpr double nothing = -std::numeric_limits<double>::infinity();
  const std::int64_t heads = call.q.num_heads, width = call.out.head_dim;
  const auto rows = static_cast<std::size_t>(call.q.num_tokens * heads);
  PlainResult result{std::vector<double>(rows * static_cast<std::size_t>(width)),
                     std::vector<double>(rows, nothing)};
  for (std::int64_t seq = 0; seq < call.num_seqs; ++seq) {
    const std::int64_t length = call.seq_lens[seq], queries = call.query_len(seq);
    const auto scale_at = [&](const ScaleView& scale, std::int64_t head, std::int64_t j) {
      const std::int64_t size = call.k_cache.block_size;
      const std::int64_t block = call.block_tables[seq * call.block_table_stride + j / size];
      return static_cast<double>(scale.at(block, head, j % size));
    };
    for (std::int64_t kv_head = 0; kv_head < call.k_cache.num_heads; ++kv_head) {
      const auto keys = rows_of(call, call.k_cache, seq, kv_head);
      const auto values = rows_of(call, call.v_cache, seq, kv_head);
      const bool mla = call.q_rope.head_dim != 0;
      const auto rope =
          mla ? rows_of(call, call.k_rope_cache, seq, kv_head) : std::vector<double>();
      for (std::int64_t row = 0; row < queries * call.group_size(); ++row) {
        const std::int64_t head = kv_head * call.group_size() + row % call.group_size();
        const std::int64_t token = call.first_query(seq) + row / call.group_size();
        const std::int64_t position = length - queries + row / call.group_size();
        const auto query = row_of(call.q, token, head);
        const auto query_rope = mla ? row_of(call.q_rope, token, head) : std::vector<double>();
        const auto cap = static_cast<double>(call.softcap);
        std::vector<double> score(static_cast<std::size_t>(length), nothing);
        const double sink =
            call.sink_logits == nullptr ? nothing : static_cast<double>(call.sink_logits[head]);
        double highest = sink;
        for (std::int64_t j = 0; j < length; ++j) {
          if (!sees(call, seq, token, position, j)) continue;
          double s = dot(query, keys, j) + (mla ? dot(query_rope, rope, j) : 0);
          s *= call.scale * scale_at(call.k_scale, kv_head, j);
          if (cap != 0) s = cap * std::tanh(s / cap);
          if (call.alibi_slopes != nullptr) {
            s += static_cast<double>(call.alibi_slopes[head]) * static_cast<double>(j - position);
          }
          score[static_cast<std::size_t>(j)] = s;
          highest = std::max(highest, s);
        }
        if (highest == nothing) continue;
        double sum = std::exp(sink - highest);
        for (const double s : score) sum += std::exp(s - highest);
        const auto at = static_cast<std::size_t>(token * heads + head);
        result.lse[at] = highest + std::log(sum);
        double* const out = result.out.data() + at * static_cast<std::size_t>(width);
        for (std::int64_t j = 0; j < length; ++j) {
          const double s = score[static_cast<std::size_t>(j)];
          if (s == nothing) continue;
          const double weight = std::exp(s - highest) / sum * scale_at(call.v_scale, kv_head, j);
          for (std::int64_t i = 0; i < width; ++i) {
            out[i] += weight * values[static_cast<std::size_t>(j * width + i)];
          }
        }
      }
    }
  }
  return result;
}

/// ||a - b|| / ||b||, or ||a|| where b is zero.
inline double relative_error(const std::vector<double>& a, const std::vector<double>& b) {
  double difference = 0, size = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    size += b[i] * b[i];
  }
  return std::sqrt(size == 0 ? difference : difference / size);
}

/// The shape and the options of a problem.
struct Problem {
  DType dtype = DType::float32;
  DType query_dtype = DType::float32;
  std::int64_t head_dim = 64;
  std::int64_t v_head_dim = 0;  ///< 0: head_dim
  std::int64_t kv_heads = 2;
  std::int64_t group = 4;
  std::int64_t block_size = 16;
  Layout layout = Layout::hnd;
  std::vector<std::int64_t> seq_lens = {37, 0, 200, 1};
  std::vector<std::int64_t> query_lens = {1, 0, 1, 1};
  std::int64_t rope_dim = 0;  ///< MLA
  int scales = 0;             ///< 0: a tensor; 1: a (block, head); 2: a (block, head, slot)
  bool causal = true;
  std::int64_t window = 0;
  std::int64_t sink_tokens = 0;
  bool sink_logits = false;
  float softcap = 0;
  bool alibi = false;
  bool tree = false;
  bool exact = false;
  unsigned seed = 1;
};

/// Owns the arrays of a problem: random values, shuffled blocks, and what no token holds poisoned.
class Arrays {
 public:
  explicit Arrays(const Problem& problem) : random_(problem.seed) {
    Problem p = problem;
    if (p.v_head_dim == 0) p.v_head_dim = p.head_dim;
    const auto seqs = static_cast<std::int64_t>(p.seq_lens.size());
    std::int64_t blocks = 2, longest = 1, tokens = 0, most_new = 1;
    starts_.push_back(0);
    for (std::int64_t s = 0; s < seqs; ++s) {
      const std::int64_t length = p.seq_lens[static_cast<std::size_t>(s)];
      const std::int64_t queries = p.query_lens[static_cast<std::size_t>(s)];
      lens_.push_back(static_cast<std::int32_t>(length));
      blocks += (length + p.block_size - 1) / p.block_size;
      longest = std::max(longest, (length + p.block_size - 1) / p.block_size);
      tokens += queries;
      most_new = std::max(most_new, queries);
      starts_.push_back(static_cast<std::int32_t>(tokens));
    }
    const bool mla = p.rope_dim != 0;
    const std::int64_t heads = p.kv_heads * p.group;
    call.k_cache = cache(k_, p, p.head_dim, blocks);
    call.v_cache = mla ? call.k_cache : cache(v_, p, p.v_head_dim, blocks);
    if (mla) call.k_rope_cache = cache(k_rope_, p, p.rope_dim, blocks);
    std::vector<std::int32_t> ids(static_cast<std::size_t>(blocks));
    for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<std::int32_t>(i);
    std::shuffle(ids.begin(), ids.end(), random_);
    tables_.assign(static_cast<std::size_t>(seqs * longest), -1);
    std::size_t used = 0;
    for (std::int64_t s = 0; s < seqs; ++s) {
      const std::int64_t length = p.seq_lens[static_cast<std::size_t>(s)];
      const std::int64_t context = length - p.query_lens[static_cast<std::size_t>(s)];
      for (std::int64_t j = 0; j < length; ++j) {
        auto& entry = tables_[static_cast<std::size_t>(s * longest + j / p.block_size)];
        // What a window hides from every query needs no block.
        if (p.window != 0 && j <= context - p.window && j >= p.sink_tokens) continue;
        if (entry < 0) entry = ids[used++];
        for (std::int64_t h = 0; h < p.kv_heads; ++h) {
          fill(call.k_cache, entry, h, j % p.block_size);
          if (!mla) fill(call.v_cache, entry, h, j % p.block_size);
          if (mla) fill(call.k_rope_cache, entry, h, j % p.block_size);
        }
      }
    }
    call.q = rows(q_, p.query_dtype, tokens, heads, p.head_dim);
    if (mla) call.q_rope = rows(q_rope_, p.query_dtype, tokens, heads, p.rope_dim);
    out_.assign(static_cast<std::size_t>(tokens * heads * call.v_cache.head_dim) * 8,
                std::byte{0x7f});
    call.out = rows_view(out_.data(), p.query_dtype, tokens, heads, call.v_cache.head_dim);
    lse_.assign(static_cast<std::size_t>(tokens * heads), 12345.0F);
    call.lse = lse_.data();
    call.k_scale = scale(k_scale_, p, blocks, 0.02F);
    call.v_scale = mla ? call.k_scale : scale(v_scale_, p, blocks, 0.03F);
    call.block_tables = tables_.data();
    call.block_table_stride = call.max_blocks = longest;
    call.seq_lens = lens_.data();
    call.query_start_loc = starts_.data();
    call.num_seqs = seqs;
    call.scale = 1 / std::sqrt(static_cast<double>(p.head_dim + p.rope_dim));
    call.causal = p.causal;
    call.window = p.window;
    call.sink_tokens = p.sink_tokens;
    call.softcap = p.softcap;
    call.exact = p.exact;
    for (std::int64_t h = 0; h < heads; ++h) {
      sinks_.push_back(normal_(random_));
      slopes_.push_back(std::ldexp(1.0F, -static_cast<int>(h % 8) - 1));
    }
    if (p.sink_logits) call.sink_logits = sinks_.data();
    if (p.alibi) call.alibi_slopes = slopes_.data();
    if (p.tree) {
      tree_.resize(static_cast<std::size_t>(tokens * most_new));
      for (std::int64_t s = 0, t = 0; s < seqs; ++s) {
        for (std::int64_t i = 0; i < p.query_lens[static_cast<std::size_t>(s)]; ++i, ++t) {
          for (std::int64_t j = 0; j < most_new; ++j) {
            tree_[static_cast<std::size_t>(t * most_new + j)] = i == j || random_() % 3 != 0;
          }
        }
      }
      call.tree_mask = tree_.data();
      call.tree_mask_stride = most_new;
    }
  }

  [[nodiscard]] std::vector<double> out() const {
    const DType dtype = call.out.dtype;
    const auto count =
        static_cast<std::int64_t>(call.out.num_tokens * call.out.num_heads * call.out.head_dim);
    std::vector<double> values;
    for (std::int64_t i = 0; i < count; ++i) values.push_back(element(out_.data(), dtype, i));
    return values;
  }
  [[nodiscard]] const std::vector<std::byte>& out_bytes() const { return out_; }
  [[nodiscard]] const std::vector<float>& lse() const { return lse_; }

  AttentionCall call;

 private:
  CacheView cache(std::vector<std::byte>& memory, const Problem& p, std::int64_t dim,
                  std::int64_t blocks) {
    const auto elements = static_cast<std::size_t>(blocks * p.kv_heads * p.block_size * dim);
    // All ones are NaN in every format that has one.
    memory.assign(elements * dtype_bits(p.dtype) / 8, std::byte{0xff});
    return cache_view(memory.data(), p.dtype, blocks, p.kv_heads, p.block_size, dim, p.layout);
  }

  void put(std::byte* row, DType dtype, std::int64_t i, float x) {
    const auto store = [&](auto value) {
      std::memcpy(row + i * static_cast<std::int64_t>(sizeof value), &value, sizeof value);
    };
    std::uint32_t bits = 0;
    std::memcpy(&bits, &x, 4);
    switch (dtype) {
      case DType::float64: return store(static_cast<double>(x));
      case DType::float32: return store(x);
      case DType::bfloat16: return store(static_cast<std::uint16_t>(bits >> 16));
      case DType::float16: {  // truncated; far from the ends of the range
        const float y = std::fabs(x) < 1e-3F ? 0.5F : x;
        std::memcpy(&bits, &y, 4);
        const std::uint32_t exponent = (bits >> 23 & 0xffU) - 112;
        return store(static_cast<std::uint16_t>((bits >> 16 & 0x8000U) | exponent << 10 |
                                                (bits >> 13 & 0x3ffU)));
      }
      case DType::int4: {
        const auto nibble = static_cast<unsigned>(random_() % 16);
        const unsigned byte = std::to_integer<unsigned>(row[i / 2]);
        row[i / 2] = static_cast<std::byte>(i % 2 == 0 ? (byte & 0xf0U) | nibble
                                                       : (byte & 0x0fU) | nibble << 4);
        return;
      }
      case DType::int8: return store(static_cast<std::int8_t>(random_() % 255 - 127));
      case DType::float8_e4m3:
      case DType::float8_e5m2: {  // any of magnitude below 4
        const unsigned exponents = dtype == DType::float8_e4m3 ? 0x48 : 0x44;
        return store(static_cast<std::uint8_t>(random_() % exponents | (random_() & 1U) << 7));
      }
      case DType::int32: return;
    }
  }

  void fill(const CacheView& view, std::int64_t block, std::int64_t head, std::int64_t offset) {
    std::byte* row = view.row(block, head, offset);
    for (std::int64_t i = 0; i < view.head_dim; ++i) put(row, view.dtype, i, normal_(random_));
  }

  RowsView rows(std::vector<std::byte>& memory, DType dtype, std::int64_t tokens,
                std::int64_t heads, std::int64_t dim) {
    memory.resize(static_cast<std::size_t>(tokens * heads * dim) * dtype_bits(dtype) / 8);
    for (std::int64_t i = 0; i < tokens * heads * dim; ++i) {
      put(memory.data(), dtype, i, normal_(random_));
    }
    return rows_view(memory.data(), dtype, tokens, heads, dim);
  }

  ScaleView scale(std::vector<float>& memory, const Problem& p, std::int64_t blocks, float about) {
    ScaleView view;
    const bool quantised = dtype_bits(p.dtype) <= 8;
    view.value = quantised ? about : 1;
    if (!quantised || p.scales == 0) return view;
    const std::int64_t slots = p.scales == 1 ? 1 : p.block_size;
    memory.resize(static_cast<std::size_t>(blocks * p.kv_heads * slots));
    for (float& x : memory) x = about * (0.5F + static_cast<float>(random_() % 100) / 100);
    view.data = memory.data();
    view.block_stride = p.kv_heads * slots;
    view.head_stride = slots;
    view.slot_stride = p.scales == 1 ? 0 : 1;
    return view;
  }

  std::mt19937 random_;
  std::normal_distribution<float> normal_;
  std::vector<std::byte> k_, v_, k_rope_, q_, q_rope_, out_;
  std::vector<float> k_scale_, v_scale_, lse_, sinks_, slopes_;
  std::vector<std::int32_t> tables_, lens_, starts_;
  std::vector<std::uint8_t> tree_;
};

}  // namespace pagedkv_test
