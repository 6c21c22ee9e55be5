#include "bindings.hpp"

PYBIND11_MODULE(_core, m) {
  using namespace pagedkv::python;
  m.doc() = "The compiled core of pagedkv; import pagedkv instead.";
  register_errors(m);
  register_info(m);
  register_block_allocator(m);
  register_block_pool(m);
  register_block_table(m);
  register_paged_seq_state(m);
  register_kv_cache(m);
  register_paged_kv_cache(m);
  register_kv_cache_pool(m);
  register_ssm_snapshot(m);
  register_ssm_state_pool(m);
  register_batch(m);
  register_manager_types(m);
  register_kv_cache_manager(m);
  register_ops(m);
  register_ops_attention(m);
  register_ops_data(m);
}
