// Decode steps: what the manager schedules goes to the operations as it is. The model is a
// stand-in, one layer of attention whose queries, keys and values are cosines of a token's id.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "pagedkv/core/manager/kv_cache_manager.hpp"
#include "pagedkv/cpu.hpp"

namespace cpu = pagedkv::cpu;

constexpr std::int64_t kNumBlocks = 32, kBlockSize = 4, kKvHeads = 2, kHeads = 8, kHeadDim = 64;

/// `[num_tokens, num_heads, head_dim]`
std::vector<float> project(const std::vector<pagedkv::TokenId>& tokens, std::int64_t num_heads,
                           double weight) {
  std::vector<float> rows;
  for (const pagedkv::TokenId token : tokens) {
    for (std::int64_t i = 0; i < num_heads * kHeadDim; ++i) {
      rows.push_back(
          static_cast<float>(std::cos(weight * (token + 1) * static_cast<double>(i + 1))));
    }
  }
  return rows;
}

/// One layer's keys and values, and the threads that work on them.
struct Layer {
  std::vector<float> k = std::vector<float>(kNumBlocks * kKvHeads * kBlockSize * kHeadDim);
  std::vector<float> v = k;
  cpu::ThreadPool pool{2};

  /// The new tokens' keys and values are written; their queries see what their sequences hold.
  std::vector<float> forward(const pagedkv::Batch& batch,
                             const std::vector<pagedkv::TokenId>& tokens) {
    const auto num_tokens = static_cast<std::int64_t>(tokens.size());
    const auto cache = [](std::vector<float>& pages) {
      return pagedkv::cache_view(pages.data(), pagedkv::DType::float32, kNumBlocks, kKvHeads,
                                 kBlockSize, kHeadDim);
    };
    const auto rows = [&](std::vector<float>& data, std::int64_t num_heads) {
      return pagedkv::rows_view(data.data(), pagedkv::DType::float32, num_tokens, num_heads,
                                kHeadDim);
    };
    auto q = project(tokens, kHeads, 0.013), new_k = project(tokens, kKvHeads, 0.007),
         new_v = project(tokens, kKvHeads, 0.1);
    pagedkv::WriteKvCall write;
    write.k = rows(new_k, kKvHeads);
    write.v = rows(new_v, kKvHeads);
    write.k_cache = cache(k);
    write.v_cache = cache(v);
    write.slot_mapping = batch[0].slot_mapping.data();
    cpu::write_kv(write, pool, cpu::kernels());

    std::vector<float> out(q.size());
    pagedkv::AttentionCall call;
    call.q = rows(q, kHeads);
    call.out = rows(out, kHeads);
    call.k_cache = write.k_cache;
    call.v_cache = write.v_cache;
    call.block_tables = batch[0].block_tables.data();
    call.block_table_stride = call.max_blocks =
        static_cast<std::int64_t>(batch.max_blocks_per_seq());
    call.seq_lens = batch.seq_lens.data();
    call.query_start_loc = batch.query_start_loc.data();
    call.num_seqs = static_cast<std::int64_t>(batch.num_seqs);
    call.scale = 1 / std::sqrt(static_cast<double>(kHeadDim));
    cpu::paged_attention(call, pool, cpu::kernels());
    return out;
  }
};

/// The channel of the first head that is largest, for the last token of each sequence.
std::vector<pagedkv::TokenId> sample(const pagedkv::Batch& batch, const std::vector<float>& out) {
  std::vector<pagedkv::TokenId> sampled;
  for (std::size_t row = 0; row < batch.num_seqs; ++row) {
    const auto last = static_cast<std::ptrdiff_t>(batch.query_start_loc[row + 1]) - 1;
    const auto first = out.begin() + last * kHeads * kHeadDim;
    const auto largest = std::max_element(first, first + kHeadDim);
    sampled.push_back(static_cast<pagedkv::TokenId>(largest - first));
  }
  return sampled;
}

int main() {
  pagedkv::KVCacheManager manager({.num_blocks = kNumBlocks, .block_size = kBlockSize});
  const std::vector<pagedkv::SeqId> ids{0, 1};
  const std::vector<std::vector<pagedkv::TokenId>> prompts{{1, 2, 3, 4, 5, 6, 7, 8, 9}, {40, 41}};
  std::vector<pagedkv::TokenId> tokens;
  std::vector<std::int32_t> counts;
  for (const pagedkv::SeqId id : ids) {
    manager.add(id, prompts[id]);
    tokens.insert(tokens.end(), prompts[id].begin(), prompts[id].end());
    counts.push_back(static_cast<std::int32_t>(prompts[id].size()));
  }
  std::vector<std::int32_t> cached(ids.size());
  manager.acquire(ids, cached);
  Layer layer;
  const pagedkv::Batch* batch = &manager.schedule(ids, counts);
  for (int step = 0; step < 6; ++step) {
    tokens = sample(*batch, layer.forward(*batch, tokens));
    std::printf("step %d: lengths %d %d, next %d %d\n", step, batch->seq_lens[0],
                batch->seq_lens[1], tokens[0], tokens[1]);
    batch = &manager.step(ids, tokens);  // commit, append, schedule
  }
}
