#pragma once

// Arguments of operations on a device that has memory, or a queue, of its own. Index arrays and
// small arrays of floats are read by kernels where they lie on the device; those in memory of the
// CPU, and lists, are copied there. `target::Upload` makes such copies and is part of each device.

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "operands.hpp"
#include "pagedkv/ops/attention_call.hpp"
#include "pagedkv/ops/rope_write_kv_call.hpp"
#include "target/upload.hpp"

namespace pagedkv::python::target {

/// An array of T on the device, `[n]` or `[n, m]` whose rows may have any stride.
template <class T>
class DeviceArray {
 public:
  /// @param expected  shape, for messages.
  /// @throws ShapeError for an array on the device that kernels cannot read as it is, and for one
  ///         in memory of the CPU that does not become one of T.
  DeviceArray(const Site& where, const char* argument, const AnyObject& value, std::size_t ndim,
              const char* expected) {
    const bool list = py::isinstance<py::list>(value) || py::isinstance<py::tuple>(value);
    if (!list) {
      const Tensor tensor(where, argument, value, Place::either);
      tensor.expect_dims(ndim, expected);
      if (!tensor.on_host() && is_readable(tensor)) {
        data_ = reinterpret_cast<const T*>(tensor.data());
        sizes_ = {tensor.size(0), ndim == 2 ? tensor.size(1) : 1};
        stride_ = tensor.stride(0) / static_cast<std::int64_t>(sizeof(T));
        return;
      }
      if (!tensor.is_host()) {
        tensor.refuse(" of " + tensor.type().name() + " on the device",
                      "int" + std::to_string(8 * sizeof(T)) + ", its elements side by side");
      }
    }
    const Integers host(where, argument, value, ndim, expected);
    sizes_ = {host.size(0), ndim == 2 ? host.size(1) : 1};
    stride_ = sizes_.second;
    std::vector<T> values(static_cast<std::size_t>(sizes_.first * sizes_.second));
    for (std::int64_t row = 0; ndim == 2 && row < sizes_.first; ++row) {
      host.copy(row, sizes_.second, values.data() + row * sizes_.second);
    }
    if (ndim == 1) host.copy(0, sizes_.first, values.data());
    copy_.emplace(where, values.data(), values.size() * sizeof(T));
    data_ = static_cast<const T*>(copy_->data());
  }

  [[nodiscard]] const T* data() const noexcept { return data_; }
  /// Of the last dimension, `m`, where there are two.
  [[nodiscard]] std::int64_t size() const noexcept { return sizes_.first; }
  [[nodiscard]] std::int64_t row_size() const noexcept { return sizes_.second; }
  /// From row to row, in elements.
  [[nodiscard]] std::int64_t stride() const noexcept { return stride_; }

 private:
  static bool is_readable(const Tensor& tensor) {
    const auto bytes = static_cast<std::int64_t>(sizeof(T));
    const std::int64_t row = tensor.stride(0), last = tensor.stride(tensor.ndim() - 1);
    const bool aligned = reinterpret_cast<std::uintptr_t>(tensor.data()) % sizeof(T) == 0;
    return tensor.type() == ElementType{'i', sizeof(T)} && last == bytes && row >= 0 &&
           row % bytes == 0 && aligned;
  }

  const T* data_ = nullptr;
  std::pair<std::int64_t, std::int64_t> sizes_{0, 1};
  std::int64_t stride_ = 0;
  std::optional<Upload> copy_;
};

/// The sequences of a call.
class Sequences {
 public:
  Sequences(const Site& where, const AnyObject& block_tables, const AnyObject& seq_lens)
      : where_(where),
        lens_(where, "seq_lens", seq_lens, 1, "(num_seqs,)"),
        tables_(where, "block_tables", block_tables, 2, "(num_seqs, max_blocks)") {
    if (tables_.size() != lens_.size()) {
      pagedkv::detail::throw_shape(where, "block_tables of " + std::to_string(tables_.size()) +
                                              " rows; expected " + std::to_string(lens_.size()));
    }
  }

  /// @param query_start_loc  `[num_seqs + 1]`, or None.
  void start_at(const AnyObject& query_start_loc) {
    if (query_start_loc.is_none()) return;
    starts_.emplace(where_, "query_start_loc", query_start_loc, 1, "(num_seqs + 1,)");
    if (starts_->size() != lens_.size() + 1) {
      pagedkv::detail::throw_shape(where_, "query_start_loc of " + std::to_string(starts_->size()) +
                                               " entries; expected " +
                                               std::to_string(lens_.size() + 1));
    }
  }

  /// Tokens of all sequences: read from the device, which waits for it.
  [[nodiscard]] std::int64_t num_tokens() const {
    std::vector<std::int32_t> lens(static_cast<std::size_t>(lens_.size()));
    download(where_, lens.data(), lens_.data(), lens.size() * sizeof(std::int32_t));
    std::int64_t sum = 0;
    for (const std::int32_t length : lens) sum += std::max(length, 0);
    return sum;
  }

