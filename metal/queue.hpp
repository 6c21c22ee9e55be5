#pragma once

// What the operations need of a device: that it runs kernels, one after the other.

#include <array>
#include <cstddef>
#include <cstdint>

namespace pagedkv::metal {

/// The constants that a pipeline is specialised by; their numbers are in kernels/common.h.
enum class Constant : std::uint8_t {
  row_type,
  cache_type,
  vector,
  block_size,
  key_dim,
  rope_dim,
  value_dim,
  group,
  tile_rows,
  tile_tokens,
  simdgroups,
  unit_bytes,
  to_cache,
};
inline constexpr std::size_t kNumConstants = 13;

/// An argument of a kernel: device memory from an address on, or bytes of the host.
struct Argument {
  const void* data = nullptr;
  std::size_t host_bytes = 0;  ///< that are copied by the call; 0: an address of the device
};

struct Size {
  std::uint32_t x = 1, y = 1, z = 1;

  friend bool operator==(const Size&, const Size&) = default;
};

/// One run of a kernel.
struct Dispatch {
  static constexpr std::size_t kMaxArguments = 16;

  explicit Dispatch(const char* kernel) : name(kernel) {}

  /// Parameters and arrays are given in the order of the kernel's.
  template <class Params>
  void add_params(const Params& params) {
    add({&params, sizeof params});
  }
  /// Null where the kernel does not read the array.
  void add_array(const void* address) { add({address, 0}); }
  void add(Argument argument) { arguments[num_arguments++] = argument; }
  template <class T>
  void set(Constant constant, T value) {
    constants[static_cast<std::size_t>(constant)] = static_cast<std::uint32_t>(value);
  }
  [[nodiscard]] std::uint32_t operator[](Constant constant) const {
    return constants[static_cast<std::size_t>(constant)];
  }

  const char* name;  ///< of the kernel
  std::array<std::uint32_t, kNumConstants> constants{};
  std::array<Argument, kMaxArguments> arguments{};
  std::size_t num_arguments = 0;
  std::size_t shared_bytes = 0;  ///< of a threadgroup
  Size groups;
  Size threads;  ///< of a threadgroup
};

/// Runs what it is given in order: each dispatch sees what those before it wrote. Arrays are named
/// by the addresses of their shared storage.
class Queue {
 public:
  Queue() = default;
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;
  virtual ~Queue() = default;

  /// @throws ShapeError for an address that is in no buffer of the device, or the device's error.
  virtual void dispatch(const Dispatch& dispatch) = 0;
  /// What was dispatched begins to run, if it has not yet: operations end with this.
  virtual void commit() = 0;
  /// Device memory of at least so many bytes, for dispatches up to the next call of this function.
  virtual void* workspace(std::size_t bytes) = 0;
  /// Device memory of one uint32 that kernels set bits of.
  virtual std::uint32_t* error_word() = 0;
  /// Whether kernels can be given this address.
  [[nodiscard]] virtual bool owns(const void* address) const = 0;
  /// Returns when everything dispatched has run.
  /// @throws the device's error, if that is how it ended.
  virtual void wait() = 0;
};

}  // namespace pagedkv::metal
