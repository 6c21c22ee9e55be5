# What is compiled for several instruction sets is tested for each: the vector types in programs of
# their own, and that the objects of one set leave the others alone.
add_executable(pagedkv_run_with_isa isa/run_with_isa.cpp)
target_link_libraries(pagedkv_run_with_isa PRIVATE pagedkv::pagedkv pagedkv_strict_warnings)
add_custom_target(pagedkv_build_kernels ALL DEPENDS pagedkv_kernels)

file(GLOB simd_tests CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/simd_*test.cpp")
get_property(isas GLOBAL PROPERTY pagedkv_isas)
foreach(isa IN LISTS isas)
  string(REGEX REPLACE "^isa_" "" name "${isa}")
  set(program pagedkv_simd_tests_${name})
  add_executable(${program} ${simd_tests})
  target_link_libraries(${program} PRIVATE pagedkv::pagedkv pagedkv_strict_warnings pagedkv_flags_${isa}
                                           GTest::gtest_main)
  set_target_properties(${program} PROPERTIES UNITY_BUILD ON)
  # Not by gtest_discover_tests: to list its tests the program would have to run.
  add_test(NAME simd_${name} COMMAND pagedkv_run_with_isa ${name} $<TARGET_FILE:${program}>
                                     --gtest_brief=1)
  set_tests_properties(simd_${name} PROPERTIES SKIP_RETURN_CODE 77)

  if(CMAKE_NM AND NOT isa STREQUAL "isa_generic")
    add_test(NAME symbols_${name}
             COMMAND "${CMAKE_COMMAND}" "-DNM=${CMAKE_NM}" "-DISA=${isa}"
                     "-DOBJECT=$<TARGET_OBJECTS:pagedkv_${isa}>" -P
                     "${CMAKE_CURRENT_SOURCE_DIR}/isa/symbols.cmake")
  endif()
endforeach()
