#pragma once

#include <cstddef>

#include "metal/queue.hpp"

namespace pagedkv_test {

/// Runs one thread of a kernel, by its name.
/// @param arrays  the arguments: parameters, then arrays.
/// @throws std::out_of_range for a name that is none.
void run_metal_thread(const char* name, const void* const* arrays);

}  // namespace pagedkv_test
