#include "metal/status.hpp"

std::string pagedkv::metal::status() { return PAGEDKV_METAL_STATUS; }
