# cython: language_level=3
"""Turns the C++ errors of pagedkv into those of `pagedkv.errors`: `except +raise_python`."""

cdef extern from *:
    """
    #include <cstdint>
    #include <exception>
    #include <initializer_list>
    #include <new>
    #include <utility>

    #include <pagedkv/core/errors.hpp>

    // Sets `pagedkv.errors.<type>(message)` with these attributes as the Python error.
    static void pagedkv_set_error(
        const char* type, const char* message,
        std::initializer_list<std::pair<const char*, std::uint64_t>> attributes = {}) {
      PyObject* module = PyImport_ImportModule("pagedkv.errors");
      PyObject* cls = module ? PyObject_GetAttrString(module, type) : nullptr;
      PyObject* error = cls ? PyObject_CallFunction(cls, "s", message) : nullptr;
      for (const auto& [name, value] : attributes) {
        PyObject* number = error ? PyLong_FromUnsignedLongLong(value) : nullptr;
        if (number && PyObject_SetAttrString(error, name, number) < 0) Py_CLEAR(error);
        Py_XDECREF(number);
      }
      if (error) PyErr_SetObject(cls, error);
      Py_XDECREF(error);
      Py_XDECREF(cls);
      Py_XDECREF(module);
    }

    // Called by Cython where it caught something, with the GIL held.
    static void pagedkv_raise_python() {
      try {
        throw;
      } catch (const pagedkv::PoolExhaustedError& e) {
        pagedkv_set_error("PoolExhaustedError", e.what(),
                          {{"needed", e.needed()}, {"free", e.free()}});
      } catch (const pagedkv::InvalidSlotError& e) {
        pagedkv_set_error("InvalidSlotError", e.what(), {{"slot", e.slot()}});
      } catch (const pagedkv::PoolError& e) {
        pagedkv_set_error("PoolError", e.what());
      } catch (const pagedkv::ShapeError& e) {
        pagedkv_set_error("ShapeError", e.what());
      } catch (const pagedkv::CapacityError& e) {
        pagedkv_set_error("CapacityError", e.what());
      } catch (const pagedkv::UnsupportedError& e) {
        pagedkv_set_error("UnsupportedError", e.what());
      } catch (const pagedkv::SequenceError& e) {
        pagedkv_set_error("SequenceError", e.what());
      } catch (const pagedkv::Error& e) {
        pagedkv_set_error("PagedKvError", e.what());
      } catch (const std::bad_alloc&) {
        PyErr_NoMemory();
      } catch (const std::exception& e) {
        PyErr_SetString(PyExc_RuntimeError, e.what());
      } catch (...) {
        PyErr_SetString(PyExc_RuntimeError, "unknown C++ error");
      }
    }
    """
    void raise_python "pagedkv_raise_python"()
