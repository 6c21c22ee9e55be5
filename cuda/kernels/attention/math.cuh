#pragma once

// Products of tiles on tensor cores, in float16, bfloat16 and float32.
//
// An mma multiplies 16 rows by 16 terms with 16 terms by 8 columns (float32: in two steps of 8
// terms). Of the 16 terms a lane holds 4, of row g = lane / 4 and g + 8, and of column g. Which 4
// the hardware says, but a sum has no order: we number terms so that lane t = lane % 4 of a group
// has four neighbours, a "quad", which one load from memory brings, whatever the element type. So
// the dims 4t to 4t + 3 of 16 are lane t's in queries * keys. In weights * values it has the tokens
// whose scores it holds, 2t, 2t + 1, 2t + 8 and 2t + 9 of 16, and quads of the dims 4g to 4g + 3
// of 32.

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <cstdint>
#include <type_traits>

#include "cuda/kernels/attention/params.cuh"
#include "cuda/kernels/instructions.cuh"

namespace pagedkv::cuda::attention {

__device__ __forceinline__ std::uint32_t bits_of(__half2 x) {
  return __half_as_ushort(__low2half(x)) |
         static_cast<std::uint32_t>(__half_as_ushort(__high2half(x))) << 16;
}

/// Two numbers as a pair of 16-bit floats, the first in the low half.
template <class T>
__device__ __forceinline__ std::uint32_t pack(float x, float y) {
  if constexpr (std::is_same_v<T, __half>) {
    return bits_of(__floats2half2_rn(x, y));
  } else {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(x, y);
    return __bfloat16_as_ushort(pair.x) | static_cast<std::uint32_t>(__bfloat16_as_ushort(pair.y))
                                              << 16;
  }
}

__device__ __forceinline__ float2 unpack_half(std::uint32_t pair) {
  return make_float2(__half2float(__ushort_as_half(static_cast<unsigned short>(pair & 0xffffU))),
                     __half2float(__ushort_as_half(static_cast<unsigned short>(pair >> 16))));
}
__device__ __forceinline__ float2 unpack_bfloat(std::uint32_t pair) {
  return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000U));
}

/// T is __half or __nv_bfloat16.
template <class T>
struct SixteenBits {
  using Quad = uint2;  ///< four elements
  static constexpr int kElementBytes = 2;
  /// bfloat16 queries over 8-bit elements are multiplied as float16, which holds all their bits, in
  /// units of the largest of a row, which float16 might not hold.
  static constexpr bool kScalesQueries = std::is_same_v<T, __half>;
  static constexpr bool kKeepsQueries = true;  ///< in registers

  struct Left {
    std::uint32_t x[4];
  };
  struct Right {
    std::uint32_t x[2];
  };

  static __device__ __forceinline__ void multiply(float (&sums)[4], const Left& a, const Right& b) {
    mma_m16n8k16<T>(sums, a.x, b.x);
  }
  /// Queries lie in shared memory as lanes take them: 16 rows by 16 dims are one load of each. Puts
  /// a lane's quad of row g (half 0) or g + 8 (half 1) there.
  static __device__ __forceinline__ void put(std::byte* rows, int lane, int half, const Quad& x) {
    auto* const to = reinterpret_cast<std::uint32_t*>(rows + 16 * lane) + half;
    to[0] = x.x;
    to[2] = x.y;
  }
  static __device__ __forceinline__ Left left(const std::byte* rows, int lane) {
    const uint4 x = *reinterpret_cast<const uint4*>(rows + 16 * lane);
    return {{x.x, x.y, x.z, x.w}};
  }
  static __device__ __forceinline__ Right right(const Quad& column) {
    return {{column.x, column.y}};
  }
  /// The weights of 16 tokens, from the sums of two tiles of 8 columns.
  static __device__ __forceinline__ Left left(const float (&p)[2][4]) {
    return {{pack<T>(p[0][0], p[0][1]), pack<T>(p[0][2], p[0][3]), pack<T>(p[1][0], p[1][1]),
             pack<T>(p[1][2], p[1][3])}};
  }
  /// Four dims of four tokens, by dim.
  static __device__ __forceinline__ void transpose(Right (&to)[4], const Quad (&token)[4]) {
    constexpr unsigned low = 0x5410, high = 0x7632;
    to[0] = {{__byte_perm(token[0].x, token[1].x, low), __byte_perm(token[2].x, token[3].x, low)}};
    to[1] = {
        {__byte_perm(token[0].x, token[1].x, high), __byte_perm(token[2].x, token[3].x, high)}};
    to[2] = {{__byte_perm(token[0].y, token[1].y, low), __byte_perm(token[2].y, token[3].y, low)}};
    to[3] = {
        {__byte_perm(token[0].y, token[1].y, high), __byte_perm(token[2].y, token[3].y, high)}};
  }
  static __device__ __forceinline__ Quad quad(float4 x) {
    return make_uint2(pack<T>(x.x, x.y), pack<T>(x.z, x.w));
  }
  /// sums += a b for four tiles of columns.
  static __device__ __forceinline__ void accumulate(float (&sums)[4][4], const Left& a,
                                                    const Right (&b)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) multiply(sums[i], a, b[i]);
  }
};

