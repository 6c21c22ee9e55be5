// float32 queries over a float32 cache.

#include "cuda/kernels/attention/make_variants.cuh"

namespace pagedkv::cuda::attention {

const Variants& float32_variants() {
  static const Variants variants = make_float32_variants<OneDType<Float32, DType::float32>>();
  return variants;
}

}  // namespace pagedkv::cuda::attention
