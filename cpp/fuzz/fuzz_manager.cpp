// KVCacheManager against texts and the memory that it manages.

#include "manager_operations.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  pagedkv_fuzz::run_manager_operations({data, size});
  return 0;
}
