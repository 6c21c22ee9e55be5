// SsmSnapshot::from_bytes on arbitrary bytes.

#include "snapshot_operations.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  pagedkv_fuzz::run_snapshot_operations({data, size});
  return 0;
}
