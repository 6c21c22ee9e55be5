#pragma once

#include <pybind11/pybind11.h>

#include <chrono>
#include <thread>

namespace pagedkv::python {

/// Gives the GIL away while it lives. A daemon thread that wants it back after the interpreter has
/// ended stops here for good, as from Python 3.14 on: before, Python ends such a thread by
/// unwinding its stack, which destructors of Python's objects, and of pybind11's counterpart, do
/// not survive.
class WithoutGil {
 public:
  WithoutGil() : state_(PyEval_SaveThread()) {}
  WithoutGil(const WithoutGil&) = delete;
  WithoutGil& operator=(const WithoutGil&) = delete;
  ~WithoutGil() {
    try {
      PyEval_RestoreThread(state_);
    } catch (...) {
      for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
    }
  }

 private:
  PyThreadState* state_;
};

}  // namespace pagedkv::python
