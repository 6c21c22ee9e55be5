#include "pagedkv/core/kv_cache_pool.hpp"

#include <memory>
#include <string>

#include "arrays.hpp"
#include "without_gil.hpp"

namespace pagedkv::python {
namespace {

constexpr const char* kDoc =
    R"(A fixed number of slabs of ``page_size`` values, allocated and zeroed here.

Contents are not zeroed when a page is freed.)";

AnyArray page_view(const Owned<KvCachePool>& self, const Index& page) {
  const auto bytes = self->page(to_slot("KvCachePool.page", "page", page, self->num_pages()));
  return view_of(bytes.data(), self->dtype(), {self->page_size()}, self, true);
}

std::string repr(const KvCachePool& self) {
  return "KvCachePool(page_size=" + std::to_string(self.page_size()) +
         ", num_pages=" + std::to_string(self.num_pages()) +
         ", dtype=" + std::string(dtype_name(self.dtype())) +
         ", free=" + std::to_string(self.free_count()) + ")";
}

}  // namespace

void register_kv_cache_pool(py::module_& m) {
  py::class_<KvCachePool> cls(m, "KvCachePool", kDoc);
  cls.def(py::init([](const Index& page_size, const Index& num_pages, const DTypeLike& dtype) {
            constexpr const char* where = "KvCachePool";
            const std::size_t values = to_size(where, "page_size", page_size);
            const std::size_t pages = to_size(where, "num_pages", num_pages);
            const DType type = to_dtype(where, dtype);
            const WithoutGil released;
            return std::make_unique<KvCachePool>(values, pages, type);
          }),
          py::arg("page_size"), py::arg("num_pages"), py::arg("dtype") = "float32",
          "Raises ShapeError for a page_size of 0, UnsupportedError for an unknown dtype.")
      .def("alloc", &KvCachePool::alloc, "One page. Raises PoolExhaustedError. O(1).")
      .def(
          "free",
          [](KvCachePool& self, const Index& page) {
            self.free(to_slot("KvCachePool.free", "page", page, self.num_pages()));
          },
          py::arg("page"),
          "Gives a page back. Raises InvalidSlotError for one out of range or already free. O(1).")
      .def("page", &page_view, py::arg("page"),
           "A writable view ``[page_size]`` of a live page. Raises InvalidSlotError.")
      .def("__repr__", &repr)
      .def_property_readonly("page_size", &KvCachePool::page_size, "Values a page.")
      .def_property_readonly("num_pages", &KvCachePool::num_pages, "All pages.")
      .def_property_readonly("free_count", &KvCachePool::free_count, "Pages free.")
      .def_property_readonly("used_count", &KvCachePool::used_count, "Pages handed out.")
      .def_property_readonly(
          "dtype", [](const KvCachePool& self) { return std::string(dtype_name(self.dtype())); },
          "Name of the element type.");
  seal(cls, "save the pages that matter as arrays");
}

}  // namespace pagedkv::python