  /// Columns that a tree mask must have, as far as it is known here: the kernels check the rest.
  [[nodiscard]] std::int64_t least_mask_width(const AttentionCall& call) const noexcept {
    return call.query_start_loc == nullptr && call.num_seqs != 0 ? 1 : 0;
  }

  /// Sets the tables and lengths of a call.
  template <class Call>
  void bind(Call& call) const {
    call.block_tables = tables_.data();
    call.block_table_stride = tables_.stride();
    call.max_blocks = tables_.row_size();
    call.seq_lens = lens_.data();
    if constexpr (requires { call.query_start_loc; }) {
      call.query_start_loc = starts_ ? starts_->data() : nullptr;
    }
    call.num_seqs = lens_.size();
  }

 private:
  Site where_;
  DeviceArray<std::int32_t> lens_, tables_;
  std::optional<DeviceArray<std::int32_t>> starts_;
};

/// The slot of each token.
class Slots {
 public:
  Slots(const Site& where, const AnyObject& slot_mapping, std::int64_t num_tokens)
      : slots_(where, "slot_mapping", slot_mapping, 1, "(num_tokens,)") {
    expect_one_a_token(where, "slot_mapping", slots_.size(), num_tokens);
  }
  [[nodiscard]] const std::int64_t* data() const noexcept { return slots_.data(); }

 private:
  DeviceArray<std::int64_t> slots_;
};

/// The position of each token.
class Positions {
 public:
  Positions(const Site& where, const AnyObject& positions, std::int64_t num_tokens)
      : positions_(where, "positions", positions, 1, "(num_tokens,)") {
    expect_one_a_token(where, "positions", positions_.size(), num_tokens);
  }
  void bind(RopeWriteKvCall& call) const noexcept { call.positions = positions_.data(); }

 private:
  DeviceArray<std::int64_t> positions_;
};

/// float32 `[size]`, or None.
class Floats {
 public:
  Floats(const Site& where, const char* argument, const AnyObject& value, std::int64_t size) {
    if (value.is_none()) return;
    const bool list = py::isinstance<py::list>(value) || py::isinstance<py::tuple>(value);
    if (!list) {
      const Tensor tensor(where, argument, value, Place::either);
      const bool plain = tensor.type() == ElementType{'f', 4} && tensor.ndim() == 1 &&
                         tensor.size(0) == size && tensor.stride(0) == 4;
      if (plain && !tensor.on_host()) {
        data_ = reinterpret_cast<const float*>(tensor.data());
        return;
      }
      if (!tensor.is_host()) {
        tensor.refuse(" of " + tensor.type().name() + " and shape " + tensor.shape_text(),
                      "float32 (" + std::to_string(size) + ",), its elements side by side");
      }
    }
    const std::vector<float> values = to_floats(where, argument, value, size);
    copy_.emplace(where, values.data(), values.size() * sizeof(float));
    data_ = static_cast<const float*>(copy_->data());
  }
  /// Null for None.
  [[nodiscard]] const float* data() const noexcept { return data_; }

 private:
  const float* data_ = nullptr;
  std::optional<Upload> copy_;
};

/// `[num_pairs, 2]` blocks or slots, from and to: on the device, or in memory of the CPU.
class Pairs {
 public:
  Pairs(const Site& where, const char* argument, const AnyObject& pairs) {
    const bool list = py::isinstance<py::list>(pairs) || py::isinstance<py::tuple>(pairs);
    if (!list) {
      const Tensor tensor(where, argument, pairs, Place::either);
      if (!tensor.is_host()) {
        on_device_.emplace(where, argument, pairs, 2, "(num_pairs, 2)");
        if (on_device_->row_size() != 2 || on_device_->stride() != 2) {
          tensor.refuse(" of shape " + tensor.shape_text(),
                        "(num_pairs, 2), one pair after the other");
        }
        return;
      }
    }
    on_host_.emplace(where, argument, pairs);
  }
  [[nodiscard]] bool on_device() const noexcept { return on_device_.has_value(); }
  /// `[count, 2]`
  [[nodiscard]] const std::int64_t* data() const noexcept {
    return on_device_ ? on_device_->data()
                      : reinterpret_cast<const std::int64_t*>(on_host_->span().data());
  }
  [[nodiscard]] std::int64_t count() const noexcept {
    return on_device_ ? on_device_->size() : static_cast<std::int64_t>(on_host_->span().size());
  }

 private:
  std::optional<HostPairs> on_host_;
  std::optional<DeviceArray<std::int64_t>> on_device_;
};

}  // namespace pagedkv::python::target
