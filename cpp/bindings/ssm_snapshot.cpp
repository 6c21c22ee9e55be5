#include "pagedkv/core/ssm_snapshot.hpp"

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "arrays.hpp"
#include "exclusive.hpp"
#include "ssm_state.hpp"

namespace pagedkv::python {
namespace {

constexpr const char* kSpecDoc = R"(What one request's slot of recurrent state holds.

Over all layers: the state ``[num_layers, num_heads, head_dim, d_state]`` and the inputs that the
causal convolution still needs, ``[num_layers, conv_dim, d_conv - 1]``.)";

constexpr const char* kSnapshotDoc = R"(A copy of one request's recurrent state and position.

``to_bytes`` and ``from_bytes`` carry it to another process: a checked header and raw bytes.)";

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

py::bytes to_bytes(const SsmSnapshot& self) {
  std::vector<std::byte> bytes;
  without_gil(self.ssm_state().size() + self.conv_state().size(), [&] { bytes = self.to_bytes(); });
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

SsmSnapshot from_bytes(const py::bytes& data) {
  const std::string_view view = data;
  std::optional<SsmSnapshot> snapshot;
  without_gil(view.size(),
              [&] { snapshot = SsmSnapshot::from_bytes(std::as_bytes(std::span(view))); });
  return *std::move(snapshot);
}

void register_spec(py::module_& m) {
  py::class_<SsmStateSpec> cls(m, "SsmStateSpec", kSpecDoc);
  cls.def(
         py::init(&make_spec), py::arg("num_layers"), py::arg("num_heads"), py::arg("head_dim"),
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
      .def("__repr__", &SsmStateSpec::repr);
  define_equality(cls);
  cls.def("__hash__", [](const SsmStateSpec& self) { return py::hash(py::str(self.repr())); });
  copies_are_itself(cls);
  seal(cls, "save its fields");
}

void register_snapshot(py::module_& m) {
  py::class_<SsmSnapshot> cls(m, "SsmSnapshot", kSnapshotDoc);
  cls.def("to_bytes", &to_bytes)
      .def_static("from_bytes", &from_bytes, py::arg("data"),
                  "Raises ShapeError for bytes that to_bytes did not make.")
      .def_property_readonly("spec", &SsmSnapshot::spec)
      .def_readonly("position", &SsmSnapshot::position)
      .def_property_readonly(
          "ssm_state",
          [](const Owned<SsmSnapshot>& self) {
            return ssm_view(std::as_const(*self).ssm_state(), self->spec(), self, false);
          },
          "Read-only view ``[num_layers, num_heads, head_dim, d_state]``.")
      .def_property_readonly(
          "conv_state",
          [](const Owned<SsmSnapshot>& self) {
            return conv_view(std::as_const(*self).conv_state(), self->spec(), self, false);
          },
          "Read-only view ``[num_layers, conv_dim, d_conv - 1]``.")
      .def("__repr__", [](const SsmSnapshot& self) {
        return "SsmSnapshot(position=" + std::to_string(self.position) +
               ", spec=" + self.spec().repr() + ")";
      });
  define_equality(cls);
  copies_are_itself(cls);
  seal(cls, "save to_bytes() instead");
}

}  // namespace

AnyArray ssm_view(std::span<const std::byte> state, const SsmStateSpec& spec, py::handle owner,
                  bool writable) {
  return view_of(state.data(), spec.dtype,
                 {spec.num_layers, spec.num_heads, spec.head_dim, spec.d_state}, owner, writable);
}

AnyArray conv_view(std::span<const std::byte> state, const SsmStateSpec& spec, py::handle owner,
                   bool writable) {
  return view_of(state.data(), spec.dtype, {spec.num_layers, spec.conv_dim, spec.d_conv - 1}, owner,
                 writable);
}

void register_ssm_snapshot(py::module_& m) {
  register_spec(m);
  register_snapshot(m);
}

}  // namespace pagedkv::python
