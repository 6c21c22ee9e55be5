// Two sequences keep their keys and values in one pool of blocks: both grow a token at a time, and
// the blocks of the one that ends serve the next.

#include <cstdio>
#include <memory>
#include <vector>

#include "pagedkv/pagedkv.hpp"

using Cache = pagedkv::KvCache<pagedkv::CpuBackend>;

constexpr std::size_t kHeads = 2, kHeadDim = 4, kBlockSize = 16;

void append(Cache& cache, std::size_t tokens, float value) {
  const std::vector<float> k(tokens * kHeads * kHeadDim, value);
  const std::vector<float> v(tokens * kHeads * kHeadDim, -value);
  cache.append<float>(k, v);
}

void show(const char* name, const Cache& cache) {
  std::printf("%s: %zu tokens in blocks", name, cache.len());
  for (const auto id : cache.paged_block_indices()) std::printf(" %u", id);
  std::printf("\n");
}

int main() {
  auto blocks = std::make_shared<pagedkv::BlockAllocator>(8);
  Cache first = Cache::paged(8, kHeads, kHeadDim, kBlockSize, /*max_blocks_per_seq=*/4, blocks);
  Cache second = first.share();

  append(first, 20, 1.0F);  // the prompts
  append(second, 16, 2.0F);
  for (int step = 0; step < 3; ++step) {  // one token a step
    append(first, 1, 1.0F);
    append(second, 1, 2.0F);
  }
  show("first", first);
  show("second", second);

  first.release();
  Cache third = second.share();
  append(third, 40, 3.0F);
  show("third", third);
  std::printf("%zu of %zu blocks free\n", blocks->free_count(), blocks->capacity());
}
