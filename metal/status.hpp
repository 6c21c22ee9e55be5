#pragma once

#include <string>

namespace pagedkv::metal {

/// Why this backend cannot be used; empty where it can.
std::string status();

}  // namespace pagedkv::metal
