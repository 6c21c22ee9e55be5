#include "arrays.hpp"

#include <algorithm>
#include <limits>
#include <string_view>

namespace pagedkv::python {
namespace {

using UInt8Array = py::array_t<std::uint8_t>;

/// The integer as Python shows it.
std::string text(py::handle value) { return py::str(value).cast<std::string>(); }

std::string name_of(py::handle dtype) { return text(dtype.attr("name")); }

bool is_native(const py::dtype& dtype) {
  const char order = dtype.byteorder();
  return order == '=' || order == '|';
}

/// True when `array` holds elements of `dtype`, under its own name or as `numpy_dtype` shows it.
bool holds(const py::array& array, DType dtype) {
  const py::dtype given = array.dtype();
  if (given.is(numpy_dtype(dtype))) return true;
  if (!is_native(given)) return false;
  if (given.equal(numpy_dtype(dtype))) return true;
  const std::string name = name_of(given);
  return name == dtype_name(dtype) || (dtype == DType::float8_e4m3 && name == "float8_e4m3fn");
}

}  // namespace

std::size_t to_size(const char* where, const char* argument, const Index& value) {
  const auto number = py::reinterpret_steal<py::object>(PyNumber_Index(value.ptr()));
  if (!number) throw py::error_already_set();
  const std::size_t size = PyLong_AsSize_t(number.ptr());
  if (size == std::numeric_limits<std::size_t>::max() && PyErr_Occurred() != nullptr) {
    PyErr_Clear();
    pagedkv::detail::throw_shape(where, std::string(argument) + " is " + text(number) +
                                            "; expected 0 to 2^64 - 1");
  }
  return size;
}

std::size_t to_slot(const char* where, const char* what, const Index& value, std::size_t size) {
  const auto number = py::reinterpret_steal<py::object>(PyNumber_Index(value.ptr()));
  if (!number) throw py::error_already_set();
  const std::size_t slot = PyLong_AsSize_t(number.ptr());
  if (slot == std::numeric_limits<std::size_t>::max() && PyErr_Occurred() != nullptr) {
    PyErr_Clear();
    raise_invalid_slot(where, what, number, size);
  }
  return slot;
}

BlockIds::BlockIds(const char* where, const py::object& ids, std::size_t capacity) {
  py::array array;
  if (py::isinstance<py::array>(ids)) {
    array = py::reinterpret_borrow<py::array>(ids);
  } else {
    array = py::module_::import("numpy").attr("asarray")(ids);
    // An empty list has no integer type of its own.
    if (array.size() == 0 && array.ndim() == 1) array = py::array_t<std::int32_t>(0);
  }
  if (array.ndim() != 1 || (array.dtype().kind() != 'i' && array.dtype().kind() != 'u')) {
    pagedkv::detail::throw_shape(where, "block ids of dtype " + name_of(array.dtype()) +
                                            " and shape " + shape_text(array) +
                                            "; expected a list or 1-D array of integers");
  }
  const auto size = static_cast<std::size_t>(array.size());
  const bool in_place = array.dtype().is(py::dtype::of<std::int32_t>()) &&
                        (array.flags() & py::array::c_style) != 0;
  if (in_place) {
    const std::span values(static_cast<const std::int32_t*>(array.data()), size);
    const auto lowest = std::ranges::min_element(values);
    if (lowest != values.end() && *lowest < 0) {
      raise_invalid_slot(where, "block id", py::int_(*lowest), capacity);
    }
    owner_ = array;
    // Not negative, so the bits are those of the unsigned id.
    ids_ = {reinterpret_cast<const BlockId*>(values.data()), size};
    return;
  }
  copied_.reserve(size);
  for (const py::handle item : array) {
    const auto id = to_slot(where, "block id", py::reinterpret_borrow<Index>(item), capacity);
    if (id >= capacity) raise_invalid_slot(where, "block id", item, capacity);
    copied_.push_back(static_cast<BlockId>(id));
  }
  ids_ = copied_;
}

DType to_dtype(const char* where, const DTypeLike& dtype) {
  std::string name;
  if (py::isinstance<py::str>(dtype)) {
    name = dtype.cast<std::string>();
  } else if (PyType_Check(dtype.ptr()) != 0) {
    name = name_of(py::dtype::from_args(dtype));
  } else if (py::hasattr(dtype, "name")) {
    name = name_of(dtype);
  } else {
    name = text(dtype);
  }
  constexpr std::string_view torch = "torch.";
  std::string_view stem = name;
  if (stem.starts_with(torch)) stem.remove_prefix(torch.size());
  if (stem == "float8_e4m3fn") stem = "float8_e4m3";
  const auto parsed = parse_dtype(stem);
  if (!parsed || *parsed == DType::int32) {
    pagedkv::detail::throw_unsupported(
        where, "dtype " + name +
                   "; expected float64, float32, float16, bfloat16, float8_e4m3, float8_e5m2, int8 "
                   "or int4");
  }
  return *parsed;
}

py::dtype numpy_dtype(DType dtype) {
  switch (dtype) {
    case DType::float64: return py::dtype::of<double>();
    case DType::float32: return py::dtype::of<float>();
    case DType::float16: return py::dtype("float16");
    case DType::bfloat16: return py::dtype::of<std::uint16_t>();
    case DType::float8_e4m3:
    case DType::float8_e5m2:
    case DType::int4: return py::dtype::of<std::uint8_t>();
    case DType::int8: return py::dtype::of<std::int8_t>();
    case DType::int32: return py::dtype::of<std::int32_t>();
  }
  pagedkv::detail::throw_unsupported("numpy_dtype", "an unknown dtype; expected one of DType");
}

py::array view_of(const void* data, DType dtype, std::vector<py::ssize_t> shape, py::handle owner,
                  bool writable) {
  if (dtype == DType::int4 && !shape.empty()) shape.back() /= 2;
  py::array view(numpy_dtype(dtype), std::move(shape), data, owner);
  if (!writable) view.attr("flags").attr("writeable") = false;
  return view;
}

py::array to_elements(const char* where, const char* argument, const py::object& value,
                      DType dtype) {
  py::array array;
  if (py::isinstance<py::array>(value)) {
    array = py::reinterpret_borrow<py::array>(value);
  } else if (py::hasattr(value, "__array__")) {
    array = py::module_::import("numpy").attr("asarray")(value);
  } else {
    array = py::module_::import("numpy").attr("asarray")(value, numpy_dtype(dtype));
  }
  if (!holds(array, dtype)) {
    pagedkv::detail::throw_shape(where, std::string(argument) + " of dtype " +
                                            text(array.dtype()) + "; expected " +
                                            std::string(dtype_name(dtype)));
  }
  if ((array.flags() & py::array::c_style) == 0) {
    array = py::module_::import("numpy").attr("ascontiguousarray")(array);
  }
  return array;
}

std::string shape_text(const py::array& array) {
  return text(array.attr("shape"));
}

}  // namespace pagedkv::python
