#include "pagedkv/core/kv_cache.hpp"

#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "arrays.hpp"
#include "exclusive.hpp"
#include "pagedkv/cpu/backend.hpp"
#include "without_gil.hpp"

namespace pagedkv::python {
namespace {

using Cache = KvCache<CpuBackend>;

constexpr const char* kDoc = R"(The keys and values of one layer for one sequence.

Made by ``KvCache.contiguous`` (``k``, ``v`` are ``[num_kv_heads, capacity, head_dim]``) or
``KvCache.paged`` (``k``, ``v`` are pools ``[num_blocks, num_kv_heads, block_size, head_dim]`` that
any number of sequences share through ``share()``). As a context manager it gives its blocks back at
the end.)";

struct PyKvCache {
  Cache cache;
  Exclusive exclusive;

  auto hold(const char* where) { return exclusive.hold(where); }
};

PyKvCache contiguous(const Index& capacity, const Index& num_kv_heads, const Index& head_dim,
                     const DTypeLike& dtype) {
  constexpr const char* where = "KvCache.contiguous";
  const std::size_t tokens = to_size(where, "capacity", capacity);
  const std::size_t heads = to_size(where, "num_kv_heads", num_kv_heads);
  const std::size_t dim = to_size(where, "head_dim", head_dim);
  const DType type = to_dtype(where, dtype);
  const WithoutGil released;
  return {Cache::contiguous(tokens, heads, dim, type), {}};
}

PyKvCache paged(const Index& num_blocks, const Index& num_kv_heads, const Index& head_dim,
                const Index& block_size, const Index& max_blocks_per_seq,
                std::shared_ptr<BlockAllocator> allocator, const DTypeLike& dtype) {
  constexpr const char* where = "KvCache.paged";
  const std::size_t blocks = to_size(where, "num_blocks", num_blocks);
  const std::size_t heads = to_size(where, "num_kv_heads", num_kv_heads);
  const std::size_t dim = to_size(where, "head_dim", head_dim);
  const std::size_t tokens = to_size(where, "block_size", block_size);
  const std::size_t max_blocks = to_size(where, "max_blocks_per_seq", max_blocks_per_seq);
  const DType type = to_dtype(where, dtype);
  const WithoutGil released;
  return {Cache::paged(blocks, heads, dim, tokens, max_blocks, std::move(allocator), type), {}};
}

/// `[n, num_kv_heads, head_dim]` keys or values, apart from the storage that they are copied into.
py::array to_tokens(const char* argument, const ArrayLike& value, Cache& cache) {
  constexpr const char* where = "KvCache.append";
  const auto expected = shape_of(cache.dtype(), {cache.num_kv_heads(), cache.head_dim()});
  const py::array array = to_elements(where, argument, value, cache.dtype());
  if (array.ndim() != 3 || array.shape(1) != expected[0] || array.shape(2) != expected[1]) {
    pagedkv::detail::throw_shape(where, std::string(argument) + " of shape " + shape_text(array) +
                                            "; expected (n, " + std::to_string(expected[0]) + ", " +
                                            std::to_string(expected[1]) + ")");
  }
  return apart_from(cache.v().bytes(), apart_from(cache.k().bytes(), array));
}

void append(PyKvCache& self, const ArrayLike& k, const ArrayLike& v) {
  constexpr const char* where = "KvCache.append";
  Cache& cache = self.cache;
  const py::array keys = to_tokens("k", k, cache);
  const py::array values = to_tokens("v", v, cache);
  if (keys.shape(0) != values.shape(0)) {
    pagedkv::detail::throw_shape(where, std::to_string(keys.shape(0)) + " tokens in k and " +
                                            std::to_string(values.shape(0)) +
                                            " in v; expected as many");
  }
  const auto held = self.hold(where);
  cpu::Context ctx;
  // The allocator may be shared with caches that other threads use: it is touched here, under the
  // GIL; the copy below finds its room reserved.
  cache.reserve(ctx, static_cast<std::size_t>(keys.shape(0)), where);
  const auto key_bytes = bytes_of(keys), value_bytes = bytes_of(values);
  without_gil(2 * key_bytes.size(), [&] { cache.append(ctx, key_bytes, value_bytes); });
}

std::pair<AnyArray, AnyArray> to_dense(PyKvCache& self) {
  const auto held = self.hold("KvCache.to_dense");
  const Cache& cache = self.cache;
  const auto shape = shape_of(cache.dtype(), {cache.len(), cache.num_kv_heads(), cache.head_dim()});
  py::array k(numpy_dtype(cache.dtype()), shape);
  py::array v(numpy_dtype(cache.dtype()), shape);
  const auto bytes = [](py::array& array) {
    return std::span(static_cast<std::byte*>(array.mutable_data()),
                     static_cast<std::size_t>(array.nbytes()));
  };
  const auto k_bytes = bytes(k), v_bytes = bytes(v);
  cpu::Context ctx;
  without_gil(2 * k_bytes.size(), [&] { cache.to_dense(ctx, k_bytes, v_bytes); });
  return {k, v};
}

/// A writable view of the storage of keys or values.
AnyArray storage_view(const Owned<PyKvCache>& self, cpu::Buffer& buffer) {
  const Cache& cache = self->cache;
  const std::byte* data = buffer.bytes().data();
  if (cache.block_size() == 0) {
    return view_of(data, cache.dtype(), {cache.num_kv_heads(), cache.capacity(), cache.head_dim()},
                   self, true);
  }
  return view_of(data, cache.dtype(),
                 {cache.num_blocks(), cache.num_kv_heads(), cache.block_size(), cache.head_dim()},
                 self, true);
}

/// A read-only view of a device table, or nothing for the contiguous layout.
std::optional<IdArray> table_view(const Owned<PyKvCache>& self, const cpu::Buffer* buffer) {
  if (buffer == nullptr) return std::nullopt;
  return id_view(buffer->bytes(), self);
}

std::size_t len(PyKvCache& self) {
  const auto held = self.hold("KvCache.len");
  return self.cache.len();
}

std::string repr(const PyKvCache& self) {
  const Cache& cache = self.cache;
  return "KvCache(len=" + (self.exclusive.busy() ? "busy" : std::to_string(cache.len())) +
         ", capacity=" + std::to_string(cache.capacity()) +
         ", num_kv_heads=" + std::to_string(cache.num_kv_heads()) +
         ", head_dim=" + std::to_string(cache.head_dim()) +
         ", block_size=" + std::to_string(cache.block_size()) +
         ", dtype=" + std::string(dtype_name(cache.dtype())) + ")";
}

}  // namespace

