#pragma once

// What the files of the extension module share. Bindings check, convert, release the GIL and call;
// no logic lives here.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "pagedkv/core/errors.hpp"

namespace pagedkv::python {

namespace py = pybind11;

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
void register_ssm_state_pool(py::module_& m);

/// Raises the Python InvalidSlotError, whose `slot` may be any integer, also one that no C++ index
/// holds.
[[noreturn]] void raise_invalid_slot(const char* where, const char* what, py::handle slot,
                                     std::size_t size);

/// Makes `pickle` and `copy` of the class a TypeError that says what to do instead.
template <class Class>
void refuse_pickling(Class& cls, const char* instead) {
  cls.def(
      "__reduce_ex__",
      [instead](const py::object& self, int) -> py::object {
        const auto type = py::str(py::type::of(self).attr("__name__")).cast<std::string>();
        throw py::type_error("[" + type + "] cannot be pickled or copied; " + instead);
      },
      py::arg("protocol"));
}

/// Keeps an object whose calls release the GIL to one thread at a time. The flag itself is only
/// touched with the GIL held.
class Exclusive {
 public:
  class Hold {
   public:
    explicit Hold(bool& busy) noexcept : busy_(busy) { busy_ = true; }
    Hold(const Hold&) = delete;
    Hold& operator=(const Hold&) = delete;
    ~Hold() { busy_ = false; }

   private:
    bool& busy_;
  };

  /// @throws Error when another thread is inside a call of the object.
  [[nodiscard]] Hold hold(const char* where) {
    if (busy_) {
      throw Error(detail::located(where, "the object is busy in another thread; expected one "
                                         "thread at a time"));
    }
    return Hold(busy_);
  }

 private:
  bool busy_ = false;
};

/// Copies below this many bytes are done sooner than the GIL is given away and taken back.
inline constexpr std::size_t kReleaseGilFrom = std::size_t{64} << 10;

/// Runs `work` without the GIL when it moves enough bytes for that to pay.
template <class Work>
void without_gil(std::size_t bytes, Work work) {
  if (bytes < kReleaseGilFrom) {
    work();
    return;
  }
  const py::gil_scoped_release released;
  work();
}

}  // namespace pagedkv::python
