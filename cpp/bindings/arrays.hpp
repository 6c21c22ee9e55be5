#pragma once

// Python integers, dtypes and arrays as the core takes them.

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "bindings.hpp"
#include "pagedkv/core/block_allocator.hpp"
#include "pagedkv/core/dtype.hpp"

namespace pagedkv::python {

/// The integer, or nothing for one below 0 or beyond 64 bits.
[[nodiscard]] std::optional<std::size_t> try_size(const Index& value);

/// A size: 0 or more.
/// @throws ShapeError naming `argument` for anything else.
[[nodiscard]] std::size_t to_size(const char* where, const char* argument, const Index& value);

/// An id or index into `size` entries; the core checks that it is below.
/// @throws the Python InvalidSlotError for a negative one, or one of more than 64 bits.
[[nodiscard]] std::size_t to_slot(const char* where, const char* what, const Index& value,
                                  std::size_t size);

/// An index into `size` entries as `[]` takes it: negative ones count from the end.
/// @throws the Python InvalidSlotError, an IndexError, for one out of range.
[[nodiscard]] std::size_t to_item(const char* where, const char* what, const Index& value,
                                  std::size_t size);

/// Block ids that came from Python; no copy of an int32 array.
class BlockIds {
 public:
  /// @throws ShapeError for an array that is not 1-D or not of integers, InvalidSlotError for an id
  ///         that cannot be one of `capacity`, TypeError for an element that is no integer.
  BlockIds(const char* where, const py::object& ids, std::size_t capacity);
  [[nodiscard]] std::span<const BlockId> span() const noexcept { return ids_; }

 private:
  py::object owner_;
  std::vector<BlockId> copied_;
  std::span<const BlockId> ids_;
};

/// A copy of `ids` as an array.
[[nodiscard]] IdArray to_id_array(std::span<const BlockId> ids);

/// @throws UnsupportedError for a dtype that is not stored.
[[nodiscard]] DType to_dtype(const char* where, const DTypeLike& dtype);

/// How elements of `dtype` are shown: types that NumPy lacks as unsigned integers of their width,
/// int4 as bytes of two elements.
[[nodiscard]] py::dtype numpy_dtype(DType dtype);

/// A shape as NumPy takes it. `sizes` count elements; with int4 the last dimension of the array is
/// half of it.
[[nodiscard]] std::vector<py::ssize_t> shape_of(DType dtype,
                                                std::initializer_list<std::size_t> sizes);

/// A view of elements of `dtype` that keeps `owner` alive.
[[nodiscard]] py::array view_of(const void* data, DType dtype,
                                std::initializer_list<std::size_t> sizes, py::handle owner,
                                bool writable);

/// A read-only view of int32 `[size]` that keeps `owner` alive.
[[nodiscard]] IdArray id_view(std::span<const std::byte> data, py::handle owner);

/// `value` as an aligned, C-contiguous array of elements of `dtype`. Arrays must have that dtype
/// (or show it as `numpy_dtype` does); lists and tuples of numbers are converted where nothing but
/// rounding is lost.
/// @throws ShapeError for anything else.
[[nodiscard]] py::array to_elements(const char* where, const char* argument, const ArrayLike& value,
                                    DType dtype);

/// `value` as an aligned, C-contiguous float64 array; what NumPy casts safely to float64 is cast.
/// @throws ShapeError for anything else.
[[nodiscard]] py::array to_float64(const char* where, const char* argument, const ArrayLike& value);

/// True for arrays whose elements lie as C++ wants them: C-contiguous and aligned.
[[nodiscard]] bool is_plain(const py::array& array);

/// The bytes of a C-contiguous array.
[[nodiscard]] std::span<const std::byte> bytes_of(const py::array& array);

/// `array`, or a copy of it where it lies inside `storage`: what is appended to a cache may be a
/// view of that cache.
[[nodiscard]] py::array apart_from(std::span<const std::byte> storage, py::array array);

/// "(2, 3)"
[[nodiscard]] std::string shape_text(const py::array& array);

}  // namespace pagedkv::python
