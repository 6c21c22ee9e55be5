// Arrays of NumPy, torch and others, where they lie.

#include "tensors.hpp"

#include <algorithm>
#include <utility>
#include <vector>

#include "dlpack.hpp"

namespace pagedkv::python {
namespace {

constexpr int kFirstRegistered = 256;  ///< number of a dtype that is not NumPy's own

/// The class torch.Tensor; null while nobody has imported torch.
py::object torch_tensor_class() {
  const py::dict modules(py::module_::import("sys").attr("modules"));
  const py::str name("torch");
  if (!modules.contains(name)) return {};
  return py::getattr(modules[name], "Tensor", py::none());
}

bool is_torch(py::handle value) {
  const py::object cls = torch_tensor_class();
  return cls && !cls.is_none() && py::isinstance(value, cls);
}

/// The element type of that NumPy dtype; `kind` 0 for none of ours.
ElementType element_type(const py::dtype& dtype) {
  const auto bytes = static_cast<std::size_t>(dtype.itemsize());
  const char order = dtype.byteorder();
  if (order != '=' && order != '|') return {};
  switch (dtype.kind()) {
    case 'f':
      // Types that other libraries registered may be of this kind, too.
      if (dtype.num() < kFirstRegistered) return {'f', bytes};
      break;
    case 'i': return {'i', bytes};
    case 'u': return {'u', bytes};
    case 'b': return {'?', bytes};
    default: break;
  }
  const std::string name = text(dtype.attr("name"));
  if (name == "bfloat16") return {'b', 2};
  if (name == "float8_e4m3fn") return {'4', 1};
  if (name == "float8_e5m2") return {'5', 1};
  return {};
}

/// The element type of that DLPack dtype; `kind` 0 for none of ours.
ElementType element_type(const dlpack::DataType& dtype) {
  if (dtype.lanes != 1 || dtype.bits % 8 != 0) return {};
  const std::size_t bytes = dtype.bits / 8U;
  switch (dtype.code) {
    case dlpack::kInt: return {'i', bytes};
    case dlpack::kUInt: return {'u', bytes};
    case dlpack::kFloat: return {'f', bytes};
    case dlpack::kBool: return {'?', bytes};
    case dlpack::kBfloat: return {'b', bytes};
    case dlpack::kFloat8E4m3fn: return {'4', bytes};
    case dlpack::kFloat8E5m2: return {'5', bytes};
    default: return {};
  }
}

std::optional<DType> stored_dtype(ElementType type) {
  switch (type.kind) {
    case 'f':
      if (type.bytes == 8) return DType::float64;
      if (type.bytes == 4) return DType::float32;
      if (type.bytes == 2) return DType::float16;
      return std::nullopt;
    case 'b': return DType::bfloat16;
    case '4': return DType::float8_e4m3;
    case '5': return DType::float8_e5m2;
    default: return std::nullopt;
  }
}

/// Whether the dtype of `value`, a torch tensor, is one of fp8; gives the element type.
ElementType torch_float8(py::handle value) {
  const std::string name = text(value.attr("dtype"));
  if (name == "torch.float8_e4m3fn") return {'4', 1};
  if (name == "torch.float8_e5m2") return {'5', 1};
  return {};
}

std::string device_name(std::int32_t type) {
  switch (type) {
    case 2: return "cuda";
    case 4: return "opencl";
    case 7: return "vulkan";
    case 8: return "metal";
    case 10: return "rocm";
    case 14: return "oneapi";
    default: return "number " + std::to_string(type) + " of DLPack";
  }
}

/// The capsule of `value`, with the version of DLPack that tells what is read-only where it has it.
py::object capsule_of(py::handle value) {
  try {
    return value.attr("__dlpack__")(py::arg("max_version") = py::make_tuple(1, 0));
  } catch (const py::error_already_set& error) {
    if (!error.matches(PyExc_TypeError)) throw;
  }
  return value.attr("__dlpack__")();
}

}  // namespace

std::string ElementType::name() const {
  switch (kind) {
    case 'b': return "bfloat16";
    case '4': return "float8_e4m3";
    case '5': return "float8_e5m2";
    case '?': return "bool";
    case 'f': return "float" + std::to_string(8 * bytes);
    case 'i': return "int" + std::to_string(8 * bytes);
    default: return "uint" + std::to_string(8 * bytes);
  }
}

Tensor::Tensor(const char* where, const char* argument, py::handle value)
    : where_(where), argument_(argument), value_(value) {
  if (py::isinstance<py::array>(value)) {
    read_numpy(py::reinterpret_borrow<py::array>(value));
  } else {
    read_dlpack(value);
  }
  set_strides();
}

void Tensor::refuse(const std::string& given, const std::string& expected) const {
  pagedkv::detail::throw_shape(where_, std::string(argument_) + given + "; expected " + expected);
}

void Tensor::read_numpy(const py::array& array) {
  type_ = element_type(array.dtype());
  if (type_.kind == 0) {
    refuse(" of dtype " + text(array.dtype()), "floats or integers in this machine's byte order");
  }
  ndim_ = static_cast<std::size_t>(array.ndim());
  if (ndim_ > kMaxDims) refuse(" of shape " + python::shape_text(array), "at most 4 dimensions");
  data_ = static_cast<std::byte*>(const_cast<void*>(array.data()));
  writable_ = array.writeable();
  for (std::size_t i = 0; i < ndim_; ++i) {
    shape_[i] = array.shape(static_cast<py::ssize_t>(i));
    strides_[i] = array.strides(static_cast<py::ssize_t>(i));
  }
}

void Tensor::read_dlpack(py::handle value) {
  if (!py::hasattr(value, "__dlpack__") || !py::hasattr(value, "__dlpack_device__")) {
    refuse(" of type " + text(py::type::handle_of(value).attr("__name__")),
           "an array: NumPy's, torch's, or one with __dlpack__");
  }
  is_torch_ = is_torch(value);
  py::object exported = py::reinterpret_borrow<py::object>(value);
  if (is_torch_ && value.attr("requires_grad").cast<bool>()) {
    if (py::module_::import("torch").attr("is_grad_enabled")().cast<bool>()) {
      pagedkv::detail::throw_unsupported(
          where_, std::string(argument_) +
                      " requires grad, which operations do not record; expected a call under "
                      "torch.no_grad(), or " +
                      argument_ + ".detach()");
    }
    exported = value.attr("detach")();
  }
  const auto device = exported.attr("__dlpack_device__")().cast<std::pair<int, int>>().first;
  if (device != dlpack::kCpu && device != dlpack::kCudaHost && device != dlpack::kRocmHost) {
    pagedkv::detail::throw_unsupported(where_, std::string(argument_) + " on device " +
                                                   device_name(device) +
                                                   "; expected memory of the CPU");
  }
  try {
    owner_ = capsule_of(exported);
  } catch (const py::error_already_set& error) {
    // Not every torch exports fp8.
    const ElementType float8 = is_torch_ ? torch_float8(exported) : ElementType{};
    if (float8.kind == 0) {
      if (!error.matches(PyExc_Exception)) throw;
      pagedkv::detail::throw_unsupported(
          where_, std::string(argument_) + " that its library does not export (" +
                      text(error.value()) + "); expected an array with DLPack");
    }
    type_ = float8;
    owner_ = capsule_of(exported.attr("view")(py::module_::import("torch").attr("uint8")));
  }
  const dlpack::Tensor* tensor = nullptr;
  if (PyCapsule_IsValid(owner_.ptr(), "dltensor_versioned") != 0) {
    const auto* managed = static_cast<const dlpack::VersionedTensor*>(
        PyCapsule_GetPointer(owner_.ptr(), "dltensor_versioned"));
    if (managed->major > 1) {
      pagedkv::detail::throw_unsupported(where_, std::string(argument_) + " of DLPack " +
                                                     std::to_string(managed->major) +
                                                     "; expected version 1");
    }
    writable_ = (managed->flags & dlpack::kReadOnly) == 0;
    tensor = &managed->tensor;
  } else if (PyCapsule_IsValid(owner_.ptr(), "dltensor") != 0) {
    tensor =
        &static_cast<const dlpack::ManagedTensor*>(PyCapsule_GetPointer(owner_.ptr(), "dltensor"))
             ->tensor;
  } else {
    refuse(" whose __dlpack__ gives no capsule of DLPack",
           "one named dltensor or dltensor_versioned");
  }
  if (type_.kind == 0) type_ = element_type(tensor->dtype);
  if (type_.kind == 0) {
    refuse(" of elements of code " + std::to_string(tensor->dtype.code) + " and " +
               std::to_string(tensor->dtype.bits) + " bits",
           "floats or integers");
  }
  if (tensor->ndim < 0 || tensor->ndim > static_cast<int>(kMaxDims)) {
    refuse(" of " + std::to_string(tensor->ndim) + " dimensions", "at most 4");
  }
  ndim_ = static_cast<std::size_t>(tensor->ndim);
  data_ = static_cast<std::byte*>(tensor->data) + tensor->byte_offset;
  const auto bytes = static_cast<std::int64_t>(type_.bytes);
  std::int64_t compact = bytes;
  for (std::size_t i = ndim_; i-- > 0;) {
    shape_[i] = tensor->shape[i];
    strides_[i] = tensor->strides == nullptr ? compact : tensor->strides[i] * bytes;
    compact *= std::max<std::int64_t>(shape_[i], 1);
  }
}

void Tensor::set_strides() {
  auto compact = static_cast<std::int64_t>(type_.bytes);
  for (std::size_t i = ndim_; i-- > 0;) {
    // What libraries give for a dimension that is never stepped along is anything.
    if (shape_[i] <= 1) strides_[i] = compact;
    compact = strides_[i] * std::max<std::int64_t>(shape_[i], 1);
  }
}

std::string Tensor::shape_text() const {
  std::string joined = "(";
  for (std::size_t i = 0; i < ndim_; ++i) {
    joined += (i == 0 ? "" : ", ") + std::to_string(shape_[i]);
  }
  return joined + (ndim_ == 1 ? ",)" : ")");
}

DType Tensor::dtype(const std::optional<DType>& named) const {
  auto stored = stored_dtype(type_);
  if (!stored && named && is_raw() && std::max(dtype_bits(*named) / 8, 1U) == type_.bytes) {
    stored = named;
  }
  if (!stored && !named && type_ == ElementType{'u', 2}) stored = DType::bfloat16;
  if (!stored && !named && type_ == ElementType{'i', 1}) stored = DType::int8;
  if (!stored && !named && is_raw()) {
    refuse(" of " + type_.name(),
           "dtype= to name what its integers are: float8_e4m3, float8_e5m2, int8 or int4");
  }
  if (!stored) refuse(" of " + type_.name(), "floats, or integers of 8 or 16 bits");
  if (named && *stored != *named) {
    refuse(" of " + type_.name(), std::string(dtype_name(*named)) + ", which dtype= names");
  }
  return *stored;
}

bool Tensor::is_raw() const noexcept {
  return type_ == ElementType{'u', 1} || type_ == ElementType{'u', 2} ||
         type_ == ElementType{'i', 1};
}

void Tensor::expect_dims(std::size_t ndim, const char* expected) const {
  if (ndim_ != ndim) refuse(" of shape " + shape_text(), expected);
}

void Tensor::expect_rows() const {
  const auto bytes = static_cast<std::int64_t>(type_.bytes);
  bool whole = reinterpret_cast<std::uintptr_t>(data_) % type_.bytes == 0;
  for (std::size_t i = 0; i < ndim_; ++i) {
    if (strides_[i] < 0) refuse(" with a negative stride", "strides of 0 or more");
    whole = whole && strides_[i] % bytes == 0;
  }
  if (!whole) refuse(" whose elements are not aligned", "aligned elements");
  if (ndim_ != 0 && strides_[ndim_ - 1] != bytes) {
    refuse(
        " whose last dimension has a stride of " + std::to_string(strides_[ndim_ - 1]) + " bytes",
        "its elements side by side");
  }
}

void Tensor::expect_writable() const {
  if (!writable_) refuse(" that is read-only", "an array to write to");
}

std::pair<py::object, std::byte*> Tensor::make_like(std::initializer_list<std::int64_t> shape,
                                                    bool float32) const {
  const std::vector<std::int64_t> sizes(shape);
  if (is_torch_) {
    py::object made =
        float32 ? value_.attr("new_empty")(
                      sizes, py::arg("dtype") = py::module_::import("torch").attr("float32"))
                : value_.attr("new_empty")(sizes);
    auto* const data = reinterpret_cast<std::byte*>(made.attr("data_ptr")().cast<std::uintptr_t>());
    return {std::move(made), data};
  }
  const py::dtype dtype = float32 ? py::dtype::of<float>()
                          : py::isinstance<py::array>(value_)
                              ? py::reinterpret_borrow<py::array>(value_).dtype()
                              : numpy_dtype(this->dtype(std::nullopt));
  py::array made(dtype, std::vector<py::ssize_t>(sizes.begin(), sizes.end()));
  auto* const data = static_cast<std::byte*>(made.mutable_data());
  return {std::move(made), data};
}

}  // namespace pagedkv::python
