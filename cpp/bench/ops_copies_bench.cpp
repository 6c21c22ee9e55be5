// The operations that move keys and values, against memcpy of the same bytes in the same run: 8
// heads of 128, blocks of 16 tokens in random order. `floor/ours` is the share of memcpy's speed.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "in_turns.hpp"
#include "pagedkv/cpu/copy_blocks.hpp"
#include "pagedkv/cpu/dispatch.hpp"
#include "pagedkv/cpu/gather_kv.hpp"
#include "pagedkv/cpu/write_kv.hpp"
#include "pagedkv/detail/storage.hpp"

namespace pagedkv_bench {
namespace {

using namespace pagedkv;
using namespace pagedkv::cpu;

constexpr std::int64_t kHeads = 8, kHeadDim = 128, kBlockSize = 16;

/// Dense rows, two caches with room for them, and a place of the same size for memcpy.
struct Fixture {
  Fixture(DType rows_dtype, DType cache_dtype, Layout layout, std::int64_t n)
      : num_tokens(n), blocks(static_cast<std::size_t>(n / kBlockSize)), slots(blocks.size() * 16) {
    std::iota(blocks.begin(), blocks.end(), 0);
    std::ranges::shuffle(blocks, std::mt19937{1});
    for (std::size_t i = 0; i < slots.size(); ++i) {
      slots[i] = blocks[i / 16] * kBlockSize + static_cast<std::int64_t>(i % 16);
    }
    const auto elements = static_cast<std::size_t>(n * kHeads * kHeadDim);
    for (int i = 0; i < 2; ++i) {
      row_bytes[i] = detail::Storage(elements * dtype_bits(rows_dtype) / 8);
      cache_bytes[i] = detail::Storage(elements * dtype_bits(cache_dtype) / 8);
      fill(row_bytes[i], rows_dtype);
      rows[i] = rows_view(row_bytes[i].data(), rows_dtype, n, kHeads, kHeadDim);
      caches[i] = cache_view(cache_bytes[i].data(), cache_dtype, n / kBlockSize, kHeads, kBlockSize,
                             kHeadDim, layout);
    }
  }

  static void fill(detail::Storage& storage, DType dtype) {
    std::mt19937 random{2};
    if (dtype == DType::float32) {
      std::normal_distribution<float> normal;
      for (float& x : detail::span_cast<float>(std::span(storage.data(), storage.size())))
        x = normal(random);
    } else {  // bits of bfloat16 of magnitudes near 1
      for (auto& x : detail::span_cast<std::uint16_t>(std::span(storage.data(), storage.size()))) {
        x = static_cast<std::uint16_t>(0x3f00 + random() % 256 + (random() % 2 << 15));
      }
    }
  }
  [[nodiscard]] WriteKvCall write() const {
    return {rows[0], rows[1], caches[0], caches[1], {}, {}, slots.data()};
  }
  [[nodiscard]] GatherKvCall gather() {
    length = static_cast<std::int32_t>(num_tokens);
    GatherKvCall call;
    call.k_cache = caches[0];
    call.v_cache = caches[1];
    call.block_tables = blocks.data();
    call.max_blocks = call.block_table_stride = static_cast<std::int64_t>(blocks.size());
    call.seq_lens = &length;
    call.num_seqs = 1;
    call.k = rows[0];
    call.v = rows[1];
    return call;
  }

