#pragma once

// Everything of the header library but the kernels themselves: see pagedkv/cpu.hpp.

#include "pagedkv/core/backend.hpp"
#include "pagedkv/core/block_allocator.hpp"
#include "pagedkv/core/block_pool.hpp"
#include "pagedkv/core/block_table.hpp"
#include "pagedkv/core/dtype.hpp"
#include "pagedkv/core/errors.hpp"
#include "pagedkv/core/kv_cache.hpp"
#include "pagedkv/core/kv_cache_pool.hpp"
#include "pagedkv/core/manager/kv_cache_manager.hpp"
#include "pagedkv/core/paged_kv_cache.hpp"
#include "pagedkv/core/paged_seq_state.hpp"
#include "pagedkv/core/sequence_pool.hpp"
#include "pagedkv/core/ssm_snapshot.hpp"
#include "pagedkv/core/ssm_state_pool.hpp"
#include "pagedkv/core/ssm_state_spec.hpp"
#include "pagedkv/cpu.hpp"
#include "pagedkv/cpu/backend.hpp"
#include "pagedkv/version.hpp"
