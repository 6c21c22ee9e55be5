// Element types and arrays.

#include "arrays.hpp"

#include <algorithm>
#include <functional>
#include <string_view>

namespace pagedkv::python {
namespace {

std::string name_of(py::handle dtype) { return text(dtype.attr("name")); }

py::module_ numpy() { return py::module_::import("numpy"); }

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
  // Other libraries' int4 takes a byte an element, ours half of one.
  if (dtype == DType::int4) return false;
  // Other libraries' float8_e4m3 has infinities; ours is the one without.
  const std::string name = name_of(given);
  return dtype == DType::float8_e4m3 ? name == "float8_e4m3fn" : name == dtype_name(dtype);
}

[[noreturn]] void throw_dtype(const char* where, const char* argument, const py::array& array,
                              const std::string& expected) {
  pagedkv::detail::throw_shape(
      where, std::string(argument) + " of dtype " + text(array.dtype()) + "; expected " + expected);
}

/// What NumPy makes of `value`. @throws ShapeError when it makes nothing of it.
py::array as_array(const char* where, const char* argument, const ArrayLike& value) {
  if (py::isinstance<py::array>(value)) return py::reinterpret_borrow<py::array>(value);
  try {
    return numpy().attr("asarray")(value);
  } catch (const py::error_already_set& error) {
    if (!error.matches(PyExc_ValueError) && !error.matches(PyExc_TypeError)) throw;
    pagedkv::detail::throw_shape(where, std::string(argument) + " that is no array (" +
                                            text(error.value()) + "); expected an array");
  }
}

/// Numbers out of a list as elements of `dtype`. Floats become floats alone, and integers must
/// survive.
py::array convert(const char* where, const char* argument, const py::array& numbers, DType dtype) {
  constexpr std::string_view integers = "biu", floats = "biuf";
  const py::dtype target = numpy_dtype(dtype);
  const bool to_float = target.kind() == 'f';
  const char kind = numbers.dtype().kind();
  if (numbers.size() != 0 && (to_float ? floats : integers).find(kind) == std::string_view::npos) {
    throw_dtype(where, argument, numbers, std::string(dtype_name(dtype)));
  }
  const py::array converted = numbers.attr("astype")(target);
  if (!to_float && !numpy().attr("array_equal")(numbers, converted).cast<bool>()) {
    pagedkv::detail::throw_shape(where, std::string(argument) + " with values beyond " +
                                            text(target) + "; expected values that fit " +
                                            std::string(dtype_name(dtype)));
  }
  return converted;
}

py::array make_plain(const py::array& array, const py::object& dtype) {
  return numpy().attr("require")(array, dtype, py::make_tuple("C", "A"));
}

}  // namespace

DType to_dtype(const char* where, const DTypeLike& dtype) {
  std::string name;
  if (py::isinstance<py::str>(dtype)) {
    name = text(dtype);
  } else if (PyType_Check(dtype.ptr()) != 0) {
    name = name_of(py::dtype::from_args(dtype));
  } else if (py::isinstance<py::dtype>(dtype) && !is_native(py::dtype::from_args(dtype))) {
    name = text(dtype);
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

std::vector<py::ssize_t> shape_of(DType dtype, std::initializer_list<std::size_t> sizes) {
  std::vector<py::ssize_t> shape(sizes.begin(), sizes.end());
  if (dtype == DType::int4 && !shape.empty()) shape.back() /= 2;
  return shape;
}

py::array view_of(const void* data, DType dtype, std::initializer_list<std::size_t> sizes,
                  py::handle owner, bool writable) {
  py::array view(numpy_dtype(dtype), shape_of(dtype, sizes), data, owner);
  if (!writable) view.attr("flags").attr("writeable") = false;
  return view;
}

IdArray id_view(std::span<const std::byte> data, py::handle owner) {
  return py::reinterpret_steal<IdArray>(
      view_of(data.data(), DType::int32, {data.size() / sizeof(std::int32_t)}, owner, false)
          .release());
}

py::array to_elements(const char* where, const char* argument, const ArrayLike& value,
                      DType dtype) {
  py::array array = as_array(where, argument, value);
  if (!holds(array, dtype)) {
    if (!py::isinstance<py::list>(value) && !py::isinstance<py::tuple>(value)) {
      throw_dtype(where, argument, array, std::string(dtype_name(dtype)));
    }
    array = convert(where, argument, array, dtype);
  }
  return is_plain(array) ? array : make_plain(array, py::none());
}

py::array to_float64(const char* where, const char* argument, const ArrayLike& value) {
  const py::dtype float64 = py::dtype::of<double>();
  const py::array array = as_array(where, argument, value);
  if (array.dtype().is(float64) && is_plain(array)) return array;
  if (!numpy().attr("can_cast")(array.dtype(), float64, "safe").cast<bool>()) {
    throw_dtype(where, argument, array, "float64 or what casts safely to it");
  }
  return make_plain(array, float64);
}

bool is_plain(const py::array& array) {
  constexpr int flags = int{py::array::c_style} | int{py::detail::npy_api::NPY_ARRAY_ALIGNED_};
  return (array.flags() & flags) == flags;
}

std::span<const std::byte> bytes_of(const py::array& array) {
  return {static_cast<const std::byte*>(array.data()), static_cast<std::size_t>(array.nbytes())};
}

py::array apart_from(std::span<const std::byte> storage, py::array array) {
  const auto given = bytes_of(array);
  const std::less<> before;  // a total order, also between unrelated objects
  const bool apart = !before(given.data(), storage.data() + storage.size()) ||
                     !before(storage.data(), given.data() + given.size());
  return apart ? array : py::array(array.attr("copy")());
}

std::string shape_text(const py::array& array) { return text(array.attr("shape")); }

}  // namespace pagedkv::python
