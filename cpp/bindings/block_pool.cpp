#include "pagedkv/core/block_pool.hpp"

#include <memory>

#include "arrays.hpp"
#include "without_gil.hpp"

namespace pagedkv::python {
namespace {

constexpr const char* kDoc = R"(A fixed number of pages in host memory, allocated and zeroed here.

A page holds the keys and the values ``[num_kv_heads, block_size, head_dim]`` of one layer.
``num_layers`` is for information: each layer has its own block list in ``BlockTable``. Contents are
not zeroed when a page is freed. A view of a freed page stays readable memory of the pool, but
whoever gets the page next writes there.)";

std::unique_ptr<BlockPool> make(const Index& capacity, const Index& block_size,
                                const Index& num_layers, const Index& num_kv_heads,
                                const Index& head_dim, const DTypeLike& dtype) {
  constexpr const char* where = "BlockPool";
  const std::size_t pages = to_size(where, "capacity", capacity);
  const std::size_t tokens = to_size(where, "block_size", block_size);
  const std::size_t layers = to_size(where, "num_layers", num_layers);
  const std::size_t heads = to_size(where, "num_kv_heads", num_kv_heads);
  const std::size_t dim = to_size(where, "head_dim", head_dim);
  const DType type = to_dtype(where, dtype);
  if (type == DType::int4 && dim % 2 != 0) {
    detail::throw_shape(where, "head_dim " + std::to_string(dim) +
                                   " with int4; expected an even one (two elements share a byte)");
  }
  const WithoutGil released;  // zeroing a large pool takes seconds
  return std::make_unique<BlockPool>(pages, tokens, layers, heads, dim, type);
}

BlockId to_page(const char* where, const BlockPool& self, const Index& id) {
  const std::size_t slot = to_slot(where, "page id", id, self.total_count());
  if (slot >= self.total_count()) raise_invalid_slot(where, "page id", id, self.total_count());
  return static_cast<BlockId>(slot);
}

AnyArray page_view(const Owned<BlockPool>& self, std::span<const std::byte> page) {
  return view_of(page.data(), self->dtype(),
                 {self->num_kv_heads(), self->block_size(), self->head_dim()}, self, true);
}

AnyArray keys(const Owned<BlockPool>& self, const Index& id) {
  return page_view(self, self->keys(to_page("BlockPool.keys", *self, id)));
}

AnyArray values(const Owned<BlockPool>& self, const Index& id) {
  return page_view(self, self->values(to_page("BlockPool.values", *self, id)));
}

std::string repr(const BlockPool& self) {
  return "BlockPool(capacity=" + std::to_string(self.total_count()) +
         ", block_size=" + std::to_string(self.block_size()) +
         ", num_layers=" + std::to_string(self.num_layers()) +
         ", num_kv_heads=" + std::to_string(self.num_kv_heads()) +
         ", head_dim=" + std::to_string(self.head_dim()) +
         ", dtype=" + std::string(dtype_name(self.dtype())) +
         ", free=" + std::to_string(self.free_count()) + ")";
}

}  // namespace

void register_block_pool(py::module_& m) {
  py::class_<BlockPool> cls(m, "BlockPool", kDoc);
  cls.def(py::init(&make), py::arg("capacity"), py::arg("block_size"), py::arg("num_layers"),
          py::arg("num_kv_heads"), py::arg("head_dim"), py::arg("dtype") = "float32",
          "Raises ShapeError for a dimension of 0, UnsupportedError for an unknown dtype.")
      .def("allocate", &BlockPool::allocate,
           "The id of one page, or None when the pool is exhausted. O(1).")
      .def(
          "free",
          [](BlockPool& self, const Index& id) { self.free(to_page("BlockPool.free", self, id)); },
          py::arg("id"),
          "Gives a page back. Raises InvalidSlotError for an id out of range or not live. O(1).")
      .def("keys", &keys, py::arg("id"),
           "A writable view ``[num_kv_heads, block_size, head_dim]`` of the page's keys. bfloat16 "
           "is "
           "shown as uint16, fp8 and int4 (two values a byte) as uint8.")
      .def("values", &values, py::arg("id"), "A writable view of the page's values, likewise.")
      .def("utilization", &BlockPool::utilization,
           "Share of pages in use, in [0, 1]; 0.0 for a pool without pages.")
      .def("__repr__", &repr)
      .def_property_readonly("free_count", &BlockPool::free_count, "Pages free.")
      .def_property_readonly("total_count", &BlockPool::total_count, "All pages.")
      .def_property_readonly("block_size", &BlockPool::block_size, "Tokens a page.")
      .def_property_readonly("num_layers", &BlockPool::num_layers)
      .def_property_readonly("num_kv_heads", &BlockPool::num_kv_heads)
      .def_property_readonly("head_dim", &BlockPool::head_dim)
      .def_property_readonly(
          "dtype", [](const BlockPool& self) { return std::string(dtype_name(self.dtype())); },
          "Name of the element type.");
  seal(cls, "save the pages that matter as arrays");
}

}  // namespace pagedkv::python
