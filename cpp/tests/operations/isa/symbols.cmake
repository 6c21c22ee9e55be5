# What an object compiled for one instruction set defines for others to link must bear the name of the
# set. Of an inline function that does not, the linker keeps one for the whole program: perhaps the one
# with instructions that the processor does not have.
execute_process(COMMAND "${NM}" "${OBJECT}" OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
string(REGEX MATCHALL "[0-9a-f]+ [A-Zuvw] [^\n]+" symbols "${symbols}")

# Constants, which are the same whatever the flags are, and what a compiler adds for exceptions.
set(harmless "DW\\.ref\\.__gxx_personality_v0|__clang_call_terminate|^_*ZN7pagedkv[a-z0-9_]*6detail7kDTypesE$")
set(own 0)
set(foreign "")
foreach(symbol IN LISTS symbols)
  string(REGEX REPLACE "^[0-9a-f]+ [A-Zuvw] " "" name "${symbol}")
  string(LENGTH "${ISA}" length)
  if(name MATCHES "${length}${ISA}")
    math(EXPR own "${own} + 1")
  elseif(NOT name MATCHES "${harmless}")
    string(APPEND foreign "\n  ${symbol}")
  endif()
endforeach()
if(own EQUAL 0)
  message(FATAL_ERROR "${OBJECT} defines nothing of ${ISA}: was it compiled with its flags?")
endif()
if(NOT foreign STREQUAL "")
  message(FATAL_ERROR "${OBJECT} defines what does not belong to ${ISA}:${foreign}")
endif()
message(STATUS "${own} symbols, all of ${ISA}")
