// The CPU as a device: buffers, ranges, rectangles, copies.

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <numeric>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "expect_error.hpp"
#include "pagedkv/cpu/backend.hpp"

namespace {

using namespace pagedkv;
using cpu::Buffer;
using pagedkv_test::expect_error;

constexpr auto kMax = static_cast<std::size_t>(-1);

Buffer counting(std::size_t size) {
  Buffer buffer(DType::int32, size);
  const auto values = buffer.as<std::int32_t>();
  std::iota(values.begin(), values.end(), 0);
  return buffer;
}

std::vector<std::int32_t> all(const Buffer& buffer) {
  const auto values = buffer.as<std::int32_t>();
  return {values.begin(), values.end()};
}

TEST(CpuBuffer, IsZeroedAlignedAndOfItsDtype) {
  const Buffer buffer(DType::float16, 5);
  EXPECT_EQ(buffer.dtype(), DType::float16);
  EXPECT_EQ(buffer.size(), 5u);
  EXPECT_EQ(buffer.bytes().size(), 10u);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(buffer.bytes().data()) % 64, 0u);
  for (const auto value : buffer.as<std::uint16_t>()) EXPECT_EQ(value, 0);
}

TEST(CpuBuffer, HoldsTwoInt4ElementsAByte) {
  EXPECT_EQ(Buffer(DType::int4, 6).bytes().size(), 3u);
  EXPECT_THROW(Buffer(DType::int4, 5), ShapeError);
}

TEST(CpuBuffer, RefusesToShowItselfAsAnotherType) {
  Buffer buffer(DType::float32, 4);
  buffer.as<float>()[3] = 1.5f;
  expect_error<ShapeError>([&] { (void)buffer.as<double>(); }, "cpu.Buffer.as",
                           "does not hold float32", "one that does");
  expect_error<ShapeError>([&] { (void)std::as_const(buffer).as<std::int32_t>(); }, "cpu.Buffer.as",
                           "does not hold float32", "one that does");
}

TEST(CpuBuffer, OfNothingIsEmpty) {
  EXPECT_EQ(Buffer().size(), 0u);
  EXPECT_TRUE(Buffer().bytes().empty());
  EXPECT_TRUE(Buffer(DType::int32, 0).as<std::int32_t>().empty());
}

TEST(CpuBackend, AllocatesWithEveryByteAsAskedFor) {
  const auto ones = CpuBackend::allocate({}, DType::int32, 3, std::byte{0xff});
  EXPECT_EQ(all(ones), (std::vector<std::int32_t>{-1, -1, -1}));
  const auto zeros = CpuBackend::allocate({}, DType::int32, 2);
  EXPECT_EQ(all(zeros), (std::vector<std::int32_t>{0, 0}));
}

TEST(CpuBackend, WritesAndReadsARange) {
  auto ctx = CpuBackend::context({});
  auto buffer = counting(5);
  CpuBackend::write(ctx, buffer, 1, std::array{10, 20});
  EXPECT_EQ(all(buffer), (std::vector<std::int32_t>{0, 10, 20, 3, 4}));
  std::array<std::int32_t, 3> out{};
  CpuBackend::read(ctx, buffer, 2, out);
  EXPECT_EQ(out, (std::array{20, 3, 4}));
  CpuBackend::write(ctx, buffer, 5, {});  // nothing, at the very end
  CpuBackend::read(ctx, buffer, 5, {});
}

TEST(CpuBackend, RefusesARangeOutsideTheBufferAndWritesNothing) {
  auto ctx = CpuBackend::context({});
  auto buffer = counting(3);
  std::array<std::int32_t, 2> two{7, 7};
  for (const std::size_t first : {std::size_t{2}, std::size_t{4}, kMax}) {
    expect_error<ShapeError>([&] { CpuBackend::write(ctx, buffer, first, two); },
                             "CpuBackend.write", "elements " + std::to_string(first),
                             "inside the buffer's 3");
    expect_error<ShapeError>([&] { CpuBackend::read(ctx, buffer, first, two); }, "CpuBackend.read",
                             "elements " + std::to_string(first), "inside the buffer's 3");
  }
  EXPECT_EQ(all(buffer), (std::vector<std::int32_t>{0, 1, 2}));
  EXPECT_EQ(two[0], 7);
}

TEST(CpuBackend, RefusesToWriteInt32IntoAnotherDtype) {
  auto ctx = CpuBackend::context({});
  Buffer floats(DType::float32, 4);
  EXPECT_THROW(CpuBackend::write(ctx, floats, 0, std::array{1}), ShapeError);
}

