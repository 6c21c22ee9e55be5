# The install tree, which is also the layout inside the wheel: include/pagedkv, lib/cmake/pagedkv.
include(CMakePackageConfigHelpers)

set(package_dir "${CMAKE_INSTALL_LIBDIR}/cmake/pagedkv")

install(
  DIRECTORY "${PROJECT_SOURCE_DIR}/cpp/include/"
  DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}"
  FILES_MATCHING
  PATTERN "*.hpp")

install(TARGETS pagedkv EXPORT pagedkv-targets)
install(
  EXPORT pagedkv-targets
  NAMESPACE pagedkv::
  DESTINATION "${package_dir}")

# The component `kernels`: a set of its own, so that the headers ask for no library.
if(PAGEDKV_INSTALL_KERNELS)
  install(
    TARGETS pagedkv_kernels
    EXPORT pagedkv-kernels-targets
    ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}")
  install(
    EXPORT pagedkv-kernels-targets
    NAMESPACE pagedkv::
    DESTINATION "${package_dir}")
endif()

configure_package_config_file(
  "${CMAKE_CURRENT_LIST_DIR}/pagedkv-config.cmake.in"
  "${PROJECT_BINARY_DIR}/pagedkv-config.cmake"
  INSTALL_DESTINATION "${package_dir}"
  NO_SET_AND_CHECK_MACRO)
# Below 1.0 every minor version may break; ARCH_INDEPENDENT because the headers are, and the component
# `kernels` checks for itself.
write_basic_package_version_file(
  "${PROJECT_BINARY_DIR}/pagedkv-config-version.cmake"
  COMPATIBILITY SameMinorVersion
  ARCH_INDEPENDENT)
install(FILES "${PROJECT_BINARY_DIR}/pagedkv-config.cmake"
              "${PROJECT_BINARY_DIR}/pagedkv-config-version.cmake"
        DESTINATION "${package_dir}")
