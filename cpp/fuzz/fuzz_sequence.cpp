// Sequence states and caches over one allocator and one pool, on a failing device.

#include "sequence_operations.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  pagedkv_fuzz::run_sequence_operations({data, size});
  return 0;
}
