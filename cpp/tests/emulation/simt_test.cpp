// The engine that runs kernels on the CPU, and the instructions that it has by definition.

#include "cpp/tests/emulation/simt.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "cuda/kernels/instructions.cuh"
#include "cuda/launch.hpp"

namespace {

using namespace pagedkv;

/// Each thread in each order, so that nothing rests on who is first.
constexpr simt::Order kOrders[] = {simt::Order::forward, simt::Order::backward,
                                   simt::Order::shuffled};

template <class Work>
void in_each_order(Work&& work) {
  for (const simt::Order order : kOrders) {
    simt::order() = order;
    work();
  }
  simt::order() = simt::Order::forward;
}

/// What the kernel is refused with.
template <class Kernel>
std::string refusal(dim3 block, std::size_t shared_bytes, Kernel&& kernel) {
  try {
    simt::launch(dim3(1), block, shared_bytes, kernel);
  } catch (const simt::Error& error) {
    return error.what();
  }
  return "";
}

__global__ void write_numbers(unsigned* out) {
  const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  out[block * blockDim.x * blockDim.y * blockDim.z + thread] += 1 + thread + 1000 * block;
}

TEST(Simt, RunsEachThreadOfEachBlockOnce) {
  std::vector<unsigned> out(6 * 40);
  cuda::launch(&write_numbers, dim3(3, 1, 2), dim3(5, 4, 2), 0, nullptr, out.data());
  for (unsigned i = 0; i < out.size(); ++i) EXPECT_EQ(out[i], 1 + i % 40 + 1000 * (i / 40));
}

__global__ void reverse(const int* from, int* to) {
  int* shared = cuda::dynamic_shared<int>();
  shared[threadIdx.x] = from[threadIdx.x];
  __syncthreads();
  to[threadIdx.x] = shared[blockDim.x - 1 - threadIdx.x];
}

TEST(Simt, ABarrierShowsWhatOthersWrote) {
  std::vector<int> from(100), to(100);
  std::iota(from.begin(), from.end(), 0);
  in_each_order([&] {
    std::fill(to.begin(), to.end(), -1);
    cuda::launch(&reverse, 1, 100, 400, nullptr, from.data(), to.data());
    for (int i = 0; i < 100; ++i) EXPECT_EQ(to[static_cast<std::size_t>(i)], 99 - i);
  });
}

TEST(Simt, WithoutABarrierTheOrderShows) {
  std::vector<float> seen;
  const auto racy = [&] {
    float* shared = cuda::dynamic_shared<float>();
    shared[threadIdx.x] = 1;
    if (threadIdx.x == 5) seen.push_back(shared[6]);
  };
  in_each_order([&] { simt::launch(dim3(1), dim3(8), 32, racy); });
  EXPECT_TRUE(std::isnan(seen[0]));  // what nobody has written yet
  EXPECT_EQ(seen[1], 1);
}

TEST(Simt, SharedMemoryIsForgottenBetweenBlocks) {
  std::vector<bool> unwritten;
  simt::launch(dim3(3), dim3(1), 4, [&] {
    float* shared = cuda::dynamic_shared<float>();
    unwritten.push_back(std::isnan(*shared));
    *shared = 1;
  });
  EXPECT_EQ(unwritten, (std::vector<bool>{true, true, true}));
}

TEST(Simt, WarpsShuffleVoteAndReduce) {
  in_each_order([] {
    simt::launch(dim3(1), dim3(64), 0, [] {
      const int lane = static_cast<int>(threadIdx.x) % 32;
      const int warp = static_cast<int>(threadIdx.x) / 32;
      const unsigned all = 0xffffffffU;
      EXPECT_EQ(__shfl_sync(all, lane + 100 * warp, 7), 7 + 100 * warp);
      EXPECT_EQ(__shfl_sync(all, lane, 3, 8), lane / 8 * 8 + 3);
      EXPECT_EQ(__shfl_xor_sync(all, lane, 16), lane ^ 16);
      EXPECT_EQ(__shfl_up_sync(all, lane, 1), lane == 0 ? 0 : lane - 1);
      EXPECT_EQ(__shfl_down_sync(all, lane, 4, 16), lane % 16 < 12 ? lane + 4 : lane);
      EXPECT_EQ(__ballot_sync(all, lane % 2), 0xaaaaaaaaU);
      EXPECT_TRUE(__any_sync(all, lane == 9));
      EXPECT_FALSE(__all_sync(all, lane != 9));
      EXPECT_EQ(__reduce_max_sync(all, lane), 31);
      EXPECT_EQ(__syncthreads_count(threadIdx.x < 40), 40);
      EXPECT_TRUE(__syncthreads_or(threadIdx.x == 63));
      EXPECT_FALSE(__syncthreads_and(threadIdx.x == 63));
      float sum = 1;
      for (int bits = 16; bits != 0; bits /= 2) sum += __shfl_xor_sync(all, sum, bits);
      EXPECT_EQ(sum, 32);
      if (lane < 16) {
        EXPECT_EQ(__reduce_add_sync(0xffffU, 1), 16);
      }
    });
  });
}

TEST(Simt, ABarrierThatSomeNeverReachIsAnError) {
  const std::string message = refusal(64, 0, [] {
    if (threadIdx.x < 32) {
      __syncthreads();
    } else {
      __shfl_sync(0xffffffffU, threadIdx.x == 40 ? 0 : 1, 0);
      if (threadIdx.x != 40) __syncwarp();
    }
  });
  EXPECT_NE(message.find("has returned"), std::string::npos) << message;
  const std::string two = refusal(64, 0, [] {
    if (threadIdx.x < 32) {
      __syncthreads();
    } else {
      __syncthreads();
    }
  });
  EXPECT_NE(two.find("others at that of"), std::string::npos) << two;
  const std::string stuck = refusal(32, 0, [] {
    if (threadIdx.x == 0) {
      __syncthreads();
    } else {
      __syncwarp();
    }
  });
  EXPECT_NE(stuck.find("nobody can go on"), std::string::npos) << stuck;
}

TEST(Simt, CollectivesOfLanesThatDisagreeAreErrors) {
  EXPECT_NE(refusal(16, 0, [] { __syncwarp(); }), "");
  EXPECT_NE(refusal(32, 0, [] { __shfl_sync(threadIdx.x < 16 ? 0xffffU : ~0U, 0, 0); }), "");
  EXPECT_NE(refusal(32, 0,
                    [] {
                      if (threadIdx.x < 16) __shfl_sync(0xffffU, 0, 20);
                    }),
            "");
}

TEST(Simt, WhatAKernelThrowsComesOutAndItsFramesAreUnwound) {
  struct Counted {
    explicit Counted(int& count_) : count(count_) { ++count; }
    ~Counted() { --count; }
    int& count;
  };
  int live = 0;
  const auto kernel = [&] {
    const Counted counted(live);
    if (threadIdx.x == 20) throw std::runtime_error("no");
    __syncthreads();
  };
  EXPECT_THROW(simt::launch(dim3(1), dim3(64), 0, kernel), std::runtime_error);
  EXPECT_EQ(live, 0);
}

TEST(Simt, AsynchronousCopiesArriveWhenTheyAreWaitedFor) {
  alignas(16) const int from[8] = {1, 2, 3, 4, 5, 6, 7, 8};
  simt::launch(dim3(1), dim3(1), 32, [&] {
    int* shared = cuda::dynamic_shared<int>();
    cuda::cp_async<16>(shared, from);
    cuda::cp_async_commit();
    cuda::cp_async<16>(shared + 4, from + 4, 8);
    cuda::cp_async_commit();
    EXPECT_EQ(shared[0], -1);
    cuda::cp_async_wait<1>();
    EXPECT_EQ(shared[3], 4);
    EXPECT_EQ(shared[4], -1);
    cuda::cp_async_wait<0>();
    EXPECT_EQ(shared[5], 6);
    EXPECT_EQ(shared[6], 0);
  });
  EXPECT_NE(refusal(1, 32, [&] { cuda::cp_async<16>(cuda::dynamic_shared<int>() + 1, from); }), "");
}

TEST(Simt, LaunchesThatNoDeviceTakesCarryTheTextOfCuda) {
  std::vector<unsigned> out(1);
  const auto message = [&](dim3 block, std::size_t shared) -> std::string {
    try {
      cuda::launch("here", &write_numbers, 1, block, shared, nullptr, out.data());
    } catch (const cuda::CudaError& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_NE(message(1025, 0).find("invalid configuration argument"), std::string::npos);
  EXPECT_NE(message(1, 228 << 10).find("[here] cudaFuncSetAttribute"), std::string::npos);
  EXPECT_EQ(message(1, 200 << 10), "");
}

// The fragments are checked against products that are written without them: what goes in by
// ldmatrix comes out as a matrix product.

template <class T>
std::uint16_t bits_of(float x) {
  if constexpr (std::is_same_v<T, __half>) {
    return __half_as_ushort(__float2half_rn(x));
  } else {
    return __bfloat16_as_ushort(__float2bfloat16_rn(x));
  }
}

template <class T>
void multiplies_matrices() {
  std::minstd_rand random(7);
  std::uniform_int_distribution<int> small(-8, 8);
  // a [16, 16]; b [16, 8] as its columns; and the same b as it is, for the transposing load
  alignas(16) std::uint16_t a[16][16], columns[8][16], rows[16][8];
  float a_values[16][16], b_values[16][8];
  for (int i = 0; i < 16; ++i) {
    for (int j = 0; j < 16; ++j) {
      a_values[i][j] = static_cast<float>(small(random));
      a[i][j] = bits_of<T>(a_values[i][j]);
    }
    for (int j = 0; j < 8; ++j) {
      b_values[i][j] = static_cast<float>(small(random)) / 4;
      columns[j][i] = rows[i][j] = bits_of<T>(b_values[i][j]);
    }
  }
  simt::launch(dim3(1), dim3(32), 0, [&] {
    const unsigned lane = threadIdx.x, group = lane / 4, in_group = lane % 4;
    std::uint32_t left[4], right[2], transposed[2];
    cuda::ldmatrix_x4(left, &a[lane % 16][lane / 16 * 8]);
    cuda::ldmatrix_x2(right, &columns[lane % 8][lane / 8 % 2 * 8]);
    cuda::ldmatrix_x2_transposed(transposed, &rows[lane % 16][0]);
    EXPECT_EQ(right[0], transposed[0]);
    EXPECT_EQ(right[1], transposed[1]);
    float d[4] = {1, 2, 3, 4};
    cuda::mma_m16n8k16<T>(d, left, right);
    for (unsigned i = 0; i < 4; ++i) {
      const unsigned row = group + i / 2 * 8, column = in_group * 2 + i % 2;
      auto expected = static_cast<float>(i + 1);
      for (unsigned k = 0; k < 16; ++k) expected += a_values[row][k] * b_values[k][column];
      EXPECT_EQ(d[i], expected);
    }
  });
}

TEST(Instructions, TensorCoresMultiplyFloat16) { multiplies_matrices<__half>(); }
TEST(Instructions, TensorCoresMultiplyBfloat16) { multiplies_matrices<__nv_bfloat16>(); }

TEST(Instructions, TensorCoresMultiplyTf32) {
  simt::launch(dim3(1), dim3(32), 0, [] {
    const unsigned lane = threadIdx.x, group = lane / 4, in_group = lane % 4;
    const auto a = [](unsigned i, unsigned k) {
      return static_cast<float>(i) + 0.25F * static_cast<float>(k);
    };
    const auto b = [](unsigned k, unsigned j) { return 1.0F + static_cast<float>(k * j); };
    std::uint32_t left[4], right[2];
    for (unsigned i = 0; i < 4; ++i) {
      left[i] = cuda::to_tf32(a(group + i % 2 * 8, in_group + i / 2 * 4));
    }
    for (unsigned i = 0; i < 2; ++i) right[i] = cuda::to_tf32(b(in_group + i * 4, group));
    float d[4] = {};
    cuda::mma_m16n8k8_tf32(d, left, right);
    for (unsigned i = 0; i < 4; ++i) {
      float expected = 0;
      for (unsigned k = 0; k < 8; ++k) {
        expected += a(group + i / 2 * 8, k) * b(k, in_group * 2 + i % 2);
      }
      EXPECT_EQ(d[i], expected);
    }
  });
  EXPECT_EQ(cuda::to_tf32(1.0F + std::ldexp(1.0F, -11)),
            __float_as_uint(1.0F + std::ldexp(1.0F, -10)));
}

template <class Format>
void round_trips(unsigned count) {
  for (unsigned bits = 0; bits < count; ++bits) {
    const float value = Format::decode(bits);
    if (value == value) {
      EXPECT_EQ(Format::encode(value), bits);
    } else {
      EXPECT_NE(Format::decode(Format::encode(value)), value);
    }
  }
}

TEST(Instructions, SmallFloatsRoundToNearestTiesToEven) {
  round_trips<simt::Float16>(65536);
  round_trips<simt::BFloat16>(65536);
  round_trips<simt::Float8E4M3>(256);
  round_trips<simt::Float8E5M2>(256);
  EXPECT_EQ(simt::Float16::encode(65519), 0x7bffU);
  EXPECT_EQ(simt::Float16::encode(65520), 0x7c00U);
  EXPECT_EQ(simt::Float16::encode(std::ldexp(1.0F, -25)), 0U);
  EXPECT_EQ(simt::Float16::encode(std::ldexp(1.5F, -25)), 1U);
  EXPECT_EQ(simt::Float16::encode(1 + std::ldexp(1.0F, -11)), 0x3c00U);
  EXPECT_EQ(simt::Float8E4M3::encode(1000, true), 0x7eU);
  EXPECT_EQ(simt::Float8E4M3::encode(448, false), 0x7eU);
  EXPECT_EQ(simt::Float8E5M2::encode(-1e9F, true), 0xfbU);
}

}  // namespace
