# What is compiled when pagedkv itself is being built: never part of a consumer's build.
list(APPEND CMAKE_MODULE_PATH "${CMAKE_CURRENT_LIST_DIR}")

get_property(multi_config GLOBAL PROPERTY GENERATOR_IS_MULTI_CONFIG)
if(NOT multi_config AND NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Debug, Release, RelWithDebInfo or MinSizeRel" FORCE)
endif()

set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_CXX_SCAN_FOR_MODULES OFF)  # there are none, and scanning doubles the steps
set(CMAKE_CXX_VISIBILITY_PRESET hidden)
set(CMAKE_VISIBILITY_INLINES_HIDDEN ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

add_library(pagedkv_warnings INTERFACE)
target_compile_options(
  pagedkv_warnings INTERFACE $<IF:$<CXX_COMPILER_ID:MSVC>,/W4;/utf-8,-Wall;-Wextra>)
# g++ 12 sees overflows in std::string that are not there once a sanitizer has rewritten the code.
target_compile_options(
  pagedkv_warnings
  INTERFACE
    $<$<CXX_COMPILER_ID:GNU>:-Wno-array-bounds;-Wno-restrict;-Wno-stringop-overflow;-Wno-stringop-overread>)

if(PAGEDKV_BUILD_TESTS OR PAGEDKV_BUILD_FUZZERS)
  enable_testing()
endif()

add_subdirectory(cpp/src)
add_subdirectory(cuda)
add_subdirectory(metal)
if(PAGEDKV_BUILD_PYTHON)
  add_subdirectory(cpp/bindings)
endif()
if(PAGEDKV_BUILD_EXAMPLES)
  add_subdirectory(examples)
endif()
if(PAGEDKV_BUILD_TESTS)
  add_subdirectory(cpp/tests)
endif()
if(PAGEDKV_BUILD_EMULATED AND NOT PAGEDKV_BUILD_TESTS)
  add_subdirectory(cpp/tests/emulation)
endif()
if(PAGEDKV_BUILD_BENCHMARKS)
  add_subdirectory(cpp/bench)
endif()
if(PAGEDKV_BUILD_TESTS OR PAGEDKV_BUILD_FUZZERS)
  add_subdirectory(cpp/fuzz)
endif()
