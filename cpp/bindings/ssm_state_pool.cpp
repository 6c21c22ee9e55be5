#include "pagedkv/core/ssm_state_pool.hpp"

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "arrays.hpp"
#include "exclusive.hpp"
#include "ssm_state.hpp"
#include "without_gil.hpp"

namespace pagedkv::python {
namespace {

constexpr const char* kPoolDoc = R"(A fixed number of slots of recurrent state in host memory.

A slot reads as zero and at position 0 whenever it is handed out.)";

constexpr const char* kViewDoc = R"(One request's recurrent state, for reading.

Once the slot is released every access raises InvalidSlotError, also when the slot has been handed
out again.)";

constexpr const char* kSlotDoc = R"(One request's recurrent state, for reading and writing.

Once the slot is released every access raises InvalidSlotError, also when the slot has been handed
out again.)";

constexpr const char* kPositionDoc = "Tokens that the state has consumed.";

/// Copies of large slots release the GIL; then the slot, not the pool, is for one thread.
struct PySsmStatePool {
  PySsmStatePool(std::size_t capacity, const SsmStateSpec& spec)
      : pool(capacity, spec), slots(capacity) {}

  SsmStatePool pool;
  std::vector<Exclusive> slots;
};

/// A slot handle that keeps the pool's Python object alive.
template <class Slot>
struct PySlot {
  Owned<PySsmStatePool> owner;
  Slot slot;

  [[nodiscard]] const SsmStateSpec& spec() const { return owner->pool.spec(); }
  [[nodiscard]] auto hold(const char* where) const {
    return owner->slots[slot.index()].hold(where);
  }
};
using PySlotView = PySlot<SsmSlotView>;
using PySlotMut = PySlot<SsmSlot>;

void copy(std::span<const std::byte> from, std::span<std::byte> to) {
  std::ranges::copy(from, to.begin());
}

template <class Slot>
SsmSnapshot snapshot(const PySlot<Slot>& self) {
  const auto held = self.hold("SsmSlot.snapshot");
  // What a release would change is read here; only the bytes, which stay, are copied without the
  // GIL.
  const auto position = self.slot.position();
  const std::span<const std::byte> ssm = self.slot.ssm_state(), conv = self.slot.conv_state();
  std::optional<SsmSnapshot> taken;
  without_gil(ssm.size() + conv.size(), [&] {
    taken.emplace(self.spec());
    copy(ssm, taken->ssm_state());
    copy(conv, taken->conv_state());
  });
  taken->position = position;
  return *std::move(taken);
}

void restore(const PySlotMut& self, const SsmSnapshot& snapshot) {
  const auto held = self.hold("SsmSlot.restore");
  const std::span<std::byte> ssm = self.slot.ssm_state(), conv = self.slot.conv_state();
  if (snapshot.spec() != self.spec()) {
    self.slot.restore(snapshot);  // raises
    return;
  }
  without_gil(ssm.size() + conv.size(), [&] {
    copy(snapshot.ssm_state(), ssm);
    copy(snapshot.conv_state(), conv);
  });
  self.slot.set_position(snapshot.position);
}

template <class Slot>
std::string slot_repr(const PySlot<Slot>& self, const char* name) {
  const std::string start = std::string(name) + "(" + std::to_string(self.slot.index());
  if (!self.slot.is_live()) return start + ", released)";
  return start + ", request_id=" + std::to_string(self.slot.request_id()) +
         ", position=" + std::to_string(self.slot.position()) + ")";
}

template <class Slot>
void register_slot(py::class_<PySlot<Slot>>& cls, const char* name, bool writable) {
  using Self = PySlot<Slot>;
  cls.def_property_readonly(
         "ssm_state",
         [writable](const Self& self) {
           return ssm_view(self.slot.ssm_state(), self.spec(), self.owner, writable);
         },
         "View ``[num_layers, num_heads, head_dim, d_state]``.")
      .def_property_readonly(
          "conv_state",
          [writable](const Self& self) {
            return conv_view(self.slot.conv_state(), self.spec(), self.owner, writable);
          },
          "View ``[num_layers, conv_dim, d_conv - 1]``.")
      .def_property_readonly(
          "request_id", [](const Self& self) { return self.slot.request_id(); },
          "The id that the slot was allocated for.")
      .def_property_readonly("index", [](const Self& self) { return self.slot.index(); })
      .def_property_readonly(
          "is_live", [](const Self& self) { return self.slot.is_live(); },
          "False once the slot was released.")
      .def("snapshot", &snapshot<Slot>, "A copy of state and position that outlives the slot.")
      .def("__repr__", [name](const Self& self) { return slot_repr(self, name); });
  seal(cls, "save snapshot().to_bytes() instead");
}

