#include "pagedkv/core/paged_kv_cache.hpp"

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>

#include "arrays.hpp"
#include "exclusive.hpp"
#include "without_gil.hpp"

namespace pagedkv::python {
namespace {

constexpr const char* kDoc = R"(A growing sequence of float64 vectors in blocks of 16 tokens.

All ``ceil(max_tokens / 16)`` blocks are allocated up front; appending allocates nothing. Values
survive bit for bit. Indexing and iteration give copies of tokens.)";

struct PyPagedKvCache {
  PagedKvCache cache;
  Exclusive exclusive;

  auto hold(const char* where) { return exclusive.hold(where); }
};

/// What changes while the cache is busy, and so is read by one thread at a time too.
template <auto member>
auto read(const char* where) {
  return [where](PyPagedKvCache& self) {
    const auto held = self.hold(where);
    return (self.cache.*member)();
  };
}

std::span<const double> values_of(const py::array& array) {
  return {static_cast<const double*>(array.data()), static_cast<std::size_t>(array.size())};
}

void append(PyPagedKvCache& self, const ArrayLike& token) {
  constexpr const char* where = "PagedKvCache.append";
  const py::array array = apart_from(self.cache.storage(), to_float64(where, "a token", token));
  if (array.ndim() != 1) {
    detail::throw_shape(where, "a token of shape " + shape_text(array) + "; expected (" +
                                   std::to_string(self.cache.dim()) + ",)");
  }
  const auto held = self.hold(where);
  self.cache.append(values_of(array));
}

void append_tensor(PyPagedKvCache& self, const ArrayLike& t) {
  constexpr const char* where = "PagedKvCache.append_tensor";
  const py::array array = apart_from(self.cache.storage(), to_float64(where, "a tensor", t));
  if (array.ndim() != 2 || static_cast<std::size_t>(array.shape(1)) != self.cache.dim()) {
    detail::throw_shape(where, "a tensor of shape " + shape_text(array) + "; expected (n, " +
                                   std::to_string(self.cache.dim()) + ")");
  }
  const auto values = values_of(array);
  const auto held = self.hold(where);
  without_gil(values.size_bytes(), [&] { self.cache.append_tensor(values); });
}

/// `array` itself: constructing a typed array would convert it.
Float64Array same_array(py::array array) {
  return py::reinterpret_steal<Float64Array>(array.release());
}

/// The caller's `out`, checked.
py::array output_array(const char* where, const py::object& out, const PagedKvCache& cache) {
  if (!py::isinstance<py::array>(out)) {
    detail::throw_shape(where, "out is no ndarray; expected a float64 one");
  }
  auto array = py::reinterpret_borrow<py::array>(out);
  const bool fits = array.ndim() == 2 && static_cast<std::size_t>(array.shape(0)) == cache.len() &&
                    static_cast<std::size_t>(array.shape(1)) == cache.dim();
  if (!fits || !array.dtype().equal(py::dtype::of<double>()) || !is_plain(array) ||
      !array.writeable()) {
    detail::throw_shape(where, "out of shape " + shape_text(array) + " and dtype " +
                                   text(array.dtype()) + (array.writeable() ? "" : ", read-only") +
                                   "; expected writable C-contiguous float64 (" +
                                   std::to_string(cache.len()) + ", " +
                                   std::to_string(cache.dim()) + ")");
  }
  return array;
}

Float64Array as_tensor(const Owned<PyPagedKvCache>& self, const Float64ArrayOrNone& out,
                       std::optional<bool> copy) {
  constexpr const char* where = "PagedKvCache.as_tensor";
  const auto held = self->hold(where);
  const PagedKvCache& cache = self->cache;
  if (copy.has_value() && !*copy) {
    if (!out.is_none()) {
      detail::throw_shape(where, "out together with copy=False; expected one of them");
    }
    const auto span = cache.as_span();
    if (!span) {
      detail::throw_shape(where,
                          "copy=False with blocks that do not lie in order in memory; "
                          "expected copy=True");
    }
    return same_array(
        view_of(span->data(), DType::float64, {cache.len(), cache.dim()}, self, false));
  }
  py::array tensor = out.is_none()
                         ? Float64Array(shape_of(DType::float64, {cache.len(), cache.dim()}))
                         : output_array(where, out, cache);
  const std::span values(static_cast<double*>(tensor.mutable_data()),
                         static_cast<std::size_t>(tensor.size()));
  without_gil(values.size_bytes(), [&] { cache.as_tensor(values); });
  return same_array(std::move(tensor));
}

/// NumPy's own protocol.
AnyArray as_array(const Owned<PyPagedKvCache>& self, const DTypeLikeOrNone& dtype,
                  std::optional<bool> copy) {
  const bool converts =
      !dtype.is_none() && !py::dtype::from_args(dtype).equal(py::dtype::of<double>());
  if (converts && copy.has_value() && !*copy) {
    detail::throw_shape("PagedKvCache.__array__",
                        "copy=False with a dtype other than float64; "
                        "expected copy=True");
  }
  const Float64Array tensor = as_tensor(self, Float64ArrayOrNone(py::none()), copy);
  return converts ? AnyArray(tensor.attr("astype")(dtype)) : AnyArray(tensor);
}

Float64Array get_token(PyPagedKvCache& self, const Index& i) {
  constexpr const char* where = "PagedKvCache.get_token";
  const auto held = self.hold(where);
  const auto token = self.cache.get_token(to_slot(where, "token", i, self.cache.len()));
  return Float64Array(static_cast<py::ssize_t>(token.size()), token.data());
}

/// A token, counted from the end when negative, or the tokens of a slice; copies.
Float64Array get_item(PyPagedKvCache& self, const std::variant<py::slice, Index>& key) {
  constexpr const char* where = "PagedKvCache.__getitem__";
  const auto held = self.hold(where);
  const PagedKvCache& cache = self.cache;
  const auto dim = static_cast<py::ssize_t>(cache.dim());
  if (const auto* index = std::get_if<Index>(&key)) {
    return Float64Array(dim, cache.get_token(to_item(where, "token", *index, cache.len())).data());
  }
  py::ssize_t start = 0, stop = 0, step = 0, count = 0;
  if (!std::get<py::slice>(key).compute(static_cast<py::ssize_t>(cache.len()), &start, &stop, &step,
                                        &count)) {
    throw py::error_already_set();
  }
  Float64Array tokens({count, dim});
  double* to = tokens.mutable_data();
  without_gil(static_cast<std::size_t>(tokens.nbytes()), [&] {
    for (py::ssize_t row = 0; row < count; ++row, to += dim) {
      std::ranges::copy(cache.get_token(static_cast<std::size_t>(start + row * step)), to);
    }
  });
  return tokens;
}

PyPagedKvCache clone(PyPagedKvCache& self) {
  const auto held = self.hold("PagedKvCache.clone");
  const WithoutGil released;
  return {self.cache, {}};
}

void permute_blocks(PyPagedKvCache& self, const Ids& order) {
  const auto held = self.hold("PagedKvCache._permute_blocks");
  const BlockIds ids("PagedKvCache._permute_blocks", order, self.cache.num_blocks());
  self.cache.permute_blocks(ids.span());
}

}  // namespace

