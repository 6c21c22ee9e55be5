# cython: language_level=3
"""Turns the C++ errors of pagedkv into those of `pagedkv.errors`: `except +raise_python`."""

cdef extern from *:
    """
    #include <exception>
    #include <new>

    #include <pagedkv/core/errors.hpp>

    // Sets `pagedkv.errors.<type>(message, *details)` as the Python error; `format` is that of
    // PyObject_CallFunction.
    template <class... Details>
    static void pagedkv_set_error(const char* type, const char* format, const char* message,
                                  Details... details) {
      PyObject* module = PyImport_ImportModule("pagedkv.errors");
      PyObject* cls = module ? PyObject_GetAttrString(module, type) : nullptr;
      PyObject* error = cls ? PyObject_CallFunction(cls, format, message, details...) : nullptr;
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
        pagedkv_set_error("PoolExhaustedError", "sKK", e.what(),
                          static_cast<unsigned long long>(e.needed()),
                          static_cast<unsigned long long>(e.free()));
      } catch (const pagedkv::InvalidSlotError& e) {
        pagedkv_set_error("InvalidSlotError", "sK", e.what(),
                          static_cast<unsigned long long>(e.slot()));
      } catch (const pagedkv::PoolError& e) {
        pagedkv_set_error("PoolError", "s", e.what());
      } catch (const pagedkv::ShapeError& e) {
        pagedkv_set_error("ShapeError", "s", e.what());
      } catch (const pagedkv::CapacityError& e) {
        pagedkv_set_error("CapacityError", "s", e.what());
      } catch (const pagedkv::UnsupportedError& e) {
        pagedkv_set_error("UnsupportedError", "s", e.what());
      } catch (const pagedkv::SequenceError& e) {
        pagedkv_set_error("SequenceError", "s", e.what());
      } catch (const pagedkv::Error& e) {
        pagedkv_set_error("PagedKvError", "s", e.what());
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
