#pragma once

// The binary interface of DLPack (dmlc/dlpack, version 1), as much of it as reading an array takes.

#include <cstdint>

namespace pagedkv::python::dlpack {

/// Kinds of memory; `is_host` says which the CPU reads.
inline constexpr std::int32_t kCpu = 1;
inline constexpr std::int32_t kCudaHost = 3;
inline constexpr std::int32_t kRocmHost = 11;
inline constexpr std::int32_t kCuda = 2;
inline constexpr std::int32_t kCudaManaged = 13;
inline constexpr std::int32_t kMetal = 8;

/// Kinds of elements.
inline constexpr std::uint8_t kInt = 0;
inline constexpr std::uint8_t kUInt = 1;
inline constexpr std::uint8_t kFloat = 2;
inline constexpr std::uint8_t kBfloat = 4;
inline constexpr std::uint8_t kBool = 6;
inline constexpr std::uint8_t kFloat8E4m3fn = 10;
inline constexpr std::uint8_t kFloat8E5m2 = 12;

inline constexpr std::uint64_t kReadOnly = 1;

struct Device {
  std::int32_t type;
  std::int32_t id;
};

/// Whether the CPU reads the memory of that device.
[[nodiscard]] constexpr bool is_host(Device device) noexcept {
  return device.type == kCpu || device.type == kCudaHost || device.type == kRocmHost;
}

struct DataType {
  std::uint8_t code;
  std::uint8_t bits;
  std::uint16_t lanes;
};

struct Tensor {
  void* data;
  Device device;
  std::int32_t ndim;
  DataType dtype;
  std::int64_t* shape;
  std::int64_t* strides;  ///< in elements; null: one row after the other
  std::uint64_t byte_offset;
};

/// What a capsule named "dltensor" holds.
struct ManagedTensor {
  Tensor tensor;
  void* context;
  void (*deleter)(ManagedTensor*);
};

/// What a capsule named "dltensor_versioned" holds.
struct VersionedTensor {
  std::uint32_t major;
  std::uint32_t minor;
  void* context;
  void (*deleter)(VersionedTensor*);
  std::uint64_t flags;
  Tensor tensor;
};

/// Functions of a library in a capsule named "dlpack_exchange_api", which stays for good.
struct ExchangeApi {
  std::uint32_t major;
  std::uint32_t minor;
  ExchangeApi* older;  ///< one of another major version
  int (*allocate)(Tensor*, VersionedTensor**, void*, void (*)(void*, const char*, const char*));
  int (*to_managed)(void*, VersionedTensor**);
  int (*from_managed)(VersionedTensor*, void**);
  int (*view)(void*, Tensor*);  ///< of an array that stays its library's; may be null
  int (*current_stream)(std::int32_t, std::int32_t, void**);
};

}  // namespace pagedkv::python::dlpack
