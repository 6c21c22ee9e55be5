#include "pagedkv/core/ssm_state_pool.hpp"

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "arrays.hpp"

namespace pagedkv::python {
namespace {

constexpr const char* kSpecDoc = R"(What one request's slot of recurrent state holds.

Over all layers: the state ``[num_layers, num_heads, head_dim, d_state]`` and the inputs that the
causal convolution still needs, ``[num_layers, conv_dim, d_conv - 1]``.)";

constexpr const char* kPoolDoc = R"(A fixed number of slots of recurrent state in host memory.

A slot reads as zero and at position 0 whenever it is handed out.)";

constexpr const char* kViewDoc = R"(One request's recurrent state, for reading.

Once the slot is released every access raises InvalidSlotError, also when the slot has been handed
out again.)";

constexpr const char* kSnapshotDoc = R"(A copy of one request's recurrent state and position.

``to_bytes`` and ``from_bytes`` carry it to another process: a checked header and raw bytes.)";

/// A slot handle that keeps the pool's Python object alive.
template <class Slot>
struct PySlot {
  py::object pool;
  Slot slot;
};
using PySlotView = PySlot<SsmSlotView>;
using PySlotMut = PySlot<SsmSlot>;

SsmStateSpec make_spec(const Index& num_layers, const Index& num_heads, const Index& head_dim,
                       const Index& d_state, const Index& conv_dim, const Index& d_conv,
                       const DTypeLike& dtype) {
  constexpr const char* where = "SsmStateSpec";
  const SsmStateSpec spec{to_size(where, "num_layers", num_layers),
                          to_size(where, "num_heads", num_heads),
                          to_size(where, "head_dim", head_dim),
                          to_size(where, "d_state", d_state),
                          to_size(where, "conv_dim", conv_dim),
                          to_size(where, "d_conv", d_conv),
                          to_dtype(where, dtype)};
  spec.validate();
  return spec;
}

std::vector<py::ssize_t> ssm_shape(const SsmStateSpec& spec) {
  return {static_cast<py::ssize_t>(spec.num_layers), static_cast<py::ssize_t>(spec.num_heads),
          static_cast<py::ssize_t>(spec.head_dim), static_cast<py::ssize_t>(spec.d_state)};
}

std::vector<py::ssize_t> conv_shape(const SsmStateSpec& spec) {
  return {static_cast<py::ssize_t>(spec.num_layers), static_cast<py::ssize_t>(spec.conv_dim),
          static_cast<py::ssize_t>(spec.d_conv - 1)};
}

const SsmStateSpec& spec_of(const py::object& pool) {
  return pool.cast<const SsmStatePool&>().spec();
}

template <class Slot>
void register_slot(py::class_<PySlot<Slot>>& cls, bool writable) {
  using Self = PySlot<Slot>;
  cls.def_property_readonly(
         "ssm_state",
         [writable](const Self& self) {
           const auto& spec = spec_of(self.pool);
           return view_of(self.slot.ssm_state().data(), spec.dtype, ssm_shape(spec), self.pool,
                          writable);
         },
         "View ``[num_layers, num_heads, head_dim, d_state]``.")
      .def_property_readonly(
          "conv_state",
          [writable](const Self& self) {
            const auto& spec = spec_of(self.pool);
            return view_of(self.slot.conv_state().data(), spec.dtype, conv_shape(spec), self.pool,
                           writable);
          },
          "View ``[num_layers, conv_dim, d_conv - 1]``.")
      .def_property_readonly(
          "position", [](const Self& self) { return self.slot.position(); },
          "Tokens that the state has consumed.")
      .def_property_readonly(
          "request_id", [](const Self& self) { return self.slot.request_id(); },
          "The id that the slot was allocated for.")
      .def_property_readonly("index", [](const Self& self) { return self.slot.index(); })
      .def_property_readonly(
          "is_live", [](const Self& self) { return self.slot.is_live(); },
          "False once the slot was released.")
      .def(
          "snapshot", [](const Self& self) { return self.slot.snapshot(); },
          "A copy of state and position that outlives the slot.")
      .def("__repr__", [writable](const Self& self) {
        const std::string name = writable ? "SsmSlot(" : "SsmSlotView(";
        if (!self.slot.is_live()) return name + std::to_string(self.slot.index()) + ", released)";
        return name + std::to_string(self.slot.index()) +
               ", request_id=" + std::to_string(self.slot.request_id()) +
               ", position=" + std::to_string(self.slot.position()) + ")";
      });
  refuse_pickling(cls, "save snapshot().to_bytes() instead");
}

