#pragma once

#include <memory>

#include "bindings.hpp"
#include "pagedkv/core/manager/batch.hpp"

namespace pagedkv::python {

/// A batch and, where the caller gave its memory, the object that owns that.
struct PyBatch {
  std::shared_ptr<Batch> batch;
  py::object buffer;
};

}  // namespace pagedkv::python
