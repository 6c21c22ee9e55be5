# Makes one text of the kernels, so that Metal's compiler needs no search path when it runs inside a
# program.
#
# cmake -DFILES=<;-list, what is included first> -DTO=<file> -P flatten.cmake
set(text "// All kernels; made from metal/kernels/.\n")
foreach(file IN LISTS FILES)
  file(READ "${file}" part)
  string(REPLACE "#pragma once\n" "" part "${part}")
  string(REGEX REPLACE "#include \"metal/kernels/[a-z_]+\\.h\"\n" "" part "${part}")
  string(APPEND text "${part}")
endforeach()
file(WRITE "${TO}" "${text}")
