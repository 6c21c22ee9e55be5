// pagedkv.ops: the threads that operations run on.

#include <cstddef>

#include "arrays.hpp"
#include "pagedkv/cpu/thread_pool.hpp"
#include "without_gil.hpp"

namespace pagedkv::python {
namespace {

constexpr std::size_t kMostThreads = 1024;

void set_num_threads(const Index& num_threads) {
  constexpr const char* where = "set_num_threads";
  const std::size_t number = to_size(where, "num_threads", num_threads);
  if (number == 0 || number > kMostThreads) {
    pagedkv::detail::throw_shape(
        where, "num_threads is " + std::to_string(number) + "; expected 1 to 1024");
  }
  cpu::ThreadPool& pool = cpu::default_thread_pool();
  const WithoutGil released;
  pool.resize(static_cast<unsigned>(number));
}

unsigned get_num_threads() { return cpu::default_thread_pool().size(); }

}  // namespace

void register_ops(py::module_& m) {
  m.def("set_num_threads", &set_num_threads, py::arg("num_threads"),
        "How many threads an operation uses from now on, the calling one counted: 1 to 1024. Waits "
        "for one that is at work.");
  m.def("get_num_threads", &get_num_threads,
        "How many threads an operation uses: one a processor, unless the environment variable "
        "PAGEDKV_NUM_THREADS or set_num_threads says otherwise.");
}

}  // namespace pagedkv::python
