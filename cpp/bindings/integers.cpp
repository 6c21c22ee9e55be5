// Sizes, indices and block ids.

#include <algorithm>
#include <limits>
#include <utility>

#include "arrays.hpp"

namespace pagedkv::python {
namespace {

constexpr std::size_t kFailed = std::numeric_limits<std::size_t>::max();

/// Python's own integer of it. @throws TypeError where there is none.
py::object to_integer(const Index& value) {
  auto number = py::reinterpret_steal<py::object>(PyNumber_Index(value.ptr()));
  if (!number) throw py::error_already_set();
  return number;
}

std::optional<std::size_t> size_of(const py::object& integer) {
  const std::size_t size = PyLong_AsSize_t(integer.ptr());
  if (size == kFailed && PyErr_Occurred() != nullptr) {
    PyErr_Clear();
    return std::nullopt;
  }
  return size;
}

template <class T>
std::span<const T> elements(const py::array& array) {
  return {static_cast<const T*>(array.data()), static_cast<std::size_t>(array.size())};
}

template <class T>
bool is_below(T value, std::size_t capacity) {
  return std::cmp_greater_equal(value, 0) && std::cmp_less(value, capacity);
}

template <class T>
[[noreturn]] void raise_first_invalid(const char* where, std::span<const T> ids,
                                      std::size_t capacity) {
  const auto first = std::ranges::find_if_not(ids, [&](T id) { return is_below(id, capacity); });
  raise_invalid_slot(where, "block id", py::int_(*first), capacity);
}

/// Appends `array` to `ids` by way of the widest integer of its kind.
template <class Wide>
void copy_checked(const char* where, const py::array& array, std::size_t capacity,
                  std::vector<BlockId>& ids) {
  const py::array_t<Wide, py::array::c_style | py::array::forcecast> wide(array);
  const auto values = elements<Wide>(wide);
  ids.reserve(values.size());
  for (const Wide value : values) {
    if (!is_below(value, capacity)) raise_first_invalid(where, values, capacity);
    ids.push_back(static_cast<BlockId>(value));
  }
}

}  // namespace

std::optional<std::size_t> try_size(const Index& value) { return size_of(to_integer(value)); }

std::size_t to_size(const char* where, const char* argument, const Index& value) {
  const py::object integer = to_integer(value);
  const auto size = size_of(integer);
  if (!size) {
    pagedkv::detail::throw_shape(
        where, std::string(argument) + " is " + text(integer) + "; expected 0 to 2^64 - 1");
  }
  return *size;
}

std::size_t to_slot(const char* where, const char* what, const Index& value, std::size_t size) {
  const py::object integer = to_integer(value);
  const auto slot = size_of(integer);
  if (!slot) raise_invalid_slot(where, what, integer, size);
  return *slot;
}

std::size_t to_item(const char* where, const char* what, const Index& value, std::size_t size) {
  const py::object integer = to_integer(value);
  auto item = size_of(integer);
  if (!item) item = size_of(integer + py::int_(size));
  if (!item || *item >= size) raise_invalid_slot(where, what, integer, size);
  return *item;
}

BlockIds::BlockIds(const char* where, const py::object& ids, std::size_t capacity) {
  if (!py::isinstance<py::array>(ids)) {
    for (const py::handle item : ids) {
      if (!py::isinstance<Index>(item)) {
        throw py::type_error("[" + std::string(where) + "] a block id of type " +
                             text(py::type::handle_of(item).attr("__name__")) +
                             "; expected integers");
      }
      const auto id = py::reinterpret_borrow<Index>(item);
      const std::size_t slot = to_slot(where, "block id", id, capacity);
      if (slot >= capacity) raise_invalid_slot(where, "block id", id, capacity);
      copied_.push_back(static_cast<BlockId>(slot));
    }
    ids_ = copied_;
    return;
  }
  const auto array = py::reinterpret_borrow<py::array>(ids);
  const char kind = array.dtype().kind();
  if (array.ndim() != 1 || (kind != 'i' && kind != 'u')) {
    pagedkv::detail::throw_shape(where, "block ids of dtype " + text(array.dtype()) +
                                            " and shape " + shape_text(array) +
                                            "; expected a list or 1-D array of integers");
  }
  if (array.dtype().is(py::dtype::of<std::int32_t>()) && is_plain(array)) {
    const auto values = elements<std::int32_t>(array);
    std::uint32_t bits = 0;
    for (const std::int32_t value : values) bits |= static_cast<std::uint32_t>(value);
    if (bits >> 31 != 0) raise_first_invalid(where, values, capacity);
    owner_ = array;
    // Not negative, so the bits are those of the unsigned id; the core checks that it is below.
    ids_ = {reinterpret_cast<const BlockId*>(values.data()), values.size()};
    return;
  }
  if (kind == 'i') copy_checked<std::int64_t>(where, array, capacity, copied_);
  if (kind == 'u') copy_checked<std::uint64_t>(where, array, capacity, copied_);
  ids_ = copied_;
}

IdArray to_id_array(std::span<const BlockId> ids) {
  IdArray array(static_cast<py::ssize_t>(ids.size()));
  std::ranges::copy(ids, array.mutable_data());
  return array;
}

}  // namespace pagedkv::python