  std::int64_t num_tokens;
  std::vector<std::int32_t> blocks;
  std::vector<std::int64_t> slots;
  std::int32_t length = 0;
  detail::Storage row_bytes[2], cache_bytes[2];
  RowsView rows[2];
  CacheView caches[2];
};

void copy_all(detail::Storage& to, const detail::Storage& from) {
  std::memcpy(to.data(), from.data(), std::min(to.size(), from.size()));
  benchmark::ClobberMemory();
}

/// All slots of the cache hold what was written to them.
void require_rows(const Fixture& f) {
  for (int i = 0; i < 2; ++i) {
    for (std::int64_t token = 0; token < f.num_tokens; ++token) {
      const std::int64_t slot = f.slots[static_cast<std::size_t>(token)];
      for (std::int64_t head = 0; head < kHeads; ++head) {
        require(std::memcmp(f.rows[i].row(token, head),
                            f.caches[i].row(slot / kBlockSize, head, slot % kBlockSize),
                            f.rows[i].row_bytes()) == 0,
                "a cache does not hold what was written");
      }
    }
  }
}

template <DType dtype, Layout layout, std::int64_t n>
void write(benchmark::State& state) {
  Fixture f(dtype, dtype, layout, n);
  SerialExecutor executor;
  write_kv(f.write(), executor, kernels());
  require_rows(f);
  in_turns(
      state, 1,
      [&] {
        copy_all(f.cache_bytes[0], f.row_bytes[0]);
        copy_all(f.cache_bytes[1], f.row_bytes[1]);
      },
      [&] { write_kv(f.write(), executor, kernels()); });
}

/// Against memcpy of the bytes that are read.
template <DType to, bool per_token>
void write_quantized(benchmark::State& state) {
  constexpr std::int64_t n = 4096;
  Fixture f(DType::float32, to, Layout::hnd, n);
  std::vector<float> scales(static_cast<std::size_t>(n * kHeads), 0.05F);
  WriteKvCall call = f.write();
  call.k_scale = call.v_scale = {nullptr, 0.05F, 0, 0, 0};
  if (per_token) call.k_scale = {scales.data(), 1, kHeads * kBlockSize, kBlockSize, 1};
  std::vector<float> more(scales);
  if (per_token) call.v_scale = {more.data(), 1, kHeads * kBlockSize, kBlockSize, 1};
  detail::Storage target(f.row_bytes[0].size());
  SerialExecutor executor;
  in_turns(
      state, 1,
      [&] {
        copy_all(target, f.row_bytes[0]);
        copy_all(target, f.row_bytes[1]);
      },
      [&] { write_kv(call, executor, kernels()); });
}

template <DType dtype, Layout layout, std::int64_t n>
void gather(benchmark::State& state) {
  Fixture f(dtype, dtype, layout, n);
  SerialExecutor executor;
  write_kv(f.write(), executor, kernels());
  const detail::Storage before = f.row_bytes[0].clone();
  std::memset(f.row_bytes[0].data(), 0, before.size());
  gather_kv(f.gather(), executor, kernels());
  require(std::memcmp(before.data(), f.row_bytes[0].data(), before.size()) == 0,
          "gather_kv gave other rows");
  in_turns(
      state, 1,
      [&] {
        copy_all(f.row_bytes[0], f.cache_bytes[0]);
        copy_all(f.row_bytes[1], f.cache_bytes[1]);
      },
      [&] { gather_kv(f.gather(), executor, kernels()); });
}

/// The first half of the tokens' blocks to the second half's.
template <DType dtype, Layout layout, std::int64_t n>
void copy(benchmark::State& state) {
  Fixture f(dtype, dtype, layout, n);
  std::vector<IndexPair> pairs(f.blocks.size() / 2);
  for (std::size_t i = 0; i < pairs.size(); ++i) {
    pairs[i] = {f.blocks[i], f.blocks[i + pairs.size()]};
  }
  SerialExecutor executor;
  copy_blocks(f.caches, pairs, executor);
  for (const IndexPair& pair : pairs) {
    const auto bytes = static_cast<std::size_t>(f.caches[0].block_stride);
    require(
        std::memcmp(f.caches[1].row(pair.from, 0, 0), f.caches[1].row(pair.to, 0, 0), bytes) == 0,
        "copy_blocks gave other blocks");
  }
  const std::size_t half = f.cache_bytes[0].size() / 2;
  in_turns(
      state, 1,
      [&] {
        for (auto& bytes : f.cache_bytes) std::memcpy(bytes.data() + half, bytes.data(), half);
        benchmark::ClobberMemory();
      },
      [&] { copy_blocks(f.caches, pairs, executor); });
}

[[maybe_unused]] const bool registered = [] {
  constexpr DType bf16 = DType::bfloat16, f32 = DType::float32;
  constexpr Layout hnd = Layout::hnd, nhd = Layout::nhd;
  turns("write_kv/bfloat16 HND, 4,096 tokens", write<bf16, hnd, 4096>);
  turns("write_kv/bfloat16 NHD, 4,096 tokens", write<bf16, nhd, 4096>);
  turns("write_kv/float32 HND, 4,096 tokens", write<f32, hnd, 4096>);
  turns("write_kv/float32 NHD, 4,096 tokens", write<f32, nhd, 4096>);
  turns("write_kv/bfloat16 HND, 16,384 tokens", write<bf16, hnd, 16384>);
  turns("write_kv/float32 to int8, one scale", write_quantized<DType::int8, false>);
  turns("write_kv/float32 to int8, one a token", write_quantized<DType::int8, true>);
  turns("write_kv/float32 to float8_e4m3", write_quantized<DType::float8_e4m3, false>);
  turns("write_kv/float32 to int4, one a token", write_quantized<DType::int4, true>);
  turns("write_kv/float32 to bfloat16", [](benchmark::State& state) {
    Fixture f(f32, bf16, hnd, 4096);
    SerialExecutor executor;
    detail::Storage target(f.row_bytes[0].size());
    in_turns(
        state, 1,
        [&] {
          copy_all(target, f.row_bytes[0]);
          copy_all(target, f.row_bytes[1]);
        },
        [&] { write_kv(f.write(), executor, kernels()); });
  });
  turns("gather_kv/bfloat16 HND, 4,096 tokens", gather<bf16, hnd, 4096>);
  turns("gather_kv/bfloat16 NHD, 4,096 tokens", gather<bf16, nhd, 4096>);
  turns("gather_kv/float32 HND, 4,096 tokens", gather<f32, hnd, 4096>);
  turns("gather_kv/float32 NHD, 4,096 tokens", gather<f32, nhd, 4096>);
  turns("gather_kv/bfloat16 HND, 16,384 tokens", gather<bf16, hnd, 16384>);
  turns("copy_blocks/bfloat16 HND, 8,192 tokens", copy<bf16, hnd, 8192>);
  turns("copy_blocks/float32 NHD, 8,192 tokens", copy<f32, nhd, 8192>);
  return true;
}();

}  // namespace
}  // namespace pagedkv_bench
