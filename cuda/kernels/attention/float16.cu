// float16 queries over a float16 cache.

#include "cuda/kernels/attention/make_variants.cuh"

namespace pagedkv::cuda::attention {

const Variants& float16_variants() {
  static const Variants variants =
      make_variants<SixteenBits<__half>, OneDType<SixteenBits<__half>, DType::float16>>();
  return variants;
}

}  // namespace pagedkv::cuda::attention
