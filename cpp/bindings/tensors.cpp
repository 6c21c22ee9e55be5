// Arrays of NumPy, torch and others, where they lie.

#include "tensors.hpp"

#include <algorithm>
#include <utility>
#include <vector>

#include "target/place.hpp"

namespace pagedkv::python {
namespace {

constexpr std::int32_t kUnknownDevice = -1;
constexpr int kFirstRegistered = 256;  ///< number of a dtype that is not NumPy's own

/// What of torch is looked at, kept for the life of the process.
struct Torch {
  py::object tensor, strided;
  std::vector<std::pair<py::object, ElementType>> dtypes;
  /// Views a tensor from C; null where torch is too old for it.
  int (*view)(void*, dlpack::Tensor*) = nullptr;

  /// Null while nobody has imported torch.
  static const Torch* get() {
    static py::gil_safe_call_once_and_store<Torch> stored;
    static bool found = false;
    if (!found) {
      const py::object modules = py::module_::import("sys").attr("modules");
      const py::object torch = modules.attr("get")("torch");
      if (torch.is_none() || !py::hasattr(torch, "Tensor")) return nullptr;
      stored.call_once_and_store_result([&] { return Torch(torch); });
      found = true;
    }
    return &stored.get_stored();
  }

  explicit Torch(const py::object& torch)
      : tensor(torch.attr("Tensor")), strided(torch.attr("strided")) {
    constexpr std::pair<const char*, ElementType> types[] = {
        {"float64", {'f', 8}},  {"float32", {'f', 4}},       {"float16", {'f', 2}},
        {"bfloat16", {'b', 2}}, {"float8_e4m3fn", {'4', 1}}, {"float8_e5m2", {'5', 1}},
        {"int8", {'i', 1}},     {"uint8", {'u', 1}},         {"int32", {'i', 4}},
        {"int64", {'i', 8}},    {"int16", {'i', 2}},         {"uint16", {'u', 2}},
        {"bool", {'?', 1}}};
    for (const auto& [name, type] : types) {
      if (py::hasattr(torch, name)) dtypes.emplace_back(torch.attr(name), type);
    }
    constexpr const char* attribute = "__dlpack_c_exchange_api__";
    const py::object capsule = py::getattr(tensor, attribute, py::none());
    constexpr const char* name = "dlpack_exchange_api";
    if (PyCapsule_IsValid(capsule.ptr(), name) == 0) return;
    const auto* api =
        static_cast<const dlpack::ExchangeApi*>(PyCapsule_GetPointer(capsule.ptr(), name));
    while (api != nullptr && api->major != 1) api = api->older;
    if (api != nullptr) view = api->view;
  }