/// float32 as the sum of two tf32, big and small: three products give all but the last bit or two.
struct Float32 {
  using Quad = float4;
  static constexpr int kElementBytes = 4;
  static constexpr bool kScalesQueries = false;
  static constexpr bool kKeepsQueries = false;

  struct Left {
    std::uint32_t big[2][4], small[2][4];
  };
  struct Right {
    std::uint32_t big[2][2], small[2][2];
  };

  static __device__ __forceinline__ void split(float x, std::uint32_t& big, std::uint32_t& small) {
    big = to_tf32(x);
    small = to_tf32(x - __uint_as_float(big));
  }
  static __device__ __forceinline__ void multiply(float (&sums)[4], const Left& a, const Right& b) {
#pragma unroll
    for (int step = 0; step < 2; ++step) {
      mma_m16n8k8_tf32(sums, a.small[step], b.big[step]);
      mma_m16n8k8_tf32(sums, a.big[step], b.small[step]);
      mma_m16n8k8_tf32(sums, a.big[step], b.big[step]);
    }
  }
  static __device__ __forceinline__ void put(std::byte* rows, int lane, int half, const Quad& x) {
    *reinterpret_cast<Quad*>(rows + 512 * half + 16 * lane) = x;
  }
  static __device__ __forceinline__ Left left(const std::byte* rows, int lane) {
    return left(*reinterpret_cast<const Quad*>(rows + 16 * lane),
                *reinterpret_cast<const Quad*>(rows + 512 + 16 * lane));
  }
  static __device__ __forceinline__ Left left(const Quad& low, const Quad& high) {
    Left a;
    split(low.x, a.big[0][0], a.small[0][0]);
    split(high.x, a.big[0][1], a.small[0][1]);
    split(low.y, a.big[0][2], a.small[0][2]);
    split(high.y, a.big[0][3], a.small[0][3]);
    split(low.z, a.big[1][0], a.small[1][0]);
    split(high.z, a.big[1][1], a.small[1][1]);
    split(low.w, a.big[1][2], a.small[1][2]);
    split(high.w, a.big[1][3], a.small[1][3]);
    return a;
  }
  static __device__ __forceinline__ Right right(const Quad& column) {
    Right b;
    split(column.x, b.big[0][0], b.small[0][0]);
    split(column.y, b.big[0][1], b.small[0][1]);
    split(column.z, b.big[1][0], b.small[1][0]);
    split(column.w, b.big[1][1], b.small[1][1]);
    return b;
  }
  static __device__ __forceinline__ Left left(const float (&p)[2][4]) {
    return left(make_float4(p[0][0], p[0][1], p[1][0], p[1][1]),
                make_float4(p[0][2], p[0][3], p[1][2], p[1][3]));
  }
  static __device__ __forceinline__ void transpose(Right (&to)[4], const Quad (&token)[4]) {
    to[0] = right(make_float4(token[0].x, token[1].x, token[2].x, token[3].x));
    to[1] = right(make_float4(token[0].y, token[1].y, token[2].y, token[3].y));
    to[2] = right(make_float4(token[0].z, token[1].z, token[2].z, token[3].z));
    to[3] = right(make_float4(token[0].w, token[1].w, token[2].w, token[3].w));
  }
  static __device__ __forceinline__ Quad quad(float4 x) { return x; }
  /// Tensor cores cut off what a sum has no bits for, always downwards: over thousands of tokens
  /// that would show, so that only the 16 of a step are summed there.
  static __device__ __forceinline__ void accumulate(float (&sums)[4][4], const Left& a,
                                                    const Right (&b)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float step[4] = {0, 0, 0, 0};
      multiply(step, a, b[i]);
#pragma unroll
      for (int j = 0; j < 4; ++j) sums[i][j] += step[j];
    }
  }
};

// Elements as the caches hold them, and as quads of what is multiplied. An address is that of four
// elements, aligned to them.

template <DType stored, class Quad>
struct Stored;

template <>
struct Stored<DType::float16, uint2> {
  static __device__ __forceinline__ uint2 load(const std::byte* p) {
    return *reinterpret_cast<const uint2*>(p);
  }
};
template <>
struct Stored<DType::bfloat16, uint2> : Stored<DType::float16, uint2> {};

