// Queries over a cache of another dtype that no other source is for: float32 over narrower ones,
// and 16 bits over the other 16 bits or float32.

#include "cuda/kernels/attention/make_variants.cuh"

namespace pagedkv::cuda::attention {

const Variants& mixed_variants() {
  static const Variants variants = make_float32_variants<AnyDType>();
  return variants;
}

}  // namespace pagedkv::cuda::attention
