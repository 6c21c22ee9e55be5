// bfloat16 queries over a bfloat16 cache.

#include "cuda/kernels/attention/make_variants.cuh"

namespace pagedkv::cuda::attention {

const Variants& bfloat16_variants() {
  static const Variants variants =
      make_variants<SixteenBits<__nv_bfloat16>,
                    OneDType<SixteenBits<__nv_bfloat16>, DType::bfloat16>>();
  return variants;
}

}  // namespace pagedkv::cuda::attention
