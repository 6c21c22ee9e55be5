#pragma once

// Rows of plain floats into the dtypes of a cache, and back. The loops hold no branches, and the
// compiler makes vectors of them.

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "pagedkv/cpu/kernels/rows.hpp"
#include "pagedkv/cpu/row_kernels.hpp"

namespace pagedkv::inline v0_1::cpu::PAGEDKV_ISA_NAMESPACE {

/// Elements that are converted at a time where it is not a vector of them.
inline constexpr std::int64_t kPartSize = 64;

/// Floats where both sides are narrower than doubles.
template <DType from, DType to>
using Between = std::conditional_t<from == DType::float64 || to == DType::float64, double, float>;

/// A double as a float whose last bit tells that something was cut off, so that rounding the float
/// once more, to fewer bits, gives what rounding the double would.
[[nodiscard]] inline float to_odd_float(double x) noexcept {
  const auto nearest = static_cast<float>(x);
  const auto bits = std::bit_cast<std::uint32_t>(nearest);
  const double back = nearest;
  const bool larger = x < 0 ? back < x : back > x;
  const std::uint32_t odd = larger ? bits - 1 : bits + 1;
  const bool exact = back == x || x != x || (bits & 1U) != 0;
  return std::bit_cast<float>(exact ? bits : odd);
}

inline constexpr std::int32_t kMagnitude = 0x7fffffff;
inline constexpr std::int32_t kInfinity = 0x7f800000;

/// `magnitude`, the bits of floats that are not negative, rounded to multiples of 2^`exponent` and
/// divided by it. At most 2^22 of them.
template <int exponent>
[[nodiscard]] inline I32 in_units(I32 magnitude) noexcept {
  // The last bit of the sum is worth one unit: the processor rounds.
  const I32 unit = I32::all((127 + 23 + exponent) << 23);
  return I32::bits_of(magnitude.as_float() + unit.as_float()) - unit;
}

/// As float8 with `mantissa` bits of mantissa, values up to `largest`; the smallest normal one is
/// 2^`least`.
template <int mantissa, int least, int largest>
[[nodiscard]] inline I32 to_float8(F32 x) noexcept {
  const I32 all = I32::bits_of(x);
  const I32 magnitude = all & I32::all(kMagnitude);
  const I32 bits =
      min(magnitude, I32::all(std::bit_cast<std::int32_t>(static_cast<float>(largest))));
  constexpr int shift = 23 - mantissa;
  const I32 tie = bits.template shifted_right<shift>() & I32::all(1);
  const I32 normal =
      (bits + I32::all((1 << (shift - 1)) - 1) + tie).template shifted_right<shift>() -
      I32::all((126 + least) << mantissa);
  const I32 first_normal = I32::all((127 + least) << 23);
  const I32 value = select_greater(first_normal, bits, in_units<least - mantissa>(bits), normal);
  const I32 sign = all.template shifted_right<24>() & I32::all(0x80);
  return sign | select_greater(magnitude, I32::all(kInfinity), I32::all(0x7f), value);
}

/// To nearest, ties to even, within [-most - 1, most]; NaN is 0. Only the bits of `mask` are kept.
template <int most, int mask>
[[nodiscard]] inline I32 to_integer(F32 x) noexcept {
  const I32 all = I32::bits_of(x);
  const I32 magnitude = all & I32::all(kMagnitude);
  const I32 above = I32::all(std::bit_cast<std::int32_t>(static_cast<float>(most + 1)));
  const I32 number =
      select_greater(magnitude, I32::all(kInfinity), I32::zero(), min(magnitude, above));
  const I32 negative = all.template shifted_right<31>();  // 1
  const I32 units = min(in_units<0>(number), I32::all(most) + negative);
  const I32 value = select_greater(negative, I32::zero(), I32::zero() - units, units);
  return value & I32::all(mask);
}

/// To nearest, ties to even; NaN stays NaN.
[[nodiscard]] inline I32 to_bfloat16(F32 x) noexcept {
  const I32 bits = I32::bits_of(x);
  const I32 high = bits.template shifted_right<16>();
  const I32 rounded = (bits + I32::all(0x7fff) + (high & I32::all(1))).template shifted_right<16>();
  return select_greater(bits & I32::all(kMagnitude), I32::all(kInfinity), high | I32::all(0x40),
                        rounded);
}

/// A vector of elements as floats, in order; not of int4.
template <DType dtype>
[[nodiscard]] inline F32 load_floats(const std::byte* p) noexcept {
  if constexpr (dtype == DType::bfloat16) {
    return F32::from_bf16(p);
  } else {
    F32 x[1];
    Elements<dtype>::load(p, x);
    return x[0];
  }
}

/// A vector of floats as elements; those of int4 a byte each.
template <DType dtype>
inline void store_floats(F32 x, std::byte* p) noexcept {
  if constexpr (dtype == DType::float32) {
    x.store(reinterpret_cast<float*>(p));
  } else if constexpr (dtype == DType::float16) {
    x.to_f16(p);
  } else if constexpr (dtype == DType::bfloat16) {
    to_bfloat16(x).store_u16(p);
  } else if constexpr (dtype == DType::float8_e4m3) {
    to_float8<3, -6, 448>(x).store_u8(p);
  } else if constexpr (dtype == DType::float8_e5m2) {
    to_float8<2, -14, 57344>(x).store_u8(p);
  } else if constexpr (dtype == DType::int8) {
    to_integer<127, 255>(x).store_u8(p);
  } else {
    static_assert(dtype == DType::int4);
    to_integer<7, 15>(x).store_u8(p);
  }
}

/// Bytes of an element between `store_floats` and the row.
template <DType dtype>
inline constexpr std::int64_t kStoredBytes = dtype == DType::int4 ? 1 : dtype_bits(dtype) / 8;

/// Packs elements of int4, a byte each, into a row.
inline void pack_int4(const std::byte* codes, std::byte* to, std::int64_t size) noexcept {
  std::int64_t i = 0;
  if constexpr (std::endian::native == std::endian::little) {
    for (; i + 8 <= size; i += 8, to += 4) {
      std::uint64_t x;
      std::memcpy(&x, codes + i, 8);
      x = (x | x >> 4) & 0x00ff00ff00ff00ffU;
      x = (x | x >> 8) & 0x0000ffff0000ffffU;
      const auto packed = static_cast<std::uint32_t>(x | x >> 16);
      std::memcpy(to, &packed, 4);
    }
  }
  for (; i < size; i += 2) *to++ = codes[i] | codes[i + 1] << 4;
}

/// Calls `work` for a row of floats, a vector at a time, and writes what it returns.
/// @param read  gives the vector from element i on; of fewer than a vector, the first `count` lanes
///              matter.
template <DType target, class Read>
inline void write_vectors(std::byte* to, std::int64_t size, Read&& read) noexcept {
  constexpr std::int64_t bytes = kStoredBytes<target>, width = F32::width;
  if constexpr (target == DType::int4) {
    constexpr std::int64_t part_size = 64;
    for (std::int64_t done = 0; done < size; done += part_size) {
      const std::int64_t count = size - done < part_size ? size - done : part_size;
      std::byte codes[part_size];
      for (std::int64_t i = 0; i < count; i += width) {
        store_floats<target>(read(done + i, size - done - i), codes + i);
      }
      pack_int4(codes, to + done / 2, count);
    }
  } else {
    std::int64_t i = 0;
    for (; i + width <= size; i += width) store_floats<target>(read(i, width), to + i * bytes);
    if (i < size) {
      std::byte last[bytes * width];
      store_floats<target>(read(i, size - i), last);
      std::memcpy(to + i * bytes, last, static_cast<std::size_t>((size - i) * bytes));
    }
  }
}

/// Writes a row of floats.
template <DType target>
inline void write_floats(const float* from, std::byte* to, std::int64_t size) noexcept {
  write_vectors<target>(to, size, [from](std::int64_t i, std::int64_t count) {
    if (count >= F32::width) return F32::load(from + i);
    float last[F32::width] = {};
    for (std::int64_t j = 0; j < count; ++j) last[j] = from[i + j];
    return F32::load(last);
  });
}

/// The same of at most `kPartSize` doubles.
template <DType target>
inline void write_floats(const double* from, std::byte* to, std::int64_t size) noexcept {
  if constexpr (target == DType::float64) {
    std::memcpy(to, from, static_cast<std::size_t>(size) * 8);
  } else {
    float narrow[kPartSize];
    for (std::int64_t i = 0; i < size; ++i) {
      narrow[i] = target == DType::float32 ? static_cast<float>(from[i]) : to_odd_float(from[i]);
    }
    write_floats<target>(narrow, to, size);
  }
}

/// Calls `work(part, done, count)` with parts of a row in order.
template <DType source, class T, class Work>
inline void in_parts(const std::byte* from, std::int64_t size, Work&& work) noexcept {
  T part[kPartSize];
  for (std::int64_t done = 0; done < size; done += kPartSize) {
    const std::int64_t count = size - done < kPartSize ? size - done : kPartSize;
    read_row<source>(from + bytes_of_elements(source, done), part, count);
    work(part, done, count);
  }
}

/// A row becomes one of another dtype, each element through `change`.
template <DType source, DType target, class Change>
inline void convert_row(const std::byte* from, std::byte* to, std::int64_t size,
                        Change&& change) noexcept {
  using T = Between<source, target>;
  if constexpr (std::is_same_v<T, double> || source == DType::int4) {
    in_parts<source, T>(from, size, [&](T* part, std::int64_t done, std::int64_t count) {
      for (std::int64_t i = 0; i < count; ++i) part[i] = change(part[i]);
      write_floats<target>(part, to + bytes_of_elements(target, done), count);
    });
  } else {
    write_vectors<target>(to, size, [&](std::int64_t i, std::int64_t count) {
      constexpr std::int64_t bytes = dtype_bits(source) / 8;
      if (count >= F32::width) return change(load_floats<source>(from + i * bytes));
      std::byte last[bytes * F32::width] = {};
      std::memcpy(last, from + i * bytes, static_cast<std::size_t>(count * bytes));
      return change(load_floats<source>(last));
    });
  }
}

template <DType source, DType target>
inline void quantize_row(const std::byte* from, std::byte* to, std::int64_t size,
                         float scale) noexcept {
  if (scale == 1) {
    return convert_row<source, target>(from, to, size, [](auto x) { return x; });
  }
  const F32 by = F32::all(scale);
  convert_row<source, target>(from, to, size, [&](auto x) {
    if constexpr (std::is_same_v<decltype(x), F32>) {
      return x / by;
    } else {
      return x / static_cast<decltype(x)>(scale);
    }
  });
}

template <DType source, DType target>
inline void dequantize_row(const std::byte* from, std::byte* to, std::int64_t size,
                           float scale) noexcept {
  const F32 by = F32::all(scale);
  convert_row<source, target>(from, to, size, [&](auto x) {
    if constexpr (std::is_same_v<decltype(x), F32>) {
      return x * by;
    } else {
      return x * static_cast<decltype(x)>(scale);
    }
  });
}

/// `f.template operator()<dtype>()` for a plain float.
template <class F>
inline auto with_plain_float(DType dtype, F&& f) noexcept {
  switch (dtype) {
    case DType::float64: return f.template operator()<DType::float64>();
    case DType::float16: return f.template operator()<DType::float16>();
    case DType::bfloat16: return f.template operator()<DType::bfloat16>();
    default: return f.template operator()<DType::float32>();
  }
}

/// `f.template operator()<dtype>()` for any dtype of a cache.
template <class F>
inline auto with_any_dtype(DType dtype, F&& f) noexcept {
  switch (dtype) {
    case DType::float8_e4m3: return f.template operator()<DType::float8_e4m3>();
    case DType::float8_e5m2: return f.template operator()<DType::float8_e5m2>();
    case DType::int8: return f.template operator()<DType::int8>();
    case DType::int4: return f.template operator()<DType::int4>();
    default: return with_plain_float(dtype, f);
  }
}

inline ConvertRow quantize(DType from, DType to) noexcept {
  return with_plain_float(from, [to]<DType source>() {
    return with_any_dtype(
        to, []<DType target>() -> ConvertRow { return &quantize_row<source, target>; });
  });
}

inline ConvertRow dequantize(DType from, DType to) noexcept {
  return with_any_dtype(from, [to]<DType source>() {
    return with_plain_float(
        to, []<DType target>() -> ConvertRow { return &dequantize_row<source, target>; });
  });
}

inline double largest(DType dtype, const std::byte* row, std::int64_t size) noexcept {
  return with_plain_float(dtype, [&]<DType source>() -> double {
    using T = Between<source, DType::float32>;
    using V = std::conditional_t<source == DType::float64, F64, F32>;
    V found = V::zero();
    const auto add = [&found](V value) {
      const V x = abs(value);
      found = select_less(found, x, x, found);  // never NaN
    };
    T last = 0;
    std::int64_t i = 0;
    if constexpr (source != DType::float64) {
      for (; i + V::width <= size; i += V::width) {
        add(load_floats<source>(row + bytes_of_elements(source, i)));
      }
    } else {
      for (; i + V::width <= size; i += V::width) {
        add(V::load(reinterpret_cast<const double*>(row) + i));
      }
    }
    if (i < size) {
      T rest[V::width] = {};
      read_row<source>(row + bytes_of_elements(source, i), rest, size - i);
      add(V::load(rest));
    }
    T lanes[V::width];
    found.store(lanes);
    for (const T x : lanes) last = x > last ? x : last;
    constexpr T limit = std::numeric_limits<float>::max();
    return last < limit ? last : limit;
  });
}

}  // namespace pagedkv::inline v0_1::cpu::PAGEDKV_ISA_NAMESPACE