  [[nodiscard]] ElementType type_of(const py::object& dtype) const {
    for (const auto& [known, type] : dtypes) {
      if (dtype.is(known)) return type;
    }
    return {};
  }
};

/// Whether `value` is one of torch's.
bool is_torch_tensor(py::handle value) {
  const Torch* const torch = Torch::get();
  return torch != nullptr && py::isinstance(value, torch->tensor);
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

/// What torch calls it; bytes for int4, which it lacks.
std::string torch_name(DType dtype) {
  if (dtype == DType::float8_e4m3) return "float8_e4m3fn";
  return dtype == DType::int4 ? "uint8" : std::string(dtype_name(dtype));
}

std::string device_name(dlpack::Device device) {
  const std::string number = ":" + std::to_string(device.id);
  switch (device.type) {
    case dlpack::kCpu: return "cpu";
    case dlpack::kCuda: return "cuda" + number;
    case dlpack::kCudaManaged: return "cuda" + number + " (managed)";
    case 4: return "opencl";
    case 7: return "vulkan";
    case dlpack::kMetal: return "metal";
    case 10: return "rocm";
    case 14: return "oneapi";
    default: return "number " + std::to_string(device.type) + " of DLPack";
  }
}

/// The device of one of torch's.
dlpack::Device torch_device(py::handle value) {
  if (value.attr("is_cpu").cast<bool>()) return {dlpack::kCpu, 0};
  const py::object device = value.attr("device");
  const std::string type = text(device.attr("type"));
  if (type == "cuda") return {dlpack::kCuda, device.attr("index").cast<std::int32_t>()};
  return {kUnknownDevice, 0};  // the buffers of "mps" tell no address
}

/// The capsule of `value`, with the version of DLPack that tells what is read-only where it has it.
py::object capsule_of(py::handle value, dlpack::Device device) {
  py::dict keywords;
  const py::object stream = target::stream_for_dlpack(value, device);
  if (!stream.is_none()) keywords["stream"] = stream;
  try {
    return value.attr("__dlpack__")(**keywords, py::arg("max_version") = py::make_tuple(1, 0));
  } catch (const py::error_already_set& error) {
    if (!error.matches(PyExc_TypeError)) throw;
  }
  return value.attr("__dlpack__")(**keywords);
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

void Site::meet(const char* argument, py::handle array, dlpack::Device device) const {
  const bool met = first_.ptr() != nullptr;
  if (!target::takes(device) || (met && device.id != device_.id && !dlpack::is_host(device))) {
    pagedkv::detail::throw_unsupported(
        function_,
        std::string(argument) + " on device " +
            (device.type == kUnknownDevice ? text(array.attr("device")) : device_name(device)) +
            "; expected " + (met ? "device " + device_name(device_) : target::kTaken));
  }
  if (met) return;
  first_ = array;
  device_ = device;
}

Tensor::Tensor(const Site& site, const char* argument, py::handle value, Place place)
    : where_(site), argument_(argument), value_(value) {
  if (py::isinstance<py::array>(value)) {
    meet(site, target::device_of(value), place);
    read_numpy(py::reinterpret_borrow<py::array>(value));
  } else if (is_torch_tensor(value)) {
    meet(site, torch_device(value), place);
    read_torch(value);
  } else {
    const dlpack::Device device = dlpack_device(value);
    meet(site, device, place);
    read_dlpack(value, device);
  }
  set_strides();
}

// Before the array itself is asked for: another device's library may have to wait for it.
void Tensor::meet(const Site& site, dlpack::Device device, Place place) {
  is_host_ = dlpack::is_host(device);
  on_host_ = place == Place::either && !target::takes(device) && is_host_;
  if (!on_host_) site.meet(argument_, value_, device);
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

// Not by __dlpack__, which is Python, and takes ten times as long as the attributes do; these,
// three times as long as a view from C.
void Tensor::read_torch(py::handle value) {
  const Torch& torch = *Torch::get();
  is_torch_ = true;
  if (value.attr("requires_grad").cast<bool>() &&
      py::module_::import("torch").attr("is_grad_enabled")().cast<bool>()) {
    pagedkv::detail::throw_unsupported(
        where_, std::string(argument_) +
                    " requires grad, which operations do not record; expected a call under "
                    "torch.no_grad(), or " +
                    argument_ + ".detach()");
  }
  if (value.attr("is_neg")().cast<bool>())
    refuse(" whose sign is still to be changed", "x.resolve_neg()");
  // What it cannot view, the attributes tell of. A class derived from torch's may have no memory.
  if (torch.view != nullptr && py::type::handle_of(value).is(torch.tensor)) {
    dlpack::Tensor viewed{};
    if (torch.view(value.ptr(), &viewed) == 0 && viewed.data != nullptr &&
        element_type(viewed.dtype).kind != 0 && viewed.ndim <= static_cast<int>(kMaxDims)) {
      read_view(viewed);
      return;
    }
    PyErr_Clear();
  }
  const py::object dtype = value.attr("dtype");
  type_ = torch.type_of(dtype);
  if (type_.kind == 0) refuse(" of dtype " + text(dtype), "floats or integers");
  const py::object layout = value.attr("layout");
  if (!layout.is(torch.strided)) refuse(" of layout " + text(layout), "a dense tensor");
  const py::tuple shape = value.attr("shape");
  const py::tuple strides = value.attr("stride")();
  ndim_ = shape.size();
  if (ndim_ > kMaxDims) refuse(" of shape " + text(shape), "at most 4 dimensions");
  for (std::size_t i = 0; i < ndim_; ++i) {
    shape_[i] = shape[i].cast<std::int64_t>();
    strides_[i] = strides[i].cast<std::int64_t>() * static_cast<std::int64_t>(type_.bytes);
  }
  data_ = reinterpret_cast<std::byte*>(value.attr("data_ptr")().cast<std::uintptr_t>());
  const auto end = shape_.begin() + static_cast<std::ptrdiff_t>(ndim_);
  if (data_ == nullptr && std::find(shape_.begin(), end, 0) == end) {
    pagedkv::detail::throw_unsupported(
        where_, std::string(argument_) + " that has a shape and no contents (" +
                    text(py::type::handle_of(value).attr("__name__")) +
                    "); expected contents, or while a program is traced a call of "
                    "pagedkv.integrations.torch");
  }
}

dlpack::Device Tensor::dlpack_device(py::handle value) const {
  if (!py::hasattr(value, "__dlpack__") || !py::hasattr(value, "__dlpack_device__")) {
    refuse(" of type " + text(py::type::handle_of(value).attr("__name__")),
           "an array: NumPy's, torch's, or one with __dlpack__");
  }
  const auto [type, id] = value.attr("__dlpack_device__")().cast<std::pair<int, int>>();
  return {type, id};
}

void Tensor::read_dlpack(py::handle value, dlpack::Device device) {
  try {
    owner_ = capsule_of(value, device);
  } catch (const py::error_already_set& error) {
    if (!error.matches(PyExc_Exception)) throw;
    pagedkv::detail::throw_unsupported(
        where_, std::string(argument_) + " that its library does not export (" +
                    text(error.value()) + "); expected an array that DLPack can show");
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
    // Before version 1 nothing said that memory must not be written to: JAX's, say.
    writable_ = !dlpack::is_host(device);
  } else {
    refuse(" whose __dlpack__ gives no capsule of DLPack",
           "one named dltensor or dltensor_versioned");
  }
  read_view(*tensor);
}

void Tensor::read_view(const dlpack::Tensor& tensor) {
  type_ = element_type(tensor.dtype);
  if (type_.kind == 0) {
    refuse(" of elements of code " + std::to_string(tensor.dtype.code) + " and " +
               std::to_string(tensor.dtype.bits) + " bits",
           "floats or integers");
  }
  if (tensor.ndim < 0 || tensor.ndim > static_cast<int>(kMaxDims)) {
    refuse(" of " + std::to_string(tensor.ndim) + " dimensions", "at most 4");
  }
  ndim_ = static_cast<std::size_t>(tensor.ndim);
  data_ = static_cast<std::byte*>(tensor.data) + tensor.byte_offset;
  const auto bytes = static_cast<std::int64_t>(type_.bytes);
  std::int64_t compact = bytes;
  for (std::size_t i = ndim_; i-- > 0;) {
    shape_[i] = tensor.shape[i];
    strides_[i] = tensor.strides == nullptr ? compact : tensor.strides[i] * bytes;
    compact *= std::max<std::int64_t>(shape_[i], 1);
  }
}

void Tensor::set_strides() {
  const auto end = shape_.begin() + static_cast<std::ptrdiff_t>(ndim_);
  const bool empty = std::find(shape_.begin(), end, 0) != end;
  auto compact = static_cast<std::int64_t>(type_.bytes);
  for (std::size_t i = ndim_; i-- > 0;) {
    // What libraries give for a dimension that is never stepped along is anything.
    if (empty || shape_[i] <= 1) strides_[i] = compact;
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

void Tensor::expect_aligned() const {
  const auto bytes = static_cast<std::int64_t>(type_.bytes);
  bool whole = reinterpret_cast<std::uintptr_t>(data_) % type_.bytes == 0;
  for (std::size_t i = 0; i < ndim_; ++i) {
    if (strides_[i] < 0) refuse(" with a negative stride", "strides of 0 or more");
    whole = whole && strides_[i] % bytes == 0;
  }
  if (!whole) refuse(" whose elements are not aligned", "aligned elements");
}

void Tensor::expect_rows() const {
  expect_aligned();
  const auto bytes = static_cast<std::int64_t>(type_.bytes);
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
                                                    const std::optional<DType>& dtype) const {
  const std::vector<std::int64_t> sizes(shape);
  const bool same = !dtype || stored_dtype(type_) == dtype;
  if (is_torch_) {
    const py::object type =
        same ? value_.attr("dtype") : py::module_::import("torch").attr(torch_name(*dtype).c_str());
    py::object made = value_.attr("new_empty")(sizes, py::arg("dtype") = type);
    auto* const data = reinterpret_cast<std::byte*>(made.attr("data_ptr")().cast<std::uintptr_t>());
    return {std::move(made), data};
  }
  const bool as_given = same && py::isinstance<py::array>(value_);
  const py::dtype type = as_given ? py::reinterpret_borrow<py::array>(value_).dtype()
                                  : numpy_dtype(dtype ? *dtype : this->dtype(std::nullopt));
  const std::vector<py::ssize_t> dims(sizes.begin(), sizes.end());
  if (auto made = target::make_beside(where_, value_, type, dims)) return *std::move(made);
  py::array made(type, dims);
  auto* const data = static_cast<std::byte*>(made.mutable_data());
  return {std::move(made), data};
}

}  // namespace pagedkv::python