void register_kv_cache(py::module_& m) {
  py::class_<PyKvCache> cls(m, "KvCache", kDoc);
  cls.def_static("contiguous", &contiguous, py::arg("capacity"), py::arg("num_kv_heads"),
                 py::arg("head_dim"), py::arg("dtype") = "float32",
                 "A cache for ``capacity`` tokens in one piece.")
      .def_static(
          "paged", &paged, py::arg("num_blocks"), py::arg("num_kv_heads"), py::arg("head_dim"),
          py::arg("block_size"), py::arg("max_blocks_per_seq"), py::arg("allocator"),
          py::arg("dtype") = "float32",
          "A pool of ``num_blocks`` blocks, whose ids ``allocator`` hands out, and the first "
          "sequence's cache over it.")
      .def("append", &append, py::arg("k"), py::arg("v"),
           "Appends ``[n, num_kv_heads, head_dim]`` keys and values: all or none. Raises "
           "ShapeError, "
           "CapacityError beyond ``capacity``, PoolExhaustedError when blocks are short. O(bytes).")
      .def("to_dense", &to_dense,
           "Copies of keys and values, each ``[len, num_kv_heads, head_dim]``. O(bytes).")
      .def(
          "share",
          [](PyKvCache& self) {
            const auto held = self.hold("KvCache.share");
            return PyKvCache{self.cache.share(), {}};
          },
          "Another sequence's cache, empty, over the same pool and allocator. Raises "
          "UnsupportedError for a contiguous cache.")
      .def(
          "truncate",
          [](PyKvCache& self, const Index& num_tokens) {
            const auto held = self.hold("KvCache.truncate");
            cpu::Context ctx;
            self.cache.truncate(ctx, to_size("KvCache.truncate", "num_tokens", num_tokens));
          },
          py::arg("num_tokens"),
          "Back to ``num_tokens`` tokens, if there are more; blocks that are not needed go back.")
      .def(
          "release",
          [](PyKvCache& self) {
            const auto held = self.hold("KvCache.release");
            self.cache.release();
          },
          "Empties the cache and gives its blocks back; twice is harmless.")
      .def("__enter__", [](const Owned<PyKvCache>& self) { return self; })
      .def(
          "__exit__",
          [](PyKvCache& self, const ExceptionType&, const ExceptionValue&, const Traceback&) {
            const auto held = self.hold("KvCache.__exit__");
            self.cache.release();
          },
          py::arg("exc_type"), py::arg("exc_value"), py::arg("traceback"))
      .def("__len__", &len)
      .def("__bool__", [](const PyKvCache&) { return true; })
      .def("__repr__", &repr)
      .def_property_readonly(
          "k", [](const Owned<PyKvCache>& self) { return storage_view(self, self->cache.k()); },
          "Writable view of the keys' storage: ``[num_kv_heads, capacity, head_dim]``, or the pool "
          "``[num_blocks, num_kv_heads, block_size, head_dim]``.")
      .def_property_readonly(
          "v", [](const Owned<PyKvCache>& self) { return storage_view(self, self->cache.v()); },
          "Writable view of the values' storage, likewise.")
      .def_property_readonly("len", &len, "Tokens held.")
      .def_property_readonly(
          "capacity", [](const PyKvCache& self) { return self.cache.capacity(); },
          "Most tokens that the cache takes.")
      .def_property_readonly("num_kv_heads",
                             [](const PyKvCache& self) { return self.cache.num_kv_heads(); })
      .def_property_readonly("head_dim",
                             [](const PyKvCache& self) { return self.cache.head_dim(); })
      .def_property_readonly(
          "block_size", [](const PyKvCache& self) { return self.cache.block_size(); },
          "Tokens a block; 0 for the contiguous layout.")
      .def_property_readonly(
          "num_blocks", [](const PyKvCache& self) { return self.cache.num_blocks(); },
          "Blocks of the pool; 0 for the contiguous layout.")
      .def_property_readonly(
          "dtype",
          [](const PyKvCache& self) { return std::string(dtype_name(self.cache.dtype())); },
          "Name of the element type.")
      .def_property_readonly(
          "allocator",
          [](const PyKvCache& self) -> std::optional<std::shared_ptr<BlockAllocator>> {
            if (auto allocator = self.cache.allocator()) return allocator;
            return std::nullopt;
          },
          "The shared allocator; None for the contiguous layout.")
      .def_property_readonly(
          "block_table",
          [](const Owned<PyKvCache>& self) { return table_view(self, self->cache.block_table()); },
          "Read-only int32 view ``[max_blocks_per_seq]``, -1 where there is no block; None for the "
          "contiguous layout.")
      .def_property_readonly(
          "context_lens",
          [](const Owned<PyKvCache>& self) { return table_view(self, self->cache.context_lens()); },
          "Read-only int32 view ``[1]`` of the length; None for the contiguous layout.")
      .def_property_readonly(
          "paged_block_indices",
          [](PyKvCache& self) {
            const auto held = self.hold("KvCache.paged_block_indices");
            const auto blocks = self.cache.paged_block_indices();
            return std::vector<BlockId>(blocks.begin(), blocks.end());
          },
          "Block ids that this cache holds, in logical order; a copy.");
  seal(cls, "save to_dense() instead, use share() for another sequence");
}

}  // namespace pagedkv::python
