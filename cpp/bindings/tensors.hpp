#pragma once

// Arrays as the operations take them: NumPy's, torch's, and any that speak DLPack, without a copy.

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <utility>

#include "arrays.hpp"
#include "dlpack.hpp"

namespace pagedkv::python {

/// An array of the caller's kind; python/pagedkv/ops.py says more about types than signatures here.
using AnyTensor = Named<"typing.Any">;

/// An element type: one that is stored, or integers that may stand for one.
struct ElementType {
  char kind = 0;  ///< f: floats of IEEE 754, b: bfloat16, 4: e4m3, 5: e5m2, i, u: integers, ?: bool
  std::size_t bytes = 0;

  [[nodiscard]] std::string name() const;
  friend bool operator==(ElementType, ElementType) = default;
};

/// The operation that is called, for messages, and the device of its arrays: that of the first.
class Site {
 public:
  // NOLINTNEXTLINE(google-explicit-constructor): it stands where a name would.
  constexpr Site(const char* function) noexcept : function_(function) {}
  // NOLINTNEXTLINE(google-explicit-constructor)
  constexpr operator const char*() const noexcept { return function_; }

  /// @throws UnsupportedError for a device on which this module's operations do not run, or another
  ///         one than the first array's.
  void meet(const char* argument, py::handle array, dlpack::Device device) const;
  /// The first array that an operation runs beside; null before one was met.
  [[nodiscard]] py::handle first() const noexcept { return first_; }
  [[nodiscard]] dlpack::Device device() const noexcept { return device_; }

 private:
  const char* function_;
  mutable py::handle first_;
  mutable dlpack::Device device_{dlpack::kCpu, 0};
};

/// Where an array may lie.
enum class Place : unsigned char {
  device,  ///< where the operation runs
  either,  ///< there, or in memory of the CPU
};

/// An array where it lies. It must not outlive the object that it was made from.
class Tensor {
 public:
  static constexpr std::size_t kMaxDims = 4;

  /// @throws ShapeError for what is no array, or one of elements that nothing here takes;
  ///         UnsupportedError for one on another device, or that records gradients.
  Tensor(const Site& site, const char* argument, py::handle value, Place place = Place::device);

  /// Whether it is in memory of the CPU that the operation's device does not use.
  [[nodiscard]] bool on_host() const noexcept { return on_host_; }
  /// Whether the CPU reads it, also where the operation's device does.
  [[nodiscard]] bool is_host() const noexcept { return is_host_; }

  [[nodiscard]] std::byte* data() const noexcept { return data_; }
  [[nodiscard]] ElementType type() const noexcept { return type_; }
  [[nodiscard]] std::size_t ndim() const noexcept { return ndim_; }
  [[nodiscard]] std::int64_t size(std::size_t dim) const noexcept { return shape_[dim]; }
  /// In bytes. Of a dimension of one entry it is as if the array were contiguous.
  [[nodiscard]] std::int64_t stride(std::size_t dim) const noexcept { return strides_[dim]; }
  [[nodiscard]] std::string shape_text() const;

  /// What its elements are. Raw integers are what is `named`, else uint16 are bfloat16 and int8
  /// int8.
  /// @throws ShapeError for elements of another dtype than the one named, uint8 where none is
  /// named,
  ///         and any that are never stored.
  [[nodiscard]] DType dtype(const std::optional<DType>& named) const;

  /// True for integers of 8 or 16 bits, which may stand for elements that their library lacks.
  [[nodiscard]] bool is_raw() const noexcept;

  /// @throws ShapeError naming `expected` when there are not `ndim` dimensions.
  void expect_dims(std::size_t ndim, const char* expected) const;
  /// @throws ShapeError unless, besides, the elements of the last dimension are neighbours.
  void expect_rows() const;
  /// @throws ShapeError unless elements are aligned, and no stride is negative.
  void expect_aligned() const;
  /// @throws ShapeError when it must not be written to.
  void expect_writable() const;
  [[noreturn]] void refuse(const std::string& given, const std::string& expected) const;

  /// A new array of the same library, of `dtype` or, if there is none, of that of this one.
  /// @returns the array, and where it lies.
  [[nodiscard]] std::pair<py::object, std::byte*> make_like(
      std::initializer_list<std::int64_t> shape, const std::optional<DType>& dtype = {}) const;

 private:
  void read_numpy(const py::array& array);
  void read_torch(py::handle value);
  [[nodiscard]] dlpack::Device dlpack_device(py::handle value) const;
  void read_dlpack(py::handle value, dlpack::Device device);
  void read_view(const dlpack::Tensor& tensor);
  void meet(const Site& site, dlpack::Device device, Place place);
  void set_strides();

  const char* where_;
  const char* argument_;
  py::handle value_;
  py::object owner_;  ///< a capsule, where there is one
  bool is_torch_ = false;
  bool on_host_ = false;
  bool is_host_ = false;
  bool writable_ = true;
  ElementType type_;
  std::byte* data_ = nullptr;
  std::size_t ndim_ = 0;
  std::array<std::int64_t, kMaxDims> shape_{};
  std::array<std::int64_t, kMaxDims> strides_{};
};

}  // namespace pagedkv::python