void register_paged_kv_cache(py::module_& m) {
  py::class_<PyPagedKvCache> cls(m, "PagedKvCache", kDoc);
  cls.def(
         py::init([](const Index& max_tokens, const Index& dim) {
           const std::size_t tokens = to_size("PagedKvCache", "max_tokens", max_tokens);
           const std::size_t width = to_size("PagedKvCache", "dim", dim);
           const WithoutGil released;
           return std::make_unique<PyPagedKvCache>(PyPagedKvCache{PagedKvCache(tokens, width), {}});
         }),
         py::arg("max_tokens"), py::arg("dim"),
         "Room for ``max_tokens`` tokens (0 is legal and always full) of ``dim`` values. Raises "
         "ShapeError for a dim of 0.")
      .def("append", &append, py::arg("token"),
           "Appends one token ``[dim]``. Raises ShapeError for another size (checked first), "
           "CapacityError when full. Allocates nothing.")
      .def("append_tensor", &append_tensor, py::arg("t"),
           "Appends ``[n, dim]`` tokens: all or none. Raises ShapeError, CapacityError.")
      .def("as_tensor", &as_tensor, py::kw_only(), py::arg("out") = py::none(),
           py::arg("copy") = py::none(),
           "All tokens as contiguous float64 ``[len, dim]``: a new array, or ``out`` filled. With "
           "``copy=False`` a read-only view in O(1) where the blocks lie in order in memory, else "
           "ShapeError (a ValueError, as NumPy's own).")
      .def("__array__", &as_array, py::arg("dtype") = py::none(), py::arg("copy") = py::none())
      .def("get_token", &get_token, py::arg("i"),
           "A copy of token ``i``, float64 ``[dim]``. Raises InvalidSlotError, an IndexError.")
      .def(
          "clear",
          [](PyPagedKvCache& self) {
            const auto held = self.hold("PagedKvCache.clear");
            self.cache.clear();
          },
          "Forgets every token; keeps the memory.")
      .def("clone", &clone, "A deep copy.")
      .def("_permute_blocks", &permute_blocks, py::arg("order"),
           "For tests: lays logical block i of an empty cache on physical block ``order[i]``.")
      .def("__getitem__", &get_item, py::arg("key"))
      .def("__copy__", &clone)
      .def(
          "__deepcopy__", [](PyPagedKvCache& self, const AnyObject&) { return clone(self); },
          py::arg("memo"))
      .def("__len__", read<&PagedKvCache::len>("PagedKvCache.__len__"))
      .def("__bool__", [](const PyPagedKvCache&) { return true; })
      .def("__repr__",
           [](const PyPagedKvCache& self) {
             return self.exclusive.busy() ? "PagedKvCache(busy)" : self.cache.repr();
           })
      .def_property_readonly("len", read<&PagedKvCache::len>("PagedKvCache.len"), "Tokens held.")
      .def_property_readonly(
          "max_tokens", [](const PyPagedKvCache& self) { return self.cache.max_tokens(); },
          "Most tokens held.")
      .def_property_readonly(
          "num_blocks", [](const PyPagedKvCache& self) { return self.cache.num_blocks(); },
          "Blocks allocated.")
      .def_property_readonly("blocks_in_use",
                             read<&PagedKvCache::blocks_in_use>("PagedKvCache.blocks_in_use"),
                             "Blocks that hold tokens.")
      .def_property_readonly(
          "dim", [](const PyPagedKvCache& self) { return self.cache.dim(); }, "Values a token.")
      .def_property_readonly("is_empty", read<&PagedKvCache::is_empty>("PagedKvCache.is_empty"));
  define_iteration<Float64Array>(cls);
  seal(cls, "save as_tensor() instead, copy with clone()");
}

}  // namespace pagedkv::python
