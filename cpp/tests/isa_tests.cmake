# What is compiled for several instruction sets is tested for each: the vector types in programs of
# their own, the operations in one that is told which kernels to run, and that the objects of one set
# leave the others alone.
if(NOT CMAKE_CROSSCOMPILING)
  add_executable(pagedkv_run_with_isa isa/run_with_isa.cpp)
  target_link_libraries(pagedkv_run_with_isa PRIVATE pagedkv::pagedkv pagedkv_strict_warnings)
endif()
add_custom_target(pagedkv_build_kernels ALL DEPENDS pagedkv_kernels)

file(GLOB ops_tests CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/attention_*.cpp"
     "${CMAKE_CURRENT_SOURCE_DIR}/ops_*.cpp")
add_executable(pagedkv_ops_tests ${ops_tests})
target_compile_definitions(pagedkv_ops_tests PRIVATE PAGEDKV_TESTS_DISPATCH)
target_link_libraries(pagedkv_ops_tests PRIVATE pagedkv::pagedkv pagedkv::kernels pagedkv_strict_warnings
                                                GTest::gtest_main)
target_precompile_headers(pagedkv_ops_tests PRIVATE <gtest/gtest.h>)

file(GLOB simd_tests CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/simd_*test.cpp")
get_property(isas GLOBAL PROPERTY pagedkv_isas)
foreach(isa IN LISTS isas)
  string(REGEX REPLACE "^isa_" "" name "${isa}")
  set(program pagedkv_simd_tests_${name})
  add_executable(${program} ${simd_tests})
  target_link_libraries(${program} PRIVATE pagedkv::pagedkv pagedkv_strict_warnings pagedkv_flags_${isa}
                                           GTest::gtest_main)
  set_target_properties(${program} PROPERTIES UNITY_BUILD ON)
  if(CMAKE_CROSSCOMPILING)
    add_test(NAME simd_${name} COMMAND ${program} --gtest_brief=1)
  else()
    # Not by gtest_discover_tests: to list its tests the program would have to run.
    add_test(NAME simd_${name} COMMAND pagedkv_run_with_isa ${name} $<TARGET_FILE:${program}>
                                       --gtest_brief=1)
    set_tests_properties(simd_${name} PROPERTIES SKIP_RETURN_CODE 77)
  endif()

  string(REPLACE "x86_64_v2" "x86-64-v2" forced "${name}")
  if(CMAKE_CROSSCOMPILING)
    add_test(NAME ops_${name} COMMAND pagedkv_ops_tests --gtest_brief=1)
  else()
    add_test(NAME ops_${name} COMMAND pagedkv_run_with_isa ${name} $<TARGET_FILE:pagedkv_ops_tests>
                                      --gtest_brief=1)
    set_tests_properties(ops_${name} PROPERTIES SKIP_RETURN_CODE 77)
  endif()
  set_tests_properties(ops_${name} PROPERTIES ENVIRONMENT "PAGEDKV_ISA=${forced}")

  if(CMAKE_NM AND NOT isa STREQUAL "isa_generic")
    add_test(NAME symbols_${name}
             COMMAND "${CMAKE_COMMAND}" "-DNM=${CMAKE_NM}" "-DISA=${isa}"
                     "-DOBJECT=$<TARGET_OBJECTS:pagedkv_${isa}>" -P
                     "${CMAKE_CURRENT_SOURCE_DIR}/isa/symbols.cmake")
  endif()
endforeach()