template <__nv_fp8_interpretation_t kind>
struct StoredFloat8 {
  static __device__ __forceinline__ uint2 load(const std::byte* p) {
    const auto bytes = *reinterpret_cast<const std::uint32_t*>(p);
    const auto convert = [](std::uint32_t pair) {
      return bits_of(
          __half2(__nv_cvt_fp8x2_to_halfraw2(static_cast<__nv_fp8x2_storage_t>(pair), kind)));
    };
    return make_uint2(convert(bytes & 0xffffU), convert(bytes >> 16));
  }
};
template <>
struct Stored<DType::float8_e4m3, uint2> : StoredFloat8<__NV_E4M3> {};

/// The upper byte of a float16 with the same value.
template <>
struct Stored<DType::float8_e5m2, uint2> {
  static __device__ __forceinline__ uint2 load(const std::byte* p) {
    const auto bytes = *reinterpret_cast<const std::uint32_t*>(p);
    return make_uint2(__byte_perm(bytes, 0, 0x1404), __byte_perm(bytes, 0, 0x3424));
  }
};

/// 1024 + x + 128 is a float16 with x + 128 in its low byte.
template <>
struct Stored<DType::int8, uint2> {
  static __device__ __forceinline__ uint2 load(const std::byte* p) {
    const auto bytes = *reinterpret_cast<const std::uint32_t*>(p) ^ 0x80808080U;
    const auto convert = [](std::uint32_t pair) {
      const __half2 sum =
          __halves2half2(__ushort_as_half(static_cast<unsigned short>(pair & 0xffffU)),
                         __ushort_as_half(static_cast<unsigned short>(pair >> 16)));
      return bits_of(__hsub2(sum, __float2half2_rn(1152.0F)));
    };
    return make_uint2(convert(__byte_perm(bytes, 0x64U, 0x4140)),
                      convert(__byte_perm(bytes, 0x64U, 0x4342)));
  }
};

template <>
struct Stored<DType::float32, float4> {
  static __device__ __forceinline__ float4 load(const std::byte* p) {
    return *reinterpret_cast<const float4*>(p);
  }
};
template <>
struct Stored<DType::float16, float4> {
  static __device__ __forceinline__ float4 load(const std::byte* p) {
    const uint2 pairs = *reinterpret_cast<const uint2*>(p);
    const float2 a = unpack_half(pairs.x), b = unpack_half(pairs.y);
    return make_float4(a.x, a.y, b.x, b.y);
  }
};
template <>
struct Stored<DType::bfloat16, float4> {
  static __device__ __forceinline__ float4 load(const std::byte* p) {
    const uint2 pairs = *reinterpret_cast<const uint2*>(p);
    const float2 a = unpack_bfloat(pairs.x), b = unpack_bfloat(pairs.y);
    return make_float4(a.x, a.y, b.x, b.y);
  }
};

template <DType stored>
__device__ __forceinline__ float4 load_as_floats(const std::byte* p) {
  const uint2 pairs = Stored<stored, uint2>::load(p);
  const float2 a = unpack_half(pairs.x), b = unpack_half(pairs.y);
  return make_float4(a.x, a.y, b.x, b.y);
}

/// What a kernel reads: elements of one dtype, known as it is compiled, as terms of `Math`.
template <class Math, DType dtype>
struct OneDType {
  static constexpr int kMostBytes = static_cast<int>(dtype_bits(dtype) / 8);
  static __device__ __forceinline__ int element_bytes(const Params&) { return kMostBytes; }
  static __device__ __forceinline__ typename Math::Quad load(DType, const std::byte* p) {
    return Stored<dtype, typename Math::Quad>::load(p);
  }
};

/// Elements of any dtype, looked at as they are read: for the pairs of dtypes that are rare.
struct AnyDType {
  static constexpr int kMostBytes = 4;
  static __device__ __forceinline__ int element_bytes(const Params& p) {
    switch (p.cache_dtype) {
      case DType::float32: return 4;
      case DType::float16:
      case DType::bfloat16: return 2;
      default: return 1;
    }
  }
  static __device__ __noinline__ float4 load(DType dtype, const std::byte* p) {
    switch (dtype) {
      case DType::float32: return Stored<DType::float32, float4>::load(p);
      case DType::float16: return Stored<DType::float16, float4>::load(p);
      case DType::bfloat16: return Stored<DType::bfloat16, float4>::load(p);
      case DType::float8_e4m3: return load_as_floats<DType::float8_e4m3>(p);
      case DType::float8_e5m2: return load_as_floats<DType::float8_e5m2>(p);
      default: return load_as_floats<DType::int8>(p);
    }
  }
};

}  // namespace pagedkv::cuda::attention