template <class Slot, class Pool>
std::optional<PySlot<Slot>> find_slot(const Owned<PySsmStatePool>& self, const Index& index) {
  const auto slot = try_size(index);
  if (!slot) return std::nullopt;  // negative or beyond 64 bits: no such slot
  auto found = static_cast<Pool&>(self->pool).slot(*slot);
  if (!found) return std::nullopt;
  return PySlot<Slot>{self, *found};
}

void release(PySsmStatePool& self, const Index& slot) {
  constexpr const char* where = "SsmStatePool.release";
  const std::size_t index = to_slot(where, "slot", slot, self.pool.capacity());
  if (index < self.slots.size() && self.slots[index].busy()) {
    static_cast<void>(self.slots[index].hold(where));  // raises
  }
  self.pool.release(index);
}

std::string pool_repr(const PySsmStatePool& self) {
  return "SsmStatePool(capacity=" + std::to_string(self.pool.capacity()) +
         ", used=" + std::to_string(self.pool.used_count()) + ", spec=" + self.pool.spec().repr() +
         ")";
}

void register_slots(py::module_& m) {
  py::class_<PySlotView> view(m, "SsmSlotView", kViewDoc);
  register_slot(view, "SsmSlotView", false);
  view.def_property_readonly(
      "position", [](const PySlotView& self) { return self.slot.position(); }, kPositionDoc);

  py::class_<PySlotMut> slot(m, "SsmSlot", kSlotDoc);
  register_slot(slot, "SsmSlot", true);
  slot.def_property(
          "position", [](const PySlotMut& self) { return self.slot.position(); },
          [](const PySlotMut& self, const Index& position) {
            self.slot.set_position(to_size("SsmSlot.position", "position", position));
          },
          "Tokens that the state has consumed; set it when the state was written from elsewhere.")
      .def(
          "advance",
          [](const PySlotMut& self, const Index& n) {
            self.slot.advance(to_size("SsmSlot.advance", "n", n));
          },
          py::arg("n") = 1, "Counts ``n`` more tokens as consumed.")
      .def("restore", &restore, py::arg("snapshot"),
           "Puts state and position back. Raises ShapeError when the snapshot is of another spec.");
}

void register_pool(py::module_& m) {
  py::class_<PySsmStatePool> cls(m, "SsmStatePool", kPoolDoc);
  cls.def(py::init([](const Index& capacity, const SsmStateSpec& spec) {
            const std::size_t slots = to_size("SsmStatePool", "capacity", capacity);
            const WithoutGil released;
            return std::make_unique<PySsmStatePool>(slots, spec);
          }),
          py::arg("capacity"), py::arg("spec"), "All slots free.")
      .def(
          "alloc",
          [](PySsmStatePool& self, const Index& request_id) {
            return self.pool.alloc(to_size("SsmStatePool.alloc", "request_id", request_id));
          },
          py::arg("request_id"),
          "A zeroed slot for the request. Raises PoolExhaustedError. O(bytes of a slot).")
      .def("release", &release, py::arg("slot"),
           "Gives a slot back. Raises InvalidSlotError for one out of range or already free. O(1).")
      .def("slot", &find_slot<SsmSlot, SsmStatePool>, py::arg("index"),
           "The live slot, writable, or None.")
      .def("slot_view", &find_slot<SsmSlotView, const SsmStatePool>, py::arg("index"),
           "The live slot, read-only, or None.")
      .def("__repr__", &pool_repr)
      .def_property_readonly("spec", [](const PySsmStatePool& self) { return self.pool.spec(); })
      .def_property_readonly(
          "capacity", [](const PySsmStatePool& self) { return self.pool.capacity(); }, "All slots.")
      .def_property_readonly(
          "free_count", [](const PySsmStatePool& self) { return self.pool.free_count(); },
          "Slots free.")
      .def_property_readonly(
          "used_count", [](const PySsmStatePool& self) { return self.pool.used_count(); },
          "Slots handed out.");
  seal(cls, "save slot(i).snapshot().to_bytes() of the slots that matter");
}

}  // namespace

void register_ssm_state_pool(py::module_& m) {
  register_slots(m);
  register_pool(m);
}

}  // namespace pagedkv::python
