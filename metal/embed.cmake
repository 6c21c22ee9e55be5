# Writes the kernels into a C++ source: their text, and what they were compiled to, if they were.
#
# cmake -DSOURCE=<text> [-DLIBRARY=<metallib>] -DTO=<file> -P embed.cmake
function(bytes_of file to)
  file(READ "${file}" hex HEX)
  string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," hex "${hex}")
  set(${to} "${hex}" PARENT_SCOPE)
endfunction()

bytes_of("${SOURCE}" source)
set(library "0")
set(size "0")
if(LIBRARY)
  bytes_of("${LIBRARY}" library)
  set(size "sizeof kLibrary")
endif()
file(WRITE "${TO}" "#include \"metal/embedded_kernels.hpp\"

namespace pagedkv::metal::embedded {
static const unsigned char kText[] = {${source}0};
const char* const kSource = reinterpret_cast<const char*>(kText);
const unsigned char kLibrary[] = {${library}};
const std::size_t kLibrarySize = ${size};
}  // namespace pagedkv::metal::embedded
")
