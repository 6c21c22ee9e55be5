#pragma once

// A device that writes down what it is asked to do and fails when it is told to: host memory behind
// the Backend concept.

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <stdexcept>
#include <string_view>
#include <vector>

#include "pagedkv/core/backend.hpp"
#include "pagedkv/cpu/backend.hpp"

namespace pagedkv_test {

/// The device failed, as it was told to.
struct DeviceError : std::runtime_error {
  DeviceError() : std::runtime_error("the device failed") {}
};

/// One write of int32 elements `[first, first + count)` to the buffer whose bytes begin at
/// `buffer`.
struct RecordedWrite {
  const std::byte* buffer;
  std::size_t first;
  std::size_t count;
};

/// What happened on a device, and what is to happen.
struct Tape {
  static constexpr std::size_t kNever = std::numeric_limits<std::size_t>::max();

  std::vector<RecordedWrite> writes;
  std::size_t row_writes = 0;
  std::size_t allocations = 0;
  std::size_t calls_until_failure = kNever;  ///< 0: the next call fails, once
  bool torn = false;                         ///< a failing write first does its first half

  [[nodiscard]] std::size_t device_writes() const { return writes.size() + row_writes; }

  void clear() { *this = Tape{}; }

  /// Counts one call; true when it is the one that fails.
  bool fails_now() {
    if (calls_until_failure == kNever) return false;
    if (calls_until_failure > 0) {
      --calls_until_failure;
      return false;
    }
    calls_until_failure = kNever;
    return true;
  }
};

template <bool kSurvivesFork>
struct BasicRecordingBackend {
  using Cpu = pagedkv::CpuBackend;
  using Buffer = pagedkv::cpu::Buffer;
  /// Without a tape nothing is recorded and nothing fails.
  struct Device {
    Tape* tape = nullptr;
  };
  struct Context {
    Tape* tape = nullptr;
    Cpu::Context cpu{};
  };

  static constexpr std::string_view name = "recording";
  static constexpr bool survives_fork = kSurvivesFork;

  static Context context(Device device) { return {device.tape}; }

  static Buffer allocate(Device device, pagedkv::DType dtype, std::size_t count, std::byte fill) {
    if (device.tape != nullptr) {
      if (device.tape->fails_now()) throw DeviceError();
      ++device.tape->allocations;
    }
    return Cpu::allocate({}, dtype, count, fill);
  }

  static void write(Context& ctx, Buffer& buffer, std::size_t first,
                    std::span<const std::int32_t> values) {
    if (ctx.tape != nullptr) {
      if (ctx.tape->fails_now()) {
        if (ctx.tape->torn) Cpu::write(ctx.cpu, buffer, first, values.first(values.size() / 2));
        throw DeviceError();
      }
      ctx.tape->writes.push_back({buffer.bytes().data(), first, values.size()});
    }
    Cpu::write(ctx.cpu, buffer, first, values);
  }

  static void write_rows(Context& ctx, Buffer& buffer, const pagedkv::RowCopy& rows,
                         const std::byte* host) {
    if (ctx.tape != nullptr) {
      if (ctx.tape->fails_now()) {
        auto half = rows;
        half.rows /= 2;
        if (ctx.tape->torn) Cpu::write_rows(ctx.cpu, buffer, half, host);
        throw DeviceError();
      }
      ++ctx.tape->row_writes;
    }
    Cpu::write_rows(ctx.cpu, buffer, rows, host);
  }

  static void read(Context& ctx, const Buffer& buffer, std::size_t first,
                   std::span<std::int32_t> out) {
    Cpu::read(ctx.cpu, buffer, first, out);
  }
  static void read_rows(Context& ctx, const Buffer& buffer, const pagedkv::RowCopy& rows,
                        std::byte* host) {
    Cpu::read_rows(ctx.cpu, buffer, rows, host);
  }
  static void copy(Context& ctx, Buffer& to, std::size_t to_first, const Buffer& from,
                   std::size_t from_first, std::size_t count) {
    Cpu::copy(ctx.cpu, to, to_first, from, from_first, count);
  }
};

using RecordingBackend = BasicRecordingBackend<true>;
/// A device whose memory is gone in a forked process, as on a GPU.
using ForkShyBackend = BasicRecordingBackend<false>;

static_assert(pagedkv::Backend<RecordingBackend> && pagedkv::Backend<ForkShyBackend>);

}  // namespace pagedkv_test
