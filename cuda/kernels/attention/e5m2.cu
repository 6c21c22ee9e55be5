// float16 and bfloat16 queries over a float8_e5m2 cache.

#include "cuda/kernels/attention/make_variants.cuh"

namespace pagedkv::cuda::attention {

const Variants& e5m2_variants() {
  static const Variants variants =
      make_variants<SixteenBits<__half>, OneDType<SixteenBits<__half>, DType::float8_e5m2>>();
  return variants;
}

}  // namespace pagedkv::cuda::attention
