#include "pagedkv/core/paged_seq_state.hpp"

#include <memory>
#include <string>

#include "arrays.hpp"
#include "device.hpp"
#include "pagedkv/cpu/backend.hpp"

namespace pagedkv::python {
namespace {

using State = PagedSeqState<CpuBackend>;

constexpr const char* kDoc = R"(The paged state of one sequence.

Its blocks on the host, and on the device the block table and the context length that kernels read.
The device is written only where it differs from the host; table entries without a block hold -1.
Blocks belong to the allocator that they were taken from: pass the same one each time, and release
before the last reference goes.)";

std::string repr(const State& self) {
  return "PagedSeqState(len=" + std::to_string(self.len()) +
         ", block_size=" + std::to_string(self.block_size()) +
         ", blocks=" + std::to_string(self.blocks().size()) + "/" +
         std::to_string(self.max_blocks_per_seq()) + ", device=cpu)";
}

}  // namespace

void register_paged_seq_state(py::module_& m) {
  py::class_<State> cls(m, "PagedSeqState", kDoc);
  cls.def(py::init(
              [](const Index& block_size, const Index& max_blocks_per_seq, const py::str& device) {
                expect_cpu("PagedSeqState", device);
                return std::make_unique<State>(
                    to_size("PagedSeqState", "block_size", block_size),
                    to_size("PagedSeqState", "max_blocks_per_seq", max_blocks_per_seq));
              }),
          py::arg("block_size"), py::arg("max_blocks_per_seq"), py::arg("device") = "cpu",
          "Takes no block. Raises ShapeError for a block_size of 0, UnsupportedError for a device "
          "that is not there.")
      .def(
          "ensure_capacity",
          [](State& self, BlockAllocator& alloc, const Index& target_len, const NoContext& ctx) {
            auto context = cpu_context("PagedSeqState.ensure_capacity", ctx);
            self.ensure_capacity(
                context, alloc, to_size("PagedSeqState.ensure_capacity", "target_len", target_len));
          },
          py::arg("alloc"), py::arg("target_len"), py::arg("ctx") = py::none(),
          "Takes as many blocks as ``target_len`` tokens need and uploads the new table entries; "
          "never shrinks. Raises CapacityError beyond max_blocks_per_seq, PoolExhaustedError when "
          "the blocks are not there; nothing has changed then.")
      .def(
          "sync_context_len",
          [](State& self, const NoContext& ctx) {
            auto context = cpu_context("PagedSeqState.sync_context_len", ctx);
            self.sync_context_len(context);
          },
          py::arg("ctx") = py::none(),
          "Writes ``len`` to the device. Raises CapacityError when it is beyond the blocks held.")
      .def(
          "release",
          [](State& self, BlockAllocator& alloc, const NoContext& ctx) {
            if (ctx.is_none()) {
              self.release(alloc);
              return;
            }
            auto context = cpu_context("PagedSeqState.release", ctx);
            self.release(context, alloc);
          },
          py::arg("alloc"), py::arg("ctx") = py::none(),
          "Gives every block back and sets ``len`` to 0; twice is harmless. Without a context the "
          "device is rewritten by the next ensure_capacity and sync_context_len.")
      .def(
          "truncate",
          [](State& self, BlockAllocator& alloc, const Index& num_tokens) {
            self.truncate(alloc, to_size("PagedSeqState.truncate", "num_tokens", num_tokens));
          },
          py::arg("alloc"), py::arg("num_tokens"),
          "Back to ``num_tokens`` tokens, if there are more; gives back the blocks that they do "
          "not "
          "need.")
      .def_property(
          "len", &State::len,
          [](State& self, const Index& len) {
            self.set_len(to_size("PagedSeqState.len", "len", len));
          },
          "Tokens held; checked against the blocks by sync_context_len.")
      .def("__len__", &State::len)
      .def("__bool__", [](const State&) { return true; })
      .def("__repr__", &repr)
      .def_property_readonly(
          "blocks",
          [](const State& self) {
            return std::vector<BlockId>(self.blocks().begin(), self.blocks().end());
          },
          "Block ids in logical order; a copy.")
      .def_property_readonly(
          "block_table_buf",
          [](const Owned<State>& self) { return id_view(self->block_table_buf().bytes(), self); },
          "Read-only view of the device's table, int32 ``[max_blocks_per_seq]``, -1 where there is "
          "no block.")
      .def_property_readonly(
          "context_lens_buf",
          [](const Owned<State>& self) { return id_view(self->context_lens_buf().bytes(), self); },
          "Read-only view of the length on the device, int32 ``[1]``.")
      .def_property_readonly("block_size", &State::block_size, "Tokens a block.")
      .def_property_readonly("max_blocks_per_seq", &State::max_blocks_per_seq)
      .def_property_readonly("device", [](const State&) { return "cpu"; });
  seal(cls, "a copy would free its blocks twice; make a new one");
}

}  // namespace pagedkv::python
