#include "pagedkv/pagedkv.hpp"

std::size_t blocks_taken(pagedkv::BlockAllocator& allocator, std::size_t tokens) {
  auto context = pagedkv::CpuBackend::context({});
  pagedkv::PagedSeqState<pagedkv::CpuBackend> state(16, 8);
  state.ensure_capacity(context, allocator, tokens);
  const std::size_t taken = state.blocks().size();
  state.release(allocator);
  return taken;
}
