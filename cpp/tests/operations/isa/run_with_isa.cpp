// pagedkv_run_with_isa ISA COMMAND...: runs the command where the processor has the instruction
// set; else says so and ends with 77. The command itself cannot tell: its very start uses the
// instructions.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "pagedkv/cpu/isa.hpp"

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fputs("usage: pagedkv_run_with_isa ISA COMMAND...\n", stderr);
    return 2;
  }
  const std::string wanted = argv[1];
  const auto found = pagedkv::cpu::isa_found();
  const bool has = std::any_of(found.begin(), found.end(), [&](pagedkv::cpu::Isa isa) {
    std::string name(pagedkv::cpu::isa_name(isa));
    std::replace(name.begin(), name.end(), '-', '_');
    return name == wanted;
  });
  if (!has) {
    std::printf("skipped: this processor does not have %s\n", wanted.c_str());
    return 77;
  }
  std::string command;
  for (int i = 2; i < argc; ++i) command += (i == 2 ? "\"" : " \"") + std::string(argv[i]) + '"';
  return std::system(command.c_str()) == 0 ? 0 : 1;
}
