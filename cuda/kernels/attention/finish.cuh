#pragma once

// From the running results of warps to the result: teams, then parts, are put together in their
// order.

#include <cstdint>

#include "cuda/kernels/attention/compute.cuh"

namespace pagedkv::cuda::attention {

/// What the weights of a row are relative to, in units of log2, and their sum.
struct Total {
  float maximum;
  float weight;
};

/// Four elements of a result. Not inline: a kernel has many of these, at its end.
__device__ __noinline__ inline void store(std::byte* row, int dim, DType dtype, bool aligned,
                                          float4 x) {
  if (dtype == DType::float32) {
    auto* const at = reinterpret_cast<float*>(row) + dim;
    if (aligned) {
      *reinterpret_cast<float4*>(at) = x;
    } else {
      at[0] = x.x, at[1] = x.y, at[2] = x.z, at[3] = x.w;
    }
    return;
  }
  const uint2 pairs =
      dtype == DType::float16
          ? make_uint2(pack<__half>(x.x, x.y), pack<__half>(x.z, x.w))
          : make_uint2(pack<__nv_bfloat16>(x.x, x.y), pack<__nv_bfloat16>(x.z, x.w));
  auto* const at = reinterpret_cast<unsigned short*>(row) + dim;
  if (aligned) {
    *reinterpret_cast<uint2*>(at) = pairs;
  } else {
    at[0] = static_cast<unsigned short>(pairs.x),
    at[1] = static_cast<unsigned short>(pairs.x >> 16);
    at[2] = static_cast<unsigned short>(pairs.y),
    at[3] = static_cast<unsigned short>(pairs.y >> 16);
  }
}

/// Where the sums of values of one row go, and what they are multiplied by.
struct Target {
  float factor;
  float* part;        ///< of a unit of several parts
  std::byte* result;  ///< of the only one

  __device__ __forceinline__ void write(const Params& p, int dim, float4 x) const {
    x = make_float4(x.x * factor, x.y * factor, x.z * factor, x.w * factor);
    if (part != nullptr) {
      *reinterpret_cast<float4*>(part + dim) = x;
    } else {
      store(result, dim, p.q_dtype, p.aligned_rows, x);
    }
  }
};

/// Writes what comes of an item: results, or the sums of a part of a unit.
template <class T>
class Writer {
 public:
  __device__ __forceinline__ Writer(const Params& p, const Item& item, const Row* rows)
      : p_(p), item_(item), rows_(rows) {}

  /// Begins row `r`, whose sums are in units of `unit`.
  /// @param first  whether the caller is the one of those with the row that writes its total.
  [[nodiscard]] __device__ __forceinline__ Target begin_row(int r, const Total& total, float unit,
                                                            bool first) const {
    if (item_.num_parts == 1) return begin_result(r, total, unit, first);
    float* const slot = slot_of(item_.part);
    if (first) {
      *reinterpret_cast<float2*>(totals_of(slot) + 2 * r) =
          make_float2(total.maximum, total.weight);
    }
    return {unit, slot + r * p_.v_head_dim, nullptr};
  }

  /// Merges the parts of the unit, if all of them have been written: a warp a row.
  /// @param flag  in shared memory.
  __device__ __forceinline__ void merge_if_last(int* flag) const {
    if (item_.num_parts == 1) return;
    __threadfence();
    __syncthreads();
    if (threadIdx.x == 0) {
      unsigned& arrivals = p_.arrivals[item_.first_slot];
      const auto parts = static_cast<unsigned>(item_.num_parts);
      *flag = atomicAdd(&arrivals, 1U) == parts - 1;
      if (*flag != 0) arrivals = 0;
    }
    __syncthreads();
    if (*flag == 0) return;
    __threadfence();
    for (int r = static_cast<int>(threadIdx.x) / kWarp; r < item_.num_rows;
         r += T::kThreads / kWarp) {
      merge_row(r);
    }
  }

 private:
  [[nodiscard]] __device__ __forceinline__ float* slot_of(int part) const {
    return p_.partials + (item_.first_slot + part) * p_.slot_floats;
  }
  [[nodiscard]] __device__ __forceinline__ float* totals_of(float* slot) const {
    return slot + T::kRows * p_.v_head_dim;
  }

  __device__ inline void merge_row(int r) const {
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    const auto total_of = [&](int part) {
      const float2 x = __ldcg(reinterpret_cast<const float2*>(totals_of(slot_of(part)) + 2 * r));
      return Total{x.x, x.y};
    };
    Total total{kNothing, 0};
    for (int part = lane; part < item_.num_parts; part += kWarp) {
      total.maximum = max(total.maximum, total_of(part).maximum);
    }
#pragma unroll
    for (int other = 16; other != 0; other /= 2) {
      total.maximum = max(total.maximum, __shfl_xor_sync(kAllLanes, total.maximum, other));
    }
    for (int part = lane; part < item_.num_parts; part += kWarp) {
      const Total of_part = total_of(part);
      total.weight += weight_of(of_part.maximum, total.maximum) * of_part.weight;
    }
#pragma unroll
    for (int other = 16; other != 0; other /= 2) {
      total.weight += __shfl_xor_sync(kAllLanes, total.weight, other);
    }
    const Target target = begin_result(r, total, 1, lane == 0);
    for (int dim = 4 * lane; dim < p_.v_head_dim; dim += 4 * kWarp) {
      float4 sums = make_float4(0, 0, 0, 0);
#pragma unroll 4
      for (int part = 0; part < item_.num_parts; ++part) {
        const float* const at = slot_of(part) + r * p_.v_head_dim + dim;
        const float4 x = __ldcg(reinterpret_cast<const float4*>(at));
        const float w = weight_of(total_of(part).maximum, total.maximum);
        sums = make_float4(sums.x + w * x.x, sums.y + w * x.y, sums.z + w * x.z, sums.w + w * x.w);
      }
      target.write(p_, dim, sums);
    }
  }

