// float16 and bfloat16 queries over an int8 cache.

#include "cuda/kernels/attention/make_variants.cuh"

namespace pagedkv::cuda::attention {

const Variants& int8_variants() {
  static const Variants variants =
      make_variants<SixteenBits<__half>, OneDType<SixteenBits<__half>, DType::int8>>();
  return variants;
}

}  // namespace pagedkv::cuda::attention
