// A scheduler loop on KVCacheManager: continuous batching, chunked prefill, prefix reuse, the
// newest preempted first. The model is a stand-in: it keeps one number a token and reads it by the
// tables.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <deque>
#include <span>
#include <vector>

#include "pagedkv/core/manager/kv_cache_manager.hpp"

using pagedkv::SeqId;
using Text = std::vector<pagedkv::TokenId>;
using Counts = std::vector<std::int32_t>;

constexpr std::size_t kNumBlocks = 20, kBlockSize = 4, kMaxRunning = 4, kNumOutput = 12;
constexpr std::size_t kChunk = 8;

pagedkv::TokenId next_token(std::span<const pagedkv::TokenId> context) {
  std::int64_t sum = 0;
  for (std::size_t i = 0; i < context.size(); ++i) {
    sum += static_cast<std::int64_t>(i + 1) * context[i];
  }
  return static_cast<pagedkv::TokenId>(sum % 97);
}

/// One step of the model: a next token for each sequence of the batch.
Text forward(const pagedkv::Batch& batch, Text& cache, const std::vector<SeqId>& running,
             const std::vector<Text>& texts) {
  const auto& group = batch[0];
  for (const auto [source, copy] : group.copies) {
    std::copy_n(cache.begin() + source * std::ptrdiff_t{kBlockSize}, kBlockSize,
                cache.begin() + copy * std::ptrdiff_t{kBlockSize});
  }
  Text sampled;
  for (std::size_t row = 0; row < running.size(); ++row) {
    const auto begin = static_cast<std::size_t>(batch.query_start_loc[row]);
    const auto end = static_cast<std::size_t>(batch.query_start_loc[row + 1]);
    for (std::size_t i = begin; i < end; ++i) {
      const auto position = static_cast<std::size_t>(batch.positions[i]);
      cache[static_cast<std::size_t>(group.slot_mapping[i])] = texts[running[row]][position];
    }
    const auto table = group.block_tables.subspan(row * batch.max_blocks_per_seq());
    Text context(static_cast<std::size_t>(batch.seq_lens[row]));
    for (std::size_t p = 0; p < context.size(); ++p) {
      const auto block = static_cast<std::size_t>(table[p / kBlockSize]);
      context[p] = cache[block * kBlockSize + p % kBlockSize];
    }
    sampled.push_back(next_token(context));
  }
  return sampled;
}

int main() {
  pagedkv::KVCacheManager manager({.num_blocks = kNumBlocks, .block_size = kBlockSize});
  Text cache(kNumBlocks * kBlockSize);
  std::vector<Text> texts;
  std::vector<std::size_t> last;
  std::deque<SeqId> waiting;
  std::vector<SeqId> running;
  for (SeqId s = 0; s < 6; ++s) {
    Text prompt;
    for (pagedkv::TokenId token = 1; token < 19; ++token) prompt.push_back(token);
    prompt.insert(prompt.end(), 6 + s, static_cast<pagedkv::TokenId>(50 + s));
    manager.add(s, prompt);
    waiting.push_back(s);
    last.push_back(prompt.size() + kNumOutput);
    texts.push_back(prompt);
  }
  const std::vector<Text> prompts = texts;
  const auto decodes = [&](SeqId s) {  // its prompt is computed, and the next token is not its last
    return manager.num_scheduled(s) == texts[s].size() && texts[s].size() < last[s] - 1;
  };

  while (!waiting.empty() || !running.empty()) {
    while (!waiting.empty() && running.size() < kMaxRunning) {  // admit
      const SeqId s = waiting.front();
      if (manager.num_free_blocks() * kBlockSize <= texts[s].size()) break;
      waiting.pop_front();
      running.push_back(s);
      std::int32_t cached = 0;
      manager.acquire({&s, 1}, {&cached, 1});
      std::printf("request %d: %d of %zu tokens cached\n", static_cast<int>(s), cached,
                  texts[s].size());
    }
    Counts counts;
    for (const SeqId s : running) {
      const std::size_t left = texts[s].size() - manager.num_scheduled(s);
      counts.push_back(static_cast<std::int32_t>(std::min(kChunk, left)));
    }
    while (manager.fit(running, counts) < running.size()) {  // preempt
      manager.preempt({&running.back(), 1});
      waiting.push_front(running.back());
      running.pop_back();
      counts.pop_back();
    }
    Text sampled = forward(manager.schedule(running, counts), cache, running, texts);
    try {
      while (!running.empty() && std::ranges::all_of(running, decodes)) {
        const auto& batch = manager.step(running, sampled);  // commit, append, schedule
        for (std::size_t i = 0; i < running.size(); ++i) texts[running[i]].push_back(sampled[i]);
        counts.assign(running.size(), 1);
        sampled = forward(batch, cache, running, texts);
      }
    } catch (const pagedkv::PoolExhaustedError&) {  // of step: nothing has changed then
    }
    manager.commit(running, counts);
    for (std::size_t i = 0; i < running.size(); ++i) {
      const SeqId s = running[i];
      if (manager.num_committed(s) != texts[s].size()) continue;  // within its prompt
      texts[s].push_back(sampled[i]);
      manager.append({&s, 1}, {&sampled[i], 1});
    }
    for (const SeqId s : running) {
      if (texts[s].size() == last[s]) manager.free({&s, 1});
    }
    std::erase_if(running, [&](SeqId s) { return texts[s].size() == last[s]; });
  }

  for (SeqId s = 0; s < texts.size(); ++s) {
    for (std::size_t n = prompts[s].size(); n < texts[s].size(); ++n) {
      if (texts[s][n] == next_token(std::span(texts[s]).first(n))) continue;
      std::printf("request %d: token %zu is wrong\n", static_cast<int>(s), n);
      return 1;
    }
  }
  const auto stats = manager.stats();
  const auto number = [](std::uint64_t n) { return static_cast<unsigned long long>(n); };
  std::printf("%llu of %llu tokens were cached\n", number(stats.reuse.hit_tokens),
              number(stats.reuse.queried_tokens));
  std::printf("%llu preemptions, %llu block copies\n", number(stats.preemptions),
              number(stats.block_copies));
}