  [[nodiscard]] __device__ __forceinline__ Target begin_result(int r, const Total& total,
                                                               float unit, bool first) const {
    const Row& row = rows_[r];
    const float sink = p_.sink_logits == nullptr ? kNothing : p_.sink_logits[row.head] * kLog2E;
    const float maximum = max(total.maximum, sink);
    const float scale = weight_of(total.maximum, maximum);
    const float weight = scale * total.weight + weight_of(sink, maximum);
    if (first && p_.lse != nullptr) {
      constexpr float ln2 = 0.693147180559945309417F;
      const std::int64_t heads = std::int64_t{p_.num_kv_heads} * p_.group;
      p_.lse[row.token * heads + row.head] =
          weight == 0 ? kNothing : (finite(maximum) + log2f(weight)) * ln2;
    }
    // What sees nothing has no weight; a NaN is one.
    const float factor = weight == 0 ? 0 : scale * p_.value_scale / weight * unit;
    return {factor, nullptr,
            p_.out.data + row.token * p_.out.token_stride + row.head * p_.out.head_stride};
  }

  const Params& p_;
  const Item& item_;
  const Row* rows_;
};

/// The block is one team: each lane has the dims of its rows.
template <class T>
__device__ __forceinline__ void write_results(const Params& p, const Item& item,
                                              const Results<T>& results, const Writer<T>& writer) {
  const Place<T>& place = results.place;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int r = place.row + 8 * half;
    if (r >= item.num_rows) continue;
    const Total total{results.maximum[half], results.weight[half]};
    const bool first = place.first_dim == 0 && place.in_group == 0;
    const Target target = writer.begin_row(r, total, results.unit, first);
#pragma unroll
    for (int d = 0; d < T::kDimGroups; ++d) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const int dim = place.first_dim + 32 * d + 8 * place.in_group + 4 * c;
        if (dim >= p.v_head_dim) continue;
        const auto& sums = results.sums[d];
        const int i = 2 * half + c;
        target.write(p, dim, make_float4(sums[0][i], sums[1][i], sums[2][i], sums[3][i]));
      }
    }
  }
}

/// Teams of one warp had different tokens, and put their results together in shared memory.
template <class T>
__device__ __forceinline__ void exchange_results(const Params& p, const Item& item,
                                                 const Results<T>& results, const Writer<T>& writer,
                                                 float* exchange) {
  constexpr int stride = T::kValueDims + 4;  // keeps the stores of a warp in different banks
  float* const all_totals = exchange + T::kTeams * 16 * stride;
  const Place<T>& place = results.place;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int r = place.team * 16 + place.group + 8 * half;
    if (place.in_group == 0) {
      float* const to = all_totals + 3 * r;
      to[0] = results.maximum[half];
      to[1] = results.weight[half];
      to[2] = results.unit;
    }
#pragma unroll
    for (int d = 0; d < T::kDimGroups; ++d) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const auto& sums = results.sums[d];
        const int i = 2 * half + c;
        *reinterpret_cast<float4*>(exchange + r * stride + 32 * d + 8 * place.in_group + 4 * c) =
            make_float4(sums[0][i], sums[1][i], sums[2][i], sums[3][i]);
      }
    }
  }
  __syncthreads();
  // As many threads a row as make a power of two and have four dims each.
  constexpr int threads = T::kValueDims / 4;
  for (int i = static_cast<int>(threadIdx.x); i < item.num_rows * threads; i += T::kThreads) {
    const int r = i / threads, dim = i % threads * 4;
    if (dim >= p.v_head_dim) continue;
    Total total{kNothing, 0};
#pragma unroll
    for (int team = 0; team < T::kTeams; ++team) {
      total.maximum = max(total.maximum, all_totals[3 * (team * 16 + r)]);
    }
    float4 sums = make_float4(0, 0, 0, 0);
#pragma unroll
    for (int team = 0; team < T::kTeams; ++team) {
      const float* const of_team = all_totals + 3 * (team * 16 + r);
      const float scale = weight_of(of_team[0], total.maximum);
      total.weight += scale * of_team[1];
      const float w = scale * of_team[2];
      const float4 x = *reinterpret_cast<const float4*>(exchange + (team * 16 + r) * stride + dim);
      sums = make_float4(sums.x + w * x.x, sums.y + w * x.y, sums.z + w * x.z, sums.w + w * x.w);
    }
    writer.begin_row(r, total, 1, dim == 0).write(p, dim, sums);
  }
}

}  // namespace pagedkv::cuda::attention
