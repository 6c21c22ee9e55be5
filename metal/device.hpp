#pragma once

// The Metal device of this machine: its memory, which the processor shares, and a queue.

#include <cstddef>
#include <memory>
#include <string>

#include "metal/queue.hpp"
#include "pagedkv/core/errors.hpp"

namespace pagedkv::metal {

/// Metal refused or failed.
class MetalError : public Error {
 public:
  using Error::Error;
};

/// Memory in a buffer of the device with shared storage, aligned to a page, of at least so many
/// bytes. Kernels that were given it keep it until they have run. Its bytes are anything.
/// @throws MetalError when there is none left, or no device.
[[nodiscard]] std::shared_ptr<void> allocate(std::size_t bytes);

/// The contents of a buffer of somebody else's (an `id<MTLBuffer>`), which is kept: from then on
/// kernels can be given addresses in it.
/// @throws UnsupportedError for storage that the processor does not share, or another device's.
[[nodiscard]] std::shared_ptr<void> adopt(void* buffer);

/// Makes whole pages of memory a buffer without a copy. The memory outlives what is returned.
/// @throws MetalError where Metal does not.
[[nodiscard]] std::shared_ptr<void> adopt_memory(void* memory, std::size_t bytes);

/// Why kernels do not run on this machine; empty where they do. They ask for a device of family
/// Apple 7 (M1) or later, whose simdgroups reduce and multiply matrices: virtual machines show an
/// older one.
[[nodiscard]] std::string missing();

/// Has the device's driver compile the kernels' text, as it does where the program holds no library
/// of them; any device can.
/// @returns whether there is one.
/// @throws MetalError with the compiler's words.
bool compile_kernels();

/// A queue of its own, for one thread at a time.
/// @throws UnsupportedError, with what `missing` says; MetalError when the kernels do not compile.
[[nodiscard]] std::unique_ptr<Queue> make_queue();

/// The queue that contexts have unless told. Never destroyed.
/// @throws as `make_queue`.
[[nodiscard]] Queue& default_queue();

}  // namespace pagedkv::metal
