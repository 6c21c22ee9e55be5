#pragma once

// Python objects as arguments and results: what each is called in signatures and stubs.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/typing.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace pagedkv::python {

namespace py = pybind11;

/// Anything that Python takes as an index: int, NumPy integers.
class Index : public py::object {
 public:
  PYBIND11_OBJECT_DEFAULT(Index, py::object, PyIndex_Check)
};

/// An instance of the bound class `T` together with the Python object that owns it, for what keeps
/// that object alive: views, slots, `__enter__`.
template <class T>
class Owned : public py::object {
 public:
  PYBIND11_OBJECT_DEFAULT(Owned, py::object, py::isinstance<T>)
  [[nodiscard]] T& operator*() const { return this->template cast<T&>(); }
  [[nodiscard]] T* operator->() const { return &**this; }
};

/// The text of a type, as a template argument.
template <std::size_t N>
struct TypeText {
  // NOLINTNEXTLINE(google-explicit-constructor): a string literal is meant to convert
  consteval TypeText(const char (&literal)[N]) { std::copy_n(literal, N, text); }
  char text[N];
};

/// Any object; `type` says in signatures what is expected, the function that gets it checks.
template <TypeText type>
class Named : public py::object {
 public:
  PYBIND11_OBJECT_DEFAULT(Named, py::object, accept)

 private:
  static bool accept(PyObject*) noexcept { return true; }
};

/// Array or nested sequence of numbers.
using ArrayLike = Named<"numpy.typing.ArrayLike">;
/// A name, NumPy dtype or type, ml_dtypes or torch dtype.
using DTypeLike = Named<"numpy.typing.DTypeLike">;
using DTypeLikeOrNone = Named<"numpy.typing.DTypeLike | None">;
/// Block ids.
using Ids = Named<
    "collections.abc.Sequence[typing.SupportsIndex] | "
    "numpy.typing.NDArray[numpy.integer[typing.Any]]">;
/// One block id or several.
using IdOrIds = Named<
    "typing.SupportsIndex | collections.abc.Sequence[typing.SupportsIndex] | "
    "numpy.typing.NDArray[numpy.integer[typing.Any]]">;
/// The CPU has one context, which Python writes as None.
using NoContext = Named<"None">;
/// Anything at all.
using AnyObject = Named<"object">;
/// What `__exit__` is told.
using ExceptionType = Named<"type[BaseException] | None">;
using ExceptionValue = Named<"BaseException | None">;
using Traceback = Named<"types.TracebackType | None">;
/// What `__eq__` returns: True, False or NotImplemented.
using Comparison = Named<"bool">;
/// An array whose dtype depends on the object.
using AnyArray = Named<"numpy.typing.NDArray[typing.Any]">;
/// Block ids, as block tables hold them.
using IdArray = py::array_t<std::int32_t>;
using Float64Array = py::array_t<double>;
using Float64ArrayOrNone = Named<"numpy.typing.NDArray[numpy.float64] | None">;

}  // namespace pagedkv::python

namespace pybind11::detail {
template <>
struct handle_type_name<pagedkv::python::Index> {
  static constexpr auto name = const_name("typing.SupportsIndex");
};
template <class T>
struct handle_type_name<pagedkv::python::Owned<T>> {
  static constexpr auto name = make_caster<T>::name;
};
template <pagedkv::python::TypeText type>
struct handle_type_name<pagedkv::python::Named<type>> {
  static constexpr auto name = const_name(type.text);
};
}  // namespace pybind11::detail
