// Arguments of operations: caches, rows, scales, integers.

#include "operands.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <utility>

namespace pagedkv::python {
namespace {

constexpr ElementType kFloat32{'f', 4};

/// `value`, or for a list the array that NumPy makes of it.
py::object list_as_array(const char* where, const char* argument, const AnyObject& value) {
  if (!py::isinstance<py::list>(value) && !py::isinstance<py::tuple>(value)) return value;
  try {
    return py::module_::import("numpy").attr("asarray")(value);
  } catch (const py::error_already_set& error) {
    if (!error.matches(PyExc_ValueError) && !error.matches(PyExc_TypeError) &&
        !error.matches(PyExc_OverflowError)) {
      throw;
    }
    pagedkv::detail::throw_shape(where, std::string(argument) + " that is no array (" +
                                            text(error.value()) + "); expected an array");
  }
}

template <class From, class To>
bool copy_integers(const std::byte* from, std::int64_t stride, std::int64_t count, To* to) {
  bool fits = true;
  for (std::int64_t i = 0; i < count; ++i, from += stride) {
    From x;
    std::memcpy(&x, from, sizeof x);
    fits = fits && std::in_range<To>(x);
    to[i] = static_cast<To>(x);
  }
  return fits;
}

}  // namespace

CacheView to_cache(const Tensor& tensor, Layout layout, const std::optional<DType>& named) {
  const bool hnd = layout == Layout::hnd;
  tensor.expect_dims(4, hnd ? "(num_blocks, num_kv_heads, block_size, head_dim)"
                            : "(num_blocks, block_size, num_kv_heads, head_dim)");
  tensor.expect_rows();
  CacheView view;
  view.data = tensor.data();
  view.dtype = tensor.dtype(named);
  const std::size_t heads = hnd ? 1 : 2, tokens = hnd ? 2 : 1;
  view.num_blocks = tensor.size(0);
  view.num_heads = tensor.size(heads);
  view.block_size = tensor.size(tokens);
  view.head_dim = tensor.size(3) * (view.dtype == DType::int4 ? 2 : 1);
  view.block_stride = tensor.stride(0);
  view.head_stride = tensor.stride(heads);
  view.token_stride = tensor.stride(tokens);
  return view;
}

CacheView to_latent_cache(const Tensor& tensor, const std::optional<DType>& named) {
  tensor.expect_dims(3, "(num_blocks, block_size, size)");
  tensor.expect_rows();
  CacheView view;
  view.data = tensor.data();
  view.dtype = tensor.dtype(named);
  view.num_blocks = tensor.size(0);
  view.block_size = tensor.size(1);
  view.head_dim = tensor.size(2) * (view.dtype == DType::int4 ? 2 : 1);
  view.block_stride = tensor.stride(0);
  view.token_stride = tensor.stride(1);
  view.head_stride = view.token_stride;
  return view;
}

RowsView to_rows(const Tensor& tensor, const std::optional<DType>& named) {
  tensor.expect_dims(3, "(num_tokens, num_heads, head_dim)");
  tensor.expect_rows();
  RowsView view;
  view.data = tensor.data();
  // What is named is what caches hold: rows are that only where it tells what their integers are.
  const bool is_float16 = tensor.is_raw() && named == DType::float16;
  view.dtype = tensor.dtype(is_float16 ? named : std::nullopt);
  view.num_tokens = tensor.size(0);
  view.num_heads = tensor.size(1);
  view.head_dim = tensor.size(2);
  view.token_stride = tensor.stride(0);
  view.head_stride = tensor.stride(1);
  return view;
}

RowsView to_cache_rows(const Tensor& tensor, const CacheView& cache, bool latent) {
  const auto width = std::max<std::size_t>(dtype_bits(cache.dtype) / 8, 1);
  const bool stored = tensor.is_raw() && tensor.type().bytes == width;
  const std::size_t last = latent ? 1 : 2;
  tensor.expect_dims(last + 1, latent ? "(num_tokens, size)" : "(num_tokens, num_heads, head_dim)");
  tensor.expect_rows();
  RowsView view;
  view.data = tensor.data();
  view.dtype = tensor.dtype(stored ? std::optional(cache.dtype) : std::nullopt);
  view.num_tokens = tensor.size(0);
  view.num_heads = latent ? 1 : tensor.size(1);
  view.head_dim = tensor.size(last) * (view.dtype == DType::int4 ? 2 : 1);
  view.token_stride = tensor.stride(0);
  view.head_stride = tensor.stride(latent ? 0 : 1);
  return view;
}

Scale::Scale(const Site& where, const char* argument, const AnyObject& value,
             const CacheView& cache) {
  if (value.is_none()) return;
  const bool number = PyFloat_Check(value.ptr()) != 0 || PyLong_Check(value.ptr()) != 0;
  if (!number) {
    // NumPy's scalars are none of its arrays, and no DLPack.
    const bool array = py::isinstance<py::array>(value) || py::hasattr(value, "__dlpack__");
    if (array) tensor_.emplace(where, argument, value);
    if (!array && PyNumber_Check(value.ptr()) == 0) tensor_.emplace(where, argument, value);
  }
  if (!tensor_ || tensor_->ndim() == 0) {
    const double factor = PyFloat_AsDouble(value.ptr());
    if (factor == -1 && PyErr_Occurred() != nullptr) throw py::error_already_set();
    view_.value = static_cast<float>(factor);
    if (!std::isfinite(view_.value)) {
      pagedkv::detail::throw_shape(
          where, std::string(argument) + " is " + text(value) + "; expected a finite number");
    }
    tensor_.reset();
    return;
  }
  const Tensor& tensor = *tensor_;
  if (tensor.type() != kFloat32) tensor.refuse(" of " + tensor.type().name(), "float32");
  const bool per_token = tensor.ndim() == 3;
  const bool fits = (tensor.ndim() == 2 || per_token) && tensor.size(0) == cache.num_blocks &&
                    tensor.size(1) == cache.num_heads &&
                    (!per_token || tensor.size(2) == cache.block_size);
  if (!fits) {
    const std::string heads =
        "(" + std::to_string(cache.num_blocks) + ", " + std::to_string(cache.num_heads);
    tensor.refuse(
        " of shape " + tensor.shape_text(),
        "a number, " + heads + ") or " + heads + ", " + std::to_string(cache.block_size) + ")");
  }
  tensor.expect_aligned();
  const auto elements = [&](std::size_t dim) { return tensor.stride(dim) / 4; };
  view_.data = reinterpret_cast<float*>(tensor.data());
  view_.block_stride = elements(0);
  view_.head_stride = elements(1);
  view_.slot_stride = per_token ? elements(2) : 0;
}

Integers::Integers(const Site& where, const char* argument, const AnyObject& value,
                   std::size_t ndim, const char* expected)
    : owner_(list_as_array(where, argument, value)),
      tensor_(where, argument, owner_, Place::either) {
  if (!tensor_.is_host()) tensor_.refuse(" on a device", "an array in memory of the CPU");
  tensor_.expect_dims(ndim, expected);
  // An empty list has no integer type.
  const bool empty = tensor_.size(0) == 0;
  if (!empty && tensor_.type().kind != 'i' && tensor_.type().kind != 'u') {
    tensor_.refuse(" of " + tensor_.type().name(), "integers");
  }
}

template <class T>
void Integers::copy(std::int64_t row, std::int64_t count, T* to) const {
  const std::size_t last = tensor_.ndim() - 1;
  const std::int64_t stride = tensor_.stride(last);
  const std::byte* from = tensor_.data() + (last == 0 ? 0 : row * tensor_.stride(0));
  if (tensor_.type() == ElementType{'i', sizeof(T)} && stride == sizeof(T)) {
    if (count > 0) std::memcpy(to, from, static_cast<std::size_t>(count) * sizeof(T));
    return;
  }
  const bool is_signed = tensor_.type().kind == 'i';
  bool fits = true;
  switch (tensor_.type().bytes) {
    case 1:
      fits = is_signed ? copy_integers<std::int8_t>(from, stride, count, to)
                       : copy_integers<std::uint8_t>(from, stride, count, to);
      break;
    case 2:
      fits = is_signed ? copy_integers<std::int16_t>(from, stride, count, to)
                       : copy_integers<std::uint16_t>(from, stride, count, to);
      break;
    case 4:
      fits = is_signed ? copy_integers<std::int32_t>(from, stride, count, to)
                       : copy_integers<std::uint32_t>(from, stride, count, to);
      break;
    default:
      fits = is_signed ? copy_integers<std::int64_t>(from, stride, count, to)
                       : copy_integers<std::uint64_t>(from, stride, count, to);
  }
  if (!fits) {
    tensor_.refuse(" with a value beyond int" + std::to_string(8 * sizeof(T)),
                   "integers of " + std::to_string(8 * sizeof(T)) + " bits");
  }
}

template void Integers::copy<std::int32_t>(std::int64_t, std::int64_t, std::int32_t*) const;
template void Integers::copy<std::int64_t>(std::int64_t, std::int64_t, std::int64_t*) const;

void expect_one_a_token(const Site& where, const char* argument, std::int64_t came,
                        std::int64_t num_tokens) {
  if (came == num_tokens) return;
  pagedkv::detail::throw_shape(where, std::string(argument) + " of " + std::to_string(came) +
                                          "; expected " + std::to_string(num_tokens) +
                                          ", one a token");
}

std::vector<std::int64_t> one_a_token(const Site& where, const char* argument,
                                      const AnyObject& value, std::int64_t num_tokens) {
  const Integers given(where, argument, value, 1, "(num_tokens,)");
  expect_one_a_token(where, argument, given.size(), num_tokens);
  return given.values<std::int64_t>();
}

HostPairs::HostPairs(const Site& where, const char* argument, const AnyObject& pairs) {
  // An empty list has one dimension.
  if (py::isinstance<py::list>(pairs) && py::len(pairs) == 0) return;
  const Integers given(where, argument, pairs, 2, "(num_pairs, 2)");
  if (given.size(1) != 2) {
    pagedkv::detail::throw_shape(where, std::string(argument) + " of " +
                                            std::to_string(given.size(1)) +
                                            " columns; expected 2: from and to");
  }
  pairs_.reserve(static_cast<std::size_t>(given.size()));
  for (std::int64_t i = 0; i < given.size(); ++i) {
    std::array<std::int64_t, 2> pair{};
    given.copy(i, 2, pair.data());
    pairs_.push_back({pair[0], pair[1]});
  }
}

std::vector<float> to_floats(const Site& where, const char* argument, const AnyObject& value,
                             std::int64_t size) {
  py::object array = list_as_array(where, argument, value);
  if (!array.is(value))
    array = to_elements(where, argument, py::reinterpret_borrow<ArrayLike>(value), DType::float32);
  const Tensor tensor(where, argument, array, Place::either);
  if (tensor.type() != kFloat32 || tensor.ndim() != 1 || tensor.size(0) != size) {
    tensor.refuse(" of " + tensor.type().name() + " and shape " + tensor.shape_text(),
                  "float32 (" + std::to_string(size) + ",)");
  }
  std::vector<float> copied(static_cast<std::size_t>(size));
  const std::byte* from = tensor.data();
  for (float& x : copied) {
    std::memcpy(&x, from, sizeof x);
    from += tensor.stride(0);
  }
  return copied;
}

Layout to_layout(const char* where, const py::str& layout) {
  const std::string name = text(layout);
  if (name == "HND") return Layout::hnd;
  if (name == "NHD") return Layout::nhd;
  pagedkv::detail::throw_shape(where, "layout '" + name + "'; expected HND or NHD");
}

std::optional<DType> to_named(const char* where, const DTypeLikeOrNone& dtype) {
  if (dtype.is_none()) return std::nullopt;
  return to_dtype(where, py::reinterpret_borrow<DTypeLike>(dtype));
}

}  // namespace pagedkv::python
