#pragma once

// The attention kernel: decode, drafts and chunked prefill, of any dtype, by its `Tiling`.
//
// A block goes through its share of the work. For each item it loads a tile of query rows; then
// each of its teams runs a pipeline: tokens are looked up in the block table one tile ahead of the
// copies, copies run `kStages - 1` tiles ahead of the arithmetic, and arithmetic keeps a running
// softmax.

#include <cstddef>
#include <cstdint>

#include "cuda/kernels/attention/finish.cuh"

namespace pagedkv::cuda::attention {

/// Waits for the team: the warp, or the block.
template <class T>
__device__ __forceinline__ void wait_for_team() {
  if constexpr (T::kTeams > 1) {
    __syncwarp();
  } else {
    __syncthreads();
  }
}

/// Adds the team's tokens of the item to `results`.
template <class T>
__device__ __forceinline__ void run_pipeline(const Params& p, const Item& item, Source* sources,
                                             std::byte* stages, Results<T>& results) {
  const int team = results.place.team;
  const int thread = static_cast<int>(threadIdx.x) % T::kTeamThreads;
  Loader<T> loader(p, item, sources + team * T::kTokens, thread);
  const auto stage = [&](int tile) {
    return Stage<T>(stages + (team * T::kStages + tile % T::kStages) * T::kStage);
  };
  const auto first_of = [&](int tile) {
    return item.first + (tile * T::kTeams + team) * T::kTokens;
  };
  const int left = item.last - first_of(0);
  const int count = left <= 0 ? 0 : (left - 1) / T::kRoundTokens + 1;
  // Turn after turn: copy the tile that was published, look the next one up, wait for the oldest of
  // the copies, compute, publish. The first turns only fill the pipeline; an empty group of copies
  // stands for a tile that is not there, so that the newest groups are those of the newest tiles.
  loader.look_up_next(first_of(0));
  loader.publish();
  wait_for_team<T>();
#pragma unroll 1
  for (int tile = 1 - T::kStages; tile < count; ++tile) {
    const int ahead = tile + T::kStages - 1;
    if (ahead < count) loader.copy(stage(ahead));
    cp_async_commit();
    loader.look_up_next(first_of(ahead + 1));
    cp_async_wait<T::kStages - 1>();
    wait_for_team<T>();
    if (tile >= 0 && results.has_rows()) {
      const Stage<T> here = stage(tile);
#pragma unroll 1
      for (int step = 0; step < T::kTokens; step += kStepTokens) {
        if (first_of(tile) + step < item.last) results.add(here, step, first_of(tile) + step);
      }
    }
    loader.publish();
    wait_for_team<T>();
  }
  cp_async_wait<0>();
}

/// Blocks that a multiprocessor's shared memory holds, if each thread may have the registers that
/// it needs: those of its sums, and about 120.
template <class T>
constexpr int blocks_at_a_time() {
  const int by_memory = 227 * 1024 / (SharedLayout<T>::kBytes + 1024);
  const int by_registers = 65536 / ((T::kWarpDims / 2 + 120) * T::kThreads);
  return by_memory < by_registers ? by_memory : by_registers;
}

template <class T>
__global__ void __launch_bounds__(T::kThreads, blocks_at_a_time<T>())
    attend_kernel(const __grid_constant__ Params p) {
  using Layout = SharedLayout<T>;
  std::byte* const shared = dynamic_shared<std::byte>();
  std::byte* const queries = shared + Layout::kQueries;
  std::byte* const stages = shared + Layout::kStages;
  auto* const rows = reinterpret_cast<Row*>(shared + Layout::kRowsAt);
  auto* const sources = reinterpret_cast<Source*>(shared + Layout::kSources);
  auto* const scratch = reinterpret_cast<std::int64_t*>(shared + Layout::kScratch);
  // What is the same for all threads is not kept in the registers of each.
  static_assert(sizeof(Item) <= 96);
  Item& item = *reinterpret_cast<Item*>(shared + Layout::kItem);
  const auto work = [&](const Item& next) {
    if (threadIdx.x == 0) item = next;
    __syncthreads();
    load_queries<T>(p, item, queries, rows);
    __syncthreads();
    Results<T> results(p, item, queries, rows);
    if constexpr (T::kKeepsQueries) __syncthreads();  // their memory is the tiles'
    run_pipeline<T>(p, item, sources, stages, results);
    results.complete();
    const Writer<T> writer(p, item, rows);
    if constexpr (T::kTeams > 1) {
      __syncthreads();  // the stages are free
      exchange_results<T>(p, item, results, writer, reinterpret_cast<float*>(stages));
    } else {
      write_results<T>(p, item, results, writer);
    }
    writer.merge_if_last(reinterpret_cast<int*>(scratch));
    __syncthreads();  // all of shared memory is free
  };
  for_each_item<T>(p, reinterpret_cast<std::int64_t*>(shared + Layout::kSums), scratch, work);
}

}  // namespace pagedkv::cuda::attention
