#pragma once

#include <cstddef>

namespace pagedkv::metal::embedded {

/// All kernels as one text of Metal's language.
extern const char* const kSource;
/// The same compiled (a metallib); of size 0 where the program was built without Metal's compiler.
extern const unsigned char kLibrary[];
extern const std::size_t kLibrarySize;

}  // namespace pagedkv::metal::embedded
