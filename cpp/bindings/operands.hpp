#pragma once

// Arguments of operations, from arrays of the caller's.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "pagedkv/ops/copy_blocks_call.hpp"
#include "pagedkv/ops/views.hpp"
#include "tensors.hpp"

namespace pagedkv::python {

/// `[num_blocks, num_kv_heads, block_size, head_dim]`, or NHD.
[[nodiscard]] CacheView to_cache(const Tensor& tensor, Layout layout,
                                 const std::optional<DType>& named);

/// `[num_blocks, block_size, size]`: one row a token (MLA).
[[nodiscard]] CacheView to_latent_cache(const Tensor& tensor, const std::optional<DType>& named);

/// `[num_tokens, num_heads, head_dim]`.
[[nodiscard]] RowsView to_rows(const Tensor& tensor, const std::optional<DType>& named);

/// Rows that a cache is written from or read into, whose raw integers are of its dtype where they
/// are as wide: `[num_tokens, num_heads, head_dim]`, or `[num_tokens, size]` for MLA.
[[nodiscard]] RowsView to_cache_rows(const Tensor& tensor, const CacheView& cache,
                                     bool latent = false);

/// A number, float32 `[num_blocks, num_kv_heads]` or `[num_blocks, num_kv_heads, block_size]`.
class Scale {
 public:
  Scale(const Site& where, const char* argument, const AnyObject& value, const CacheView& cache);
  [[nodiscard]] const ScaleView& view() const noexcept { return view_; }
  /// The array; nothing for a number.
  [[nodiscard]] const std::optional<Tensor>& tensor() const noexcept { return tensor_; }

 private:
  std::optional<Tensor> tensor_;
  ScaleView view_;
};

/// Integers of 1 or 2 dimensions in memory of the CPU, read into memory that no other thread
/// changes.
class Integers {
 public:
  /// @param value  an array of integers, or a list of them.
  /// @throws ShapeError for anything else, and unless there are `ndim` dimensions.
  Integers(const Site& where, const char* argument, const AnyObject& value, std::size_t ndim,
           const char* expected);
  [[nodiscard]] std::int64_t size(std::size_t dim = 0) const noexcept { return tensor_.size(dim); }
  /// Copies the first `count` of row `row` (or of all, with one dimension).
  /// @throws ShapeError for one that `T`, std::int32_t or std::int64_t, does not hold.
  template <class T>
  void copy(std::int64_t row, std::int64_t count, T* to) const;
  template <class T>
  [[nodiscard]] std::vector<T> values() const {
    std::vector<T> all(static_cast<std::size_t>(size()));
    copy<T>(0, size(), all.data());
    return all;
  }

 private:
  py::object owner_;  ///< what a list became
  Tensor tensor_;
};

/// @throws ShapeError unless there is one a token.
void expect_one_a_token(const Site& where, const char* argument, std::int64_t came,
                        std::int64_t num_tokens);

/// Integers, one a token, of 64 bits.
/// @throws ShapeError for another number of them.
[[nodiscard]] std::vector<std::int64_t> one_a_token(const Site& where, const char* argument,
                                                    const AnyObject& value,
                                                    std::int64_t num_tokens);

/// `[num_pairs, 2]` blocks or slots, from and to, in memory of the CPU.
class HostPairs {
 public:
  HostPairs(const Site& where, const char* argument, const AnyObject& pairs);
  [[nodiscard]] std::span<const IndexPair> span() const noexcept { return pairs_; }

 private:
  std::vector<IndexPair> pairs_;
};

/// float32 `[size]`, from an array or a list of numbers, in memory that no other thread changes.
[[nodiscard]] std::vector<float> to_floats(const Site& where, const char* argument,
                                           const AnyObject& value, std::int64_t size);

/// @throws ShapeError for a name other than "HND" and "NHD".
[[nodiscard]] Layout to_layout(const char* where, const py::str& layout);

/// The dtype of raw integers, if one is named.
[[nodiscard]] std::optional<DType> to_named(const char* where, const DTypeLikeOrNone& dtype);

}  // namespace pagedkv::python
