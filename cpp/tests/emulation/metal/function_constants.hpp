#pragma once

namespace pagedkv_test {

/// What kernels are specialised by, of the dispatch that runs.
inline unsigned function_constants[32];

}  // namespace pagedkv_test
