# Defines the option PAGEDKV_<backend> (AUTO, ON, OFF) and the library pagedkv_<backend>, which tells
# at run time what was built.
#
# pagedkv_backend(<backend> LABEL <its name in messages> LOOKED_FOR <what was searched>
#                 FOUND <the toolchain, or a false value>
#                 [BUILDS_MODULE: ON builds the module pagedkv._<backend>])
function(pagedkv_backend backend)
  cmake_parse_arguments(PARSE_ARGV 1 arg "BUILDS_MODULE" "LABEL;LOOKED_FOR;FOUND" "")
  string(TOLOWER ${backend} folder)
  set(choice "${PAGEDKV_${backend}}")

  if(choice STREQUAL "ON" AND NOT arg_FOUND)
    message(FATAL_ERROR "PAGEDKV_${backend}=ON, but there is no ${arg_LABEL} toolchain: "
                        "looked for ${arg_LOOKED_FOR}")
  endif()
  if(choice STREQUAL "OFF")
    set(cause "PAGEDKV_${backend}=OFF")
  elseif(arg_FOUND)
    set(cause "toolchain found: ${arg_FOUND}")
  else()
    set(cause "no toolchain found")
  endif()

  if(NOT arg_BUILDS_MODULE)
    # This version ships no kernels, so whatever was found, what is built is the stub, and it says so.
    set(status "not built with ${arg_LABEL}: version ${PROJECT_VERSION} has no ${arg_LABEL} kernels (${cause})")
  elseif(choice STREQUAL "ON")
    set(status "")
  else()
    set(status "not built with ${arg_LABEL}: -C cmake.define.PAGEDKV_${backend}=ON builds it (${cause})")
  endif()
  if(status STREQUAL "")
    message(STATUS "pagedkv: built with ${arg_LABEL} (${cause})")
  else()
    message(STATUS "pagedkv: ${status}")
  endif()
  # Built when the Python module asks for it: installing the headers compiles nothing.
  add_library(pagedkv_${folder} STATIC EXCLUDE_FROM_ALL stub.cpp)
  target_compile_features(pagedkv_${folder} PRIVATE cxx_std_20)
  target_compile_definitions(pagedkv_${folder} PRIVATE "PAGEDKV_${backend}_STATUS=\"${status}\"")
  target_include_directories(pagedkv_${folder} PUBLIC "${PROJECT_SOURCE_DIR}")
  set_target_properties(pagedkv_${folder} PROPERTIES POSITION_INDEPENDENT_CODE ON)
endfunction()

# Declares the option and refuses any other value.
function(pagedkv_backend_option backend)
  set(PAGEDKV_${backend} AUTO CACHE STRING "Build the ${backend} backend: AUTO (where it can), ON or OFF")
  set_property(CACHE PAGEDKV_${backend} PROPERTY STRINGS AUTO ON OFF)
  if(NOT PAGEDKV_${backend} MATCHES "^(AUTO|ON|OFF)$")
    message(FATAL_ERROR "PAGEDKV_${backend}=${PAGEDKV_${backend}}; expected AUTO, ON or OFF")
  endif()
endfunction()
