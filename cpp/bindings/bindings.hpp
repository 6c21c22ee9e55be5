#pragma once

// What the files of the extension module share. Bindings check, convert, release the GIL and call;
// no logic lives here.

#include <pybind11/stl.h>

#include <cstddef>
#include <string>
#include <typeinfo>

#include "handles.hpp"
#include "pagedkv/core/errors.hpp"

namespace pagedkv::python {

// One function a file.
void register_errors(py::module_& m);
void register_info(py::module_& m);
void register_block_allocator(py::module_& m);
void register_block_pool(py::module_& m);
void register_block_table(py::module_& m);
void register_paged_seq_state(py::module_& m);
void register_kv_cache(py::module_& m);
void register_paged_kv_cache(py::module_& m);
void register_kv_cache_pool(py::module_& m);
void register_ssm_snapshot(py::module_& m);
void register_ssm_state_pool(py::module_& m);
void register_batch(py::module_& m);
void register_manager_types(py::module_& m);
void register_kv_cache_manager(py::module_& m);
void register_ops(py::module_& m);
void register_ops_attention(py::module_& m);
void register_ops_data(py::module_& m);

/// Raises the Python InvalidSlotError, whose `slot` may be any integer, also one that no C++ index
/// holds.
[[noreturn]] void raise_invalid_slot(const char* where, const char* what, py::handle slot,
                                     std::size_t size);

/// `str(value)` for a message, escaped where it could not stand in one.
[[nodiscard]] std::string text(py::handle value);

/// The last step of binding a class. Pickling and copying by pickling become a TypeError that says
/// what to do `instead`; so does a call on an instance whose `__init__` never ran.
template <class T, class... Options>
void seal(py::class_<T, Options...>& cls, const char* instead) {
  cls.def(
      "__reduce_ex__",
      [instead](const py::object& self, const Index&) -> py::typing::NoReturn {
        throw py::type_error("[" + text(py::type::of(self).attr("__name__")) +
                             "] cannot be pickled or copied; " + instead);
      },
      py::arg("protocol"));
  // pybind11 would allocate the missing instance here and construct nothing in it.
  py::detail::get_type_info(typeid(T), true)->operator_new = [](std::size_t) -> void* {
    throw py::type_error(
        "[pagedkv] an object whose __init__ never ran; expected one made by calling its class");
  };
}

/// What never changes needs no second copy.
template <class T>
void copies_are_itself(py::class_<T>& cls) {
  cls.def("__copy__", [](const Owned<T>& self) { return self; })
      .def(
          "__deepcopy__", [](const Owned<T>& self, const AnyObject&) { return self; },
          py::arg("memo"));
}

/// Equality with instances of the class alone, and no hash.
template <class T, class... Options>
void define_equality(py::class_<T, Options...>& cls) {
  cls.def(
      "__eq__",
      [](const T& self, const AnyObject& other) -> Comparison {
        if (!py::isinstance<T>(other)) {
          return py::reinterpret_borrow<Comparison>(Py_NotImplemented);
        }
        return py::bool_(self == other.template cast<const T&>());
      },
      py::arg("other"));
  cls.attr("__hash__") = py::none();
}

/// Iteration by `__getitem__` until IndexError, as Python itself does it, with the type of the
/// items named.
template <class Item, class T, class... Options>
void define_iteration(py::class_<T, Options...>& cls) {
  cls.def("__iter__", [](const Owned<T>& self) {
    PyObject* iterator = PySeqIter_New(self.ptr());
    if (iterator == nullptr) throw py::error_already_set();
    return py::reinterpret_steal<py::typing::Iterator<Item>>(iterator);
  });
}

}  // namespace pagedkv::python
