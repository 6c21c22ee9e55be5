#pragma once

// Python integers, dtypes and arrays as the core takes them.

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "bindings.hpp"
#include "pagedkv/core/block_allocator.hpp"
#include "pagedkv/core/dtype.hpp"

namespace pagedkv::python {

/// Anything that Python takes as an index: int, NumPy integers.
class Index : public py::object {
 public:
  PYBIND11_OBJECT_DEFAULT(Index, py::object, PyIndex_Check)
};

/// Array or nested sequence of numbers, not looked at yet.
class ArrayLike : public py::object {
 public:
  PYBIND11_OBJECT_DEFAULT(ArrayLike, py::object, accept)

 private:
  static bool accept(PyObject*) noexcept { return true; }
};

/// A name, NumPy dtype or type, ml_dtypes or torch dtype.
class DTypeLike : public py::object {
 public:
  PYBIND11_OBJECT_DEFAULT(DTypeLike, py::object, accept)

 private:
  static bool accept(PyObject*) noexcept { return true; }
};

/// A size: 0 or more.
/// @throws ShapeError naming `argument` for anything else.
[[nodiscard]] std::size_t to_size(const char* where, const char* argument, const Index& value);

/// An id or index into `size` entries; the core checks that it is below.
/// @throws the Python InvalidSlotError for a negative one, or one of more than 64 bits.
[[nodiscard]] std::size_t to_slot(const char* where, const char* what, const Index& value,
                                  std::size_t size);

/// Block ids that came from Python as a list or an array of integers; no copy of an int32 array.
class BlockIds {
 public:
  /// @throws ShapeError for something else than a list of integers, InvalidSlotError for an id that
  ///         cannot be one of `capacity`.
  BlockIds(const char* where, const py::object& ids, std::size_t capacity);
  [[nodiscard]] std::span<const BlockId> span() const noexcept { return ids_; }

 private:
  py::object owner_;
  std::vector<BlockId> copied_;
  std::span<const BlockId> ids_;
};

/// @throws UnsupportedError for a dtype that is not stored.
[[nodiscard]] DType to_dtype(const char* where, const DTypeLike& dtype);

/// How elements of `dtype` are shown: types that NumPy lacks as unsigned integers of their width,
/// int4 as bytes of two elements.
[[nodiscard]] py::dtype numpy_dtype(DType dtype);

/// An array over `data` that keeps `owner` alive. `shape` counts elements; with int4 the last
/// dimension of the array is half of it.
[[nodiscard]] py::array view_of(const void* data, DType dtype, std::vector<py::ssize_t> shape,
                                py::handle owner, bool writable);

/// `value` as a C-contiguous array of elements of `dtype`: arrays must have that dtype (or show it as
/// `numpy_dtype` does), lists and other sequences are converted.
/// @throws ShapeError for another dtype.
[[nodiscard]] py::array to_elements(const char* where, const char* argument, const py::object& value,
                                    DType dtype);

/// "(2, 3)"
[[nodiscard]] std::string shape_text(const py::array& array);

}  // namespace pagedkv::python

namespace pybind11::detail {
template <>
struct handle_type_name<pagedkv::python::Index> {
  static constexpr auto name = const_name("typing.SupportsIndex");
};
template <>
struct handle_type_name<pagedkv::python::ArrayLike> {
  static constexpr auto name = const_name("numpy.typing.ArrayLike");
};
template <>
struct handle_type_name<pagedkv::python::DTypeLike> {
  static constexpr auto name = const_name("numpy.typing.DTypeLike");
};
}  // namespace pybind11::detail
