#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "arrays.hpp"

namespace pagedkv::python {

/// Integers of type `T` that came from Python as an array or a sequence; no copy of a plain array
/// of exactly that type.
template <class T>
class IntegerSpan {
 public:
  /// @throws ShapeError for something that is not a sequence or 1-D array of integers, or a value
  ///         that `T` does not hold.
  IntegerSpan(const char* where, const char* argument, const py::object& values)
      : where_(where), argument_(argument), array_(to_array(values)) {
    const py::array& array = array_;
    if (array.size() == 0 && array.ndim() == 1 && !py::isinstance<py::array>(values)) {
      return;  // an empty list has no integer type
    }
    const char kind = array.dtype().kind();
    // A list that no integer type of NumPy holds comes as one of floats or objects.
    if ((kind == 'f' || kind == 'O') && !py::isinstance<py::array>(values) && copy_items(values)) {
      values_ = copied_;
      return;
    }
    if (array.ndim() != 1 || (kind != 'i' && kind != 'u')) {
      pagedkv::detail::throw_shape(where, std::string(argument) + " of dtype " +
                                              py::str(array.dtype()).template cast<std::string>() +
                                              " and shape " + shape_text(array) +
                                              "; expected a list or 1-D array of integers");
    }
    if (array.dtype().is(py::dtype::of<T>()) && is_plain(array)) {
      values_ = {static_cast<const T*>(array.data()), static_cast<std::size_t>(array.size())};
      return;
    }
    kind == 'i' ? copy<std::int64_t>(array) : copy<std::uint64_t>(array);
    values_ = copied_;
  }

  [[nodiscard]] std::span<const T> span() const noexcept { return values_; }

  /// Makes the values a copy of their own, which no other thread can change.
  void own() {
    if (!copied_.empty() || values_.empty()) return;
    copied_.assign(values_.begin(), values_.end());
    values_ = copied_;
  }

 private:
  /// In one expression: an empty py::array, to be filled later, would be an array made for nothing.
  static py::array to_array(const py::object& values) {
    return py::isinstance<py::array>(values)
               ? py::reinterpret_borrow<py::array>(values)
               : py::array(py::module_::import("numpy").attr("asarray")(values));
  }

  template <class Wide>
  void copy(const py::array& array) {
    const py::array_t<Wide, py::array::c_style | py::array::forcecast> wide(array);
    const Wide* from = wide.data();
    copied_.reserve(static_cast<std::size_t>(wide.size()));
    for (py::ssize_t i = 0; i < wide.size(); ++i) {
      if (!std::in_range<T>(from[i])) {
        throw_beyond(std::to_string(from[i]));
      }
      copied_.push_back(static_cast<T>(from[i]));
    }
  }

  /// False when something in it is no integer.
  bool copy_items(const py::object& values) {
    for (const py::handle item : values) {
      if (!py::isinstance<Index>(item)) return false;
    }
    for (const py::handle item : values) {
      const auto number = py::reinterpret_steal<py::object>(PyNumber_Index(item.ptr()));
      if (!number) throw py::error_already_set();
      int overflow = 0;
      const long long value = PyLong_AsLongLongAndOverflow(number.ptr(), &overflow);
      if (overflow == 0 && std::in_range<T>(value)) {
        copied_.push_back(static_cast<T>(value));
        continue;
      }
      const auto size = try_size(py::reinterpret_borrow<Index>(item));
      if (!size || !std::in_range<T>(*size)) throw_beyond(text(number));
      copied_.push_back(static_cast<T>(*size));
    }
    return true;
  }

  [[noreturn]] void throw_beyond(const std::string& value) const {
    pagedkv::detail::throw_shape(where_, std::string(argument_) + " with " + value + "; expected " +
                                             (std::is_signed_v<T> ? "" : "un") +
                                             "signed integers of " + std::to_string(8 * sizeof(T)) +
                                             " bits");
  }

  const char* where_;
  const char* argument_;
  py::array array_;
  std::vector<T> copied_;
  std::span<const T> values_;
};

}  // namespace pagedkv::python
