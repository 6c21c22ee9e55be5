#pragma once

// Small arrays in memory of a Metal device.

#include <cstddef>
#include <cstring>
#include <memory>

#include "target/memory.hpp"
#include "tensors.hpp"
#include "without_gil.hpp"

namespace pagedkv::python::target {

/// A copy in memory of the device. What was dispatched with it keeps that memory.
class Upload {
 public:
  Upload(const Site&, const void* from, std::size_t bytes) : memory_(allocate(bytes)) {
    if (bytes != 0) std::memcpy(memory_.get(), from, bytes);
  }
  [[nodiscard]] const void* data() const noexcept { return memory_.get(); }

 private:
  std::shared_ptr<void> memory_;
};

/// Reads memory of the device, after what was dispatched.
inline void download(const Site&, void* to, const void* from, std::size_t bytes) {
  const WithoutGil released;
  const Turn turn;
  queue().wait();
  if (bytes != 0) std::memcpy(to, from, bytes);
}

}  // namespace pagedkv::python::target