TEST(CpuBackend, MovesARectangleBothWays) {
  auto ctx = CpuBackend::context({});
  Buffer buffer(DType::int8, 12);
  // 3 rows of 2 bytes: 4 apart on the device from byte 1, 3 apart on the host.
  const RowCopy rows{.rows = 3, .width = 2, .device_offset = 1, .device_pitch = 4, .host_pitch = 3};
  std::array<std::byte, 8> host{};
  for (std::size_t i = 0; i < host.size(); ++i) host[i] = static_cast<std::byte>(i + 1);
  CpuBackend::write_rows(ctx, buffer, rows, host.data());
  const std::array<std::int8_t, 12> expected{0, 1, 2, 0, 0, 4, 5, 0, 0, 7, 8, 0};
  EXPECT_TRUE(std::ranges::equal(buffer.as<std::int8_t>(), expected));

  std::array<std::byte, 8> back{};
  CpuBackend::read_rows(ctx, buffer, rows, back.data());
  host[2] = host[5] = std::byte{0};  // between the rows nothing is read or written
  EXPECT_EQ(back, host);
}

TEST(CpuBackend, RefusesARectangleOutsideTheBuffer) {
  auto ctx = CpuBackend::context({});
  Buffer buffer(DType::int8, 12);
  std::array<std::byte, 64> host{};
  const std::array<RowCopy, 5> outside{{{3, 2, 3, 4, 2},  // the last row ends one byte behind
                                        {1, 13, 0, 0, 0},
                                        {1, 1, 12, 0, 0},
                                        {1, 1, kMax, 0, 0},
                                        {kMax, 2, 0, kMax, 0}}};
  for (const auto& rows : outside) {
    EXPECT_THROW(CpuBackend::write_rows(ctx, buffer, rows, host.data()), ShapeError);
    EXPECT_THROW(CpuBackend::read_rows(ctx, buffer, rows, host.data()), ShapeError);
  }
  expect_error<ShapeError>([&] { CpuBackend::write_rows(ctx, buffer, outside[0], host.data()); },
                           "CpuBackend.write_rows", "3 rows of 2 bytes from byte 3",
                           "inside the buffer's 12 bytes");
  expect_error<ShapeError>([&] { CpuBackend::read_rows(ctx, buffer, outside[2], host.data()); },
                           "CpuBackend.read_rows", "1 rows of 1 bytes from byte 12",
                           "inside the buffer's 12 bytes");
}

TEST(CpuBackend, ARectangleOfNothingNeedsNoMemory) {
  auto ctx = CpuBackend::context({});
  Buffer buffer(DType::int8, 0);
  CpuBackend::write_rows(ctx, buffer, {0, 4, 9, 4, 4}, nullptr);
  CpuBackend::write_rows(ctx, buffer, {4, 0, 9, 4, 4}, nullptr);
  CpuBackend::read_rows(ctx, buffer, {0, 4, 9, 4, 4}, nullptr);
}

TEST(CpuBackend, CopiesARangeAlsoWhenItOverlaps) {
  auto ctx = CpuBackend::context({});
  auto buffer = counting(6);
  CpuBackend::copy(ctx, buffer, 1, buffer, 0, 4);
  EXPECT_EQ(all(buffer), (std::vector<std::int32_t>{0, 0, 1, 2, 3, 5}));
  Buffer empty(DType::int32, 0);
  CpuBackend::copy(ctx, empty, 0, empty, 0, 0);
}

TEST(CpuBackend, CopiesWholeBytesOfInt4Alone) {
  auto ctx = CpuBackend::context({});
  Buffer from(DType::int4, 4);
  from.bytes()[1] = std::byte{0x21};
  Buffer to(DType::int4, 4);
  CpuBackend::copy(ctx, to, 0, from, 2, 2);
  EXPECT_EQ(to.bytes()[0], std::byte{0x21});
  EXPECT_THROW(CpuBackend::copy(ctx, to, 1, from, 0, 2), ShapeError);
}

TEST(CpuBackend, RefusesToCopyOutsideABufferOrAcrossDtypes) {
  auto ctx = CpuBackend::context({});
  auto buffer = counting(4);
  Buffer floats(DType::float32, 4);
  expect_error<ShapeError>([&] { CpuBackend::copy(ctx, buffer, 0, floats, 0, 1); },
                           "CpuBackend.copy", "int32 and float32", "one dtype");
  expect_error<ShapeError>([&] { CpuBackend::copy(ctx, buffer, 3, buffer, 0, 2); },
                           "CpuBackend.copy", "elements 3 to 3 + 2", "inside the buffer's 4");
  expect_error<ShapeError>([&] { CpuBackend::copy(ctx, buffer, 0, buffer, kMax, 2); },
                           "CpuBackend.copy", "elements 1844", "inside the buffer's 4");
  EXPECT_EQ(all(buffer), (std::vector<std::int32_t>{0, 1, 2, 3}));
}

}  // namespace
