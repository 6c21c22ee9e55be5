#pragma once

#include <string>

namespace pagedkv::cuda {

/// Why this backend cannot be used; empty where it can.
std::string status();

}  // namespace pagedkv::cuda
