// Which instruction sets are found, and which one is used.

#include "pagedkv/cpu/isa.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <string>

#include "expect_error.hpp"

namespace {

using namespace pagedkv;
using cpu::Isa;
using pagedkv_test::expect_error;

/// Sets `PAGEDKV_ISA` for one test.
class ForcedIsa : public testing::Test {
 protected:
  ForcedIsa() {
    if (const char* value = std::getenv(kName)) before_ = value;
  }
  ~ForcedIsa() override { force(before_); }

  static void force(const std::string& isa) {
#if defined(_WIN32)
    _putenv_s(kName, isa.c_str());
#else
    ::setenv(kName, isa.c_str(), 1);
#endif
  }

 private:
  static constexpr const char* kName = "PAGEDKV_ISA";
  std::string before_;
};

TEST(Isa, WhatIsFoundBeginsWithGenericAndGrows) {
  const auto found = cpu::isa_found();
  ASSERT_FALSE(found.empty());
  EXPECT_EQ(found.front(), Isa::generic);
  EXPECT_TRUE(std::ranges::is_sorted(found));
}

TEST(Isa, HasTheNamesThatTheVariableTakes) {
  EXPECT_EQ(cpu::isa_name(Isa::generic), "generic");
  EXPECT_EQ(cpu::isa_name(Isa::x86_64_v2), "x86-64-v2");
  EXPECT_EQ(cpu::isa_name(Isa::avx2), "avx2");
  EXPECT_EQ(cpu::isa_name(Isa::avx512), "avx512");
  EXPECT_EQ(cpu::isa_name(Isa::avx512_bf16), "avx512_bf16");
  EXPECT_EQ(cpu::isa_name(Isa::neon), "neon");
}

TEST_F(ForcedIsa, TheStrongestFoundIsChosenWhenNothingIsForced) {
  force("");
  EXPECT_EQ(cpu::isa_chosen(), cpu::isa_found().back());
}

TEST_F(ForcedIsa, EachSetThatWasFoundCanBeForced) {
  for (const Isa isa : cpu::isa_found()) {
    force(std::string(cpu::isa_name(isa)));
    EXPECT_EQ(cpu::isa_chosen(), isa);
  }
}

TEST_F(ForcedIsa, ASetThatThisProcessorDoesNotHaveIsRefused) {
  force("abacus");
  expect_error<UnsupportedError>([] { (void)cpu::isa_chosen(); }, "cpu.isa_forced",
                                 "PAGEDKV_ISA=abacus", "one of generic");
}

}  // namespace
