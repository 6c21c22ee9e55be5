#include <array>
#include <cstdio>

#include "pagedkv/pagedkv.hpp"

// Defined in other.cpp: headers that are included twice must link once.
std::size_t blocks_taken(pagedkv::BlockAllocator& allocator, std::size_t tokens);

int main() {
  pagedkv::BlockAllocator allocator(8);
  if (blocks_taken(allocator, 40) != 3 || allocator.in_use() != 0) return 1;

  try {
    std::array<pagedkv::BlockId, 9> ids;
    allocator.allocate_n(ids);
    return 1;
  } catch (const pagedkv::PoolExhaustedError& error) {
    if (error.needed() != 9 || error.free() != 8) return 1;
  }
  std::printf("pagedkv %s\n", pagedkv::version);
}
