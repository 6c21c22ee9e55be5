// The queue and the memory of the module `_metal`.

#include "target/memory.hpp"

#include "metal/device.hpp"

namespace pagedkv::python::target {

metal::Queue& queue() { return metal::default_queue(); }

std::shared_ptr<void> allocate(std::size_t bytes) { return metal::allocate(bytes); }

}  // namespace pagedkv::python::target
