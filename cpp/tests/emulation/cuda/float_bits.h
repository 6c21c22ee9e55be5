#pragma once

// Floats of 16 and 8 bits as integers: written once more here, apart from the kernels, so that the
// two check each other.

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace pagedkv::simt {

/// A small float of IEEE's form: a sign, `exponent` bits, `mantissa` bits.
template <int exponent, int mantissa, bool infinities = true>
struct SmallFloat {
  static constexpr int kBias = (1 << (exponent - 1)) - 1;
  static constexpr unsigned kMagnitude = (1U << (exponent + mantissa)) - 1;
  static constexpr unsigned kSign = kMagnitude + 1;
  /// The smallest magnitude that is not finite.
  static constexpr unsigned kBeyond = infinities ? ((1U << exponent) - 1) << mantissa : kMagnitude;
  static constexpr unsigned kNaN = infinities ? kBeyond | 1U << (mantissa - 1) : kMagnitude;

  static float decode(unsigned bits) {
    const unsigned magnitude = bits & kMagnitude;
    const float sign = (bits & kSign) != 0 ? -1.0F : 1.0F;
    if (magnitude >= kBeyond) {
      return infinities && magnitude == kBeyond ? sign * std::numeric_limits<float>::infinity()
                                                : std::numeric_limits<float>::quiet_NaN();
    }
    const int field = static_cast<int>(magnitude >> mantissa);
    const auto fraction = static_cast<float>(magnitude & ((1U << mantissa) - 1));
    const float value = field == 0
                            ? std::ldexp(fraction, 1 - kBias - mantissa)
                            : std::ldexp(fraction + (1 << mantissa), field - kBias - mantissa);
    return sign * value;
  }

  /// To nearest, ties to even; what is too large becomes infinite, or where `saturate` says so the
  /// largest finite value.
  static unsigned encode(float x, bool saturate = false) {
    const unsigned sign = std::signbit(x) ? kSign : 0;
    if (x != x) return sign | kNaN;
    const float magnitude = std::fabs(x);
    unsigned bits = kBeyond;
    if (std::isfinite(magnitude)) {
      int power = 0;
      std::frexp(magnitude, &power);  // magnitude is in [2^(power - 1), 2^power)
      int unit = power - 1 - mantissa;
      if (unit < 1 - kBias - mantissa || magnitude == 0) unit = 1 - kBias - mantissa;
      // A whole number of units: rounding up into the next power carries into the exponent.
      const double units = std::nearbyint(std::ldexp(static_cast<double>(magnitude), -unit));
      const int field = unit - (1 - kBias - mantissa);
      const double all = field * std::ldexp(1.0, mantissa) + units;
      bits = all < kBeyond ? static_cast<unsigned>(all) : kBeyond;
    }
    return sign | (bits == kBeyond && saturate ? kBeyond - 1 : bits);
  }
};

using Float16 = SmallFloat<5, 10>;
using BFloat16 = SmallFloat<8, 7>;
using Float8E5M2 = SmallFloat<5, 2>;
/// Without infinities: the largest magnitude is NaN, all others are finite.
using Float8E4M3 = SmallFloat<4, 3, false>;

}  // namespace pagedkv::simt
