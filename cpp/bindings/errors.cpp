// Core exceptions become the classes of pagedkv/errors.py, looked up once.

#include <exception>
#include <string>

#include "bindings.hpp"

namespace pagedkv::python {
namespace {

/// The classes of errors.py, kept for the life of the process.
struct ErrorClasses {
  py::object root, pool_exhausted, pool, invalid_slot, shape, capacity, unsupported, sequence;

  static const ErrorClasses& get() {
    static py::gil_safe_call_once_and_store<ErrorClasses> stored;
    return stored
        .call_once_and_store_result([] {
          const auto errors = py::module_::import("pagedkv.errors");
          return ErrorClasses{errors.attr("PagedKvError"),     errors.attr("PoolExhaustedError"),
                              errors.attr("PoolError"),        errors.attr("InvalidSlotError"),
                              errors.attr("ShapeError"),       errors.attr("CapacityError"),
                              errors.attr("UnsupportedError"), errors.attr("SequenceError")};
        })
        .get_stored();
  }
};

template <class... Details>
void set_error(const py::object& cls, const char* message, Details... details) {
  PyErr_SetObject(cls.ptr(), cls(message, details...).ptr());
}

void translate(std::exception_ptr caught) {
  try {
    std::rethrow_exception(caught);
  } catch (const PoolExhaustedError& e) {
    set_error(ErrorClasses::get().pool_exhausted, e.what(), e.needed(), e.free());
  } catch (const InvalidSlotError& e) {
    set_error(ErrorClasses::get().invalid_slot, e.what(), e.slot());
  } catch (const PoolError& e) {
    set_error(ErrorClasses::get().pool, e.what());
  } catch (const ShapeError& e) {
    set_error(ErrorClasses::get().shape, e.what());
  } catch (const CapacityError& e) {
    set_error(ErrorClasses::get().capacity, e.what());
  } catch (const UnsupportedError& e) {
    set_error(ErrorClasses::get().unsupported, e.what());
  } catch (const SequenceError& e) {
    set_error(ErrorClasses::get().sequence, e.what());
  } catch (const Error& e) {
    set_error(ErrorClasses::get().root, e.what());
  }
}

}  // namespace

std::string text(py::handle value) {
  const py::str string(value);
  Py_ssize_t size = 0;
  const char* utf8 = PyUnicode_AsUTF8AndSize(string.ptr(), &size);
  if (utf8 == nullptr) PyErr_Clear();
  const std::string plain =
      utf8 == nullptr ? "" : std::string(utf8, static_cast<std::size_t>(size));
  // An exception's message ends at the first NUL.
  if (utf8 != nullptr && plain.find('\0') == std::string::npos) return plain;
  const auto escaped = py::reinterpret_steal<py::str>(PyObject_ASCII(string.ptr()));
  if (!escaped) throw py::error_already_set();
  return escaped;
}

void raise_invalid_slot(const char* where, const char* what, py::handle slot, std::size_t size) {
  const std::string message = pagedkv::detail::located(
      where, std::string(what) + " " + text(slot) +
                 " is out of range; expected 0 or more and less than " + std::to_string(size));
  set_error(ErrorClasses::get().invalid_slot, message.c_str(), slot);
  throw py::error_already_set();
}

void register_errors(py::module_&) { py::register_local_exception_translator(translate); }

}  // namespace pagedkv::python
