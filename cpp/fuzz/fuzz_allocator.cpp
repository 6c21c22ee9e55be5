// BlockAllocator against a plain model.

#include "allocator_operations.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  pagedkv_fuzz::run_allocator_operations({data, size});
  return 0;
}
