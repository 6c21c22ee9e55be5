#include "cuda/status.hpp"

std::string pagedkv::cuda::status() { return PAGEDKV_CUDA_STATUS; }
