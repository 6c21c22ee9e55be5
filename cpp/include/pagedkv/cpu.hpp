#pragma once

// The operations on the CPU: they read and write paged keys and values, on an executor (a
// `ThreadPool`, or one of the caller's) and with kernels, which are one of two:
//   - `kernels()`, of the library `pagedkv::kernels`: the best that the processor has at run time;
//   - `native_kernels()` of cpu/kernels/native.hpp, for the flags that the includer is compiled
//     with. It is not included here: its templates take twenty seconds to compile, all else a half.

#include "pagedkv/cpu/attention.hpp"
#include "pagedkv/cpu/copy_blocks.hpp"
#include "pagedkv/cpu/dispatch.hpp"
#include "pagedkv/cpu/gather_kv.hpp"
#include "pagedkv/cpu/isa.hpp"
#include "pagedkv/cpu/kernels.hpp"
#include "pagedkv/cpu/merge_attention_states.hpp"
#include "pagedkv/cpu/mla_write.hpp"
#include "pagedkv/cpu/rope_write_kv.hpp"
#include "pagedkv/cpu/thread_pool.hpp"
#include "pagedkv/cpu/write_kv.hpp"
#include "pagedkv/ops/attention_call.hpp"
#include "pagedkv/ops/check_attention.hpp"
#include "pagedkv/ops/views.hpp"
