#pragma once

// The queue of the module `_metal`, and memory that its device shares with the processor.

#include <cstddef>
#include <memory>
#include <mutex>

#include "metal/queue.hpp"

namespace pagedkv::python::target {

/// The queue of this process's operations. Use it within a `Turn`, but for `owns`.
[[nodiscard]] metal::Queue& queue();

/// Memory of the device of at least so many bytes, which is given back with its last owner.
/// @throws the device's error, when there is none left.
[[nodiscard]] std::shared_ptr<void> allocate(std::size_t bytes);

/// Has the queue, which takes one thread at a time.
class Turn {
 public:
  Turn() : lock_(mutex()) {}

 private:
  static std::mutex& mutex() {
    static std::mutex& shared = *new std::mutex;
    return shared;
  }
  std::lock_guard<std::mutex> lock_;
};

}  // namespace pagedkv::python::target
