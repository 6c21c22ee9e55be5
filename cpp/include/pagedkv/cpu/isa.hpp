#pragma once

// Which instruction sets this processor has, and which one the kernels use.

#include <array>
#include <cstddef>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "pagedkv/core/errors.hpp"

#if defined(_MSC_VER) && !defined(__clang__) && defined(_M_X64)
#include <intrin.h>
#elif defined(__x86_64__)
#include <cpuid.h>
#endif

namespace pagedkv::inline v0_1::cpu {

/// Sets of instructions that kernels are compiled for, weakest first.
enum class Isa : unsigned char {
  generic,      ///< what every processor of the architecture has
  x86_64_v2,    ///< SSE4.2, POPCNT
  avx2,         ///< AVX2, FMA, F16C
  avx512,       ///< AVX-512 F, BW, DQ, VL
  avx512_bf16,  ///< AVX-512 with BF16 and VNNI
  neon,         ///< Advanced SIMD of 64-bit Arm
};

/// Name as `PAGEDKV_ISA` takes it.
[[nodiscard]] constexpr std::string_view isa_name(Isa isa) noexcept {
  constexpr std::array<std::string_view, 6> names{"generic", "x86-64-v2",   "avx2",
                                                  "avx512",  "avx512_bf16", "neon"};
  return names[static_cast<std::size_t>(isa)];
}

/// The sets that this processor has, weakest first.
[[nodiscard]] inline std::vector<Isa> isa_found() {
  std::vector<Isa> found{Isa::generic};
#if defined(__aarch64__) || defined(_M_ARM64)
  found.push_back(Isa::neon);
#elif defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("popcnt")) {
    found.push_back(Isa::x86_64_v2);
  }
  // Not every compiler knows F16C by name.
  unsigned a = 0, b = 0, c = 0, d = 0;
  const bool f16c = __get_cpuid(1, &a, &b, &c, &d) != 0 && (c >> 29 & 1U) != 0;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && f16c) {
    found.push_back(Isa::avx2);
  }
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    found.push_back(Isa::avx512);
    if (__builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni")) {
      found.push_back(Isa::avx512_bf16);
    }
  }
#elif defined(_M_X64)
  std::array<int, 4> leaf{};
  __cpuid(leaf.data(), 1);
  const bool sse42 = (leaf[2] >> 20 & 1) != 0, popcnt = (leaf[2] >> 23 & 1) != 0;
  const bool fma = (leaf[2] >> 12 & 1) != 0, f16c = (leaf[2] >> 29 & 1) != 0;
  const bool os_saves = (leaf[2] >> 27 & 1) != 0;
  const auto saved = os_saves ? _xgetbv(0) : 0;
  if (sse42 && popcnt) found.push_back(Isa::x86_64_v2);
  __cpuidex(leaf.data(), 7, 0);
  const unsigned features = static_cast<unsigned>(leaf[1]);
  const bool vnni = (leaf[2] >> 11 & 1) != 0;
  if ((saved & 0x6) == 0x6 && fma && f16c && (features >> 5 & 1) != 0) found.push_back(Isa::avx2);
  constexpr unsigned kAvx512 = 1U << 16 | 1U << 17 | 1U << 30 | 1U << 31;  // F, DQ, BW, VL
  if ((saved & 0xe6) == 0xe6 && (features & kAvx512) == kAvx512) {
    found.push_back(Isa::avx512);
    __cpuidex(leaf.data(), 7, 1);
    if (vnni && (leaf[0] >> 5 & 1) != 0) found.push_back(Isa::avx512_bf16);
  }
#endif
  return found;
}

/// The set that the environment variable `PAGEDKV_ISA` names; nothing where it is not set.
/// @throws UnsupportedError when this processor does not have it.
[[nodiscard]] inline std::optional<Isa> isa_forced() {
  const char* forced = std::getenv("PAGEDKV_ISA");
  if (forced == nullptr || *forced == '\0') return std::nullopt;
  std::string names;
  for (const Isa isa : isa_found()) {
    if (isa_name(isa) == forced) return isa;
    names += names.empty() ? "" : ", ";
    names += isa_name(isa);
  }
  detail::throw_unsupported(
      "cpu.isa_forced",
      "PAGEDKV_ISA=" + std::string(forced) + "; expected one of " + names + " on this processor");
}

/// The set that is forced, else the strongest that was found.
/// @throws UnsupportedError when `PAGEDKV_ISA` names a set that this processor does not have.
[[nodiscard]] inline Isa isa_chosen() {
  const std::optional<Isa> forced = isa_forced();
  return forced ? *forced : isa_found().back();
}

}  // namespace pagedkv::inline v0_1::cpu