template <class Slot, class Pool>
std::optional<PySlot<Slot>> find_slot(const py::object& owner, const Index& index) {
  auto& pool = owner.cast<Pool&>();
  const auto number = py::reinterpret_steal<py::object>(PyNumber_Index(index.ptr()));
  const std::size_t slot = PyLong_AsSize_t(number.ptr());
  if (slot == static_cast<std::size_t>(-1) && PyErr_Occurred() != nullptr) {
    PyErr_Clear();  // negative or beyond 64 bits: no such slot
    return std::nullopt;
  }
  auto found = pool.slot(slot);
  if (!found) return std::nullopt;
  return PySlot<Slot>{owner, *found};
}

std::string pool_repr(const SsmStatePool& self) {
  return "SsmStatePool(capacity=" + std::to_string(self.capacity()) +
         ", used=" + std::to_string(self.used_count()) + ", spec=" + self.spec().repr() + ")";
}

void register_spec(py::module_& m) {
  py::class_<SsmStateSpec> cls(m, "SsmStateSpec", kSpecDoc);
  cls.def(py::init(&make_spec), py::arg("num_layers"), py::arg("num_heads"), py::arg("head_dim"),
          py::arg("d_state"), py::arg("conv_dim"), py::arg("d_conv"), py::arg("dtype") = "float32",
          "Raises ShapeError for a dimension of 0 (conv_dim may be 0), UnsupportedError for a dtype "
          "below 8 bits.")
      .def_readonly("num_layers", &SsmStateSpec::num_layers)
      .def_readonly("num_heads", &SsmStateSpec::num_heads)
      .def_readonly("head_dim", &SsmStateSpec::head_dim)
      .def_readonly("d_state", &SsmStateSpec::d_state)
      .def_readonly("conv_dim", &SsmStateSpec::conv_dim)
      .def_readonly("d_conv", &SsmStateSpec::d_conv)
      .def_property_readonly(
          "dtype", [](const SsmStateSpec& self) { return std::string(dtype_name(self.dtype)); },
          "Name of the element type.")
      .def_property_readonly(
          "slot_bytes",
          [](const SsmStateSpec& self) { return self.ssm_bytes() + self.conv_bytes(); },
          "Bytes of state in a slot.")
      .def("__eq__",
           [](const SsmStateSpec& self, const SsmStateSpec& other) { return self == other; },
           py::is_operator())
      .def("__hash__", [](const SsmStateSpec& self) { return py::hash(py::str(self.repr())); })
      .def("__copy__", [](const SsmStateSpec& self) { return self; })
      .def("__deepcopy__", [](const SsmStateSpec& self, const py::dict&) { return self; },
           py::arg("memo"))
      .def("__repr__", &SsmStateSpec::repr);
  refuse_pickling(cls, "save its fields");
}

