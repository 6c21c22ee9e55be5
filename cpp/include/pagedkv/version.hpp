#pragma once

// The one place of the version: CMake, the Python package and the tests read it from here.
// Minor versions of 0.x may break: the inline namespace v<major>_<minor> of every header keeps two
// of them apart in one program.
#define PAGEDKV_VERSION_MAJOR 0
#define PAGEDKV_VERSION_MINOR 1
#define PAGEDKV_VERSION_PATCH 0

#define PAGEDKV_DETAIL_DOTTED_(major, minor, patch) #major "." #minor "." #patch
#define PAGEDKV_DETAIL_DOTTED(major, minor, patch) PAGEDKV_DETAIL_DOTTED_(major, minor, patch)

/// "major.minor.patch"
#define PAGEDKV_VERSION \
  PAGEDKV_DETAIL_DOTTED(PAGEDKV_VERSION_MAJOR, PAGEDKV_VERSION_MINOR, PAGEDKV_VERSION_PATCH)

namespace pagedkv::inline v0_1 {

/// The version of these headers, "major.minor.patch".
inline constexpr const char* version = PAGEDKV_VERSION;

}  // namespace pagedkv::inline v0_1