void register_snapshot(py::module_& m) {
  py::class_<SsmSnapshot> cls(m, "SsmSnapshot", kSnapshotDoc);
  cls.def("to_bytes",
          [](const SsmSnapshot& self) {
            const auto bytes = self.to_bytes();
            return py::bytes(reinterpret_cast<const char*>(bytes.data()), bytes.size());
          })
      .def_static(
          "from_bytes",
          [](const py::bytes& data) {
            const std::string_view view = data;
            return SsmSnapshot::from_bytes(std::as_bytes(std::span(view)));
          },
          py::arg("data"), "Raises ShapeError for bytes that to_bytes did not make.")
      .def_property_readonly("spec", &SsmSnapshot::spec)
      .def_readonly("position", &SsmSnapshot::position)
      .def_property_readonly(
          "ssm_state",
          [](const py::object& owner) {
            const auto& self = owner.cast<const SsmSnapshot&>();
            return view_of(self.ssm_state().data(), self.spec().dtype, ssm_shape(self.spec()),
                           owner, false);
          },
          "Read-only view ``[num_layers, num_heads, head_dim, d_state]``.")
      .def_property_readonly(
          "conv_state",
          [](const py::object& owner) {
            const auto& self = owner.cast<const SsmSnapshot&>();
            return view_of(self.conv_state().data(), self.spec().dtype, conv_shape(self.spec()),
                           owner, false);
          },
          "Read-only view ``[num_layers, conv_dim, d_conv - 1]``.")
      .def("__eq__",
           [](const SsmSnapshot& self, const SsmSnapshot& other) { return self == other; },
           py::is_operator())
      .def("__copy__", [](const SsmSnapshot& self) { return self; })
      .def("__deepcopy__", [](const SsmSnapshot& self, const py::dict&) { return self; },
           py::arg("memo"))
      .def("__repr__", [](const SsmSnapshot& self) {
        return "SsmSnapshot(position=" + std::to_string(self.position) +
               ", spec=" + self.spec().repr() + ")";
      });
  cls.attr("__hash__") = py::none();
  refuse_pickling(cls, "save to_bytes() instead");
}

void register_slots(py::module_& m) {
  py::class_<PySlotView> view(m, "SsmSlotView", kViewDoc);
  register_slot(view, false);
  py::class_<PySlotMut> slot(m, "SsmSlot",
                             "One request's recurrent state, for reading and writing.");
  register_slot(slot, true);
  slot.def(
          "advance",
          [](const PySlotMut& self, const Index& n) {
            self.slot.advance(to_size("SsmSlot.advance", "n", n));
          },
          py::arg("n") = 1, "Counts ``n`` more tokens as consumed.")
      .def(
          "restore",
          [](const PySlotMut& self, const SsmSnapshot& snapshot) { self.slot.restore(snapshot); },
          py::arg("snapshot"),
          "Puts state and position back. Raises ShapeError when the snapshot is of another spec.");
}

void register_pool(py::module_& m) {
  py::class_<SsmStatePool> cls(m, "SsmStatePool", kPoolDoc);
  cls.def(py::init([](const Index& capacity, const SsmStateSpec& spec) {
            const std::size_t slots = to_size("SsmStatePool", "capacity", capacity);
            const py::gil_scoped_release released;
            return std::make_unique<SsmStatePool>(slots, spec);
          }),
          py::arg("capacity"), py::arg("spec"), "All slots free.")
      .def(
          "alloc",
          [](SsmStatePool& self, const Index& request_id) {
            return self.alloc(to_size("SsmStatePool.alloc", "request_id", request_id));
          },
          py::arg("request_id"),
          "A zeroed slot for the request. Raises PoolExhaustedError. O(bytes of a slot).")
      .def(
          "release",
          [](SsmStatePool& self, const Index& slot) {
            self.release(to_slot("SsmStatePool.release", "slot", slot, self.capacity()));
          },
          py::arg("slot"),
          "Gives a slot back. Raises InvalidSlotError for one out of range or already free. O(1).")
      .def("slot", &find_slot<SsmSlot, SsmStatePool>, py::arg("index"),
           "The live slot, writable, or None.")
      .def("slot_view", &find_slot<SsmSlotView, const SsmStatePool>, py::arg("index"),
           "The live slot, read-only, or None.")
      .def("__repr__", &pool_repr)
      .def_property_readonly("spec", &SsmStatePool::spec)
      .def_property_readonly("capacity", &SsmStatePool::capacity, "All slots.")
      .def_property_readonly("free_count", &SsmStatePool::free_count, "Slots free.")
      .def_property_readonly("used_count", &SsmStatePool::used_count, "Slots handed out.");
  refuse_pickling(cls, "save slot(i).snapshot().to_bytes() of the slots that matter");
}

}  // namespace

void register_ssm_state_pool(py::module_& m) {
  register_spec(m);
  register_snapshot(m);
  register_slots(m);
  register_pool(m);
}

}  // namespace pagedkv::python
