#include "batch.hpp"

#include <cstring>
#include <span>
#include <vector>

#include "arrays.hpp"

namespace pagedkv::python {
namespace {

constexpr const char* kDoc = R"(The metadata of one step, in arrays that kernels take as they are.

Strides never change. Arrays are views: the next call that fills the batch overwrites them.
``batch[g]`` is group g's part; ``batch.x`` is ``batch[0].x``.)";

constexpr const char* kWhere = "Batch";

std::size_t scalar(const PyBatch& self, std::size_t Batch::*value) {
  const auto held = self.batch->hold(kWhere);
  return (*self.batch).*value;
}

/// One group's part.
struct PyGroupBatch {
  py::object owner;
  std::shared_ptr<Batch> batch;
  std::size_t group;

  [[nodiscard]] GroupBatch& part() const { return (*batch)[group]; }
};

template <class T>
py::array_t<T> view(std::span<T> values, std::size_t size, const py::object& owner) {
  return py::array_t<T>(static_cast<py::ssize_t>(size), values.data(), owner);
}

py::array_t<std::int32_t> pairs(const std::vector<BlockCopy>& copies) {
  py::array_t<std::int32_t> array({static_cast<py::ssize_t>(copies.size()), py::ssize_t{2}});
  if (!copies.empty()) std::memcpy(array.mutable_data(), copies.data(), copies.size() * 8);
  return array;
}

PyGroupBatch group_of(const Owned<PyBatch>& self, std::size_t group) {
  return {self, self->batch, group};
}

/// Defines the properties of one group's part on its own class and, for group 0, on the batch.
template <class Class, class GroupOf>
void define_group(Class& cls, GroupOf group_of) {
  using Self = py::object;
  cls.def_property_readonly(
         "block_tables",
         [=](const Self& self) {
           const PyGroupBatch g = group_of(self);
           const auto held = g.batch->hold(kWhere);
           const auto width = static_cast<py::ssize_t>(g.batch->max_blocks_per_seq());
           return py::array_t<std::int32_t>({static_cast<py::ssize_t>(g.batch->num_seqs), width},
                                            {width * 4, py::ssize_t{4}},
                                            g.part().block_tables.data(), g.owner);
         },
         "int32 ``[num_seqs, max_blocks_per_seq]``, padded with -1 (0 with a null block).")
      .def_property_readonly(
          "slot_mapping",
          [=](const Self& self) {
            const PyGroupBatch g = group_of(self);
            const auto held = g.batch->hold(kWhere);
            return view(g.part().slot_mapping, g.batch->num_token_rows, g.owner);
          },
          "int64 ``[num_new_tokens]``: where each new token is written. With padding rows at least "
          "``[num_seqs]``, -1 behind the tokens.")
      .def_property_readonly(
          "kv_indptr",
          [=](const Self& self) {
            const PyGroupBatch g = group_of(self);
            const auto held = g.batch->hold(kWhere);
            return view(g.part().kv_indptr, g.batch->num_seqs + 1, g.owner);
          },
          "int32 ``[num_seqs + 1]``: where each sequence's blocks begin in kv_indices.")
      .def_property_readonly(
          "kv_indices",
          [=](const Self& self) {
            const PyGroupBatch g = group_of(self);
            const auto held = g.batch->hold(kWhere);
            const auto end = g.part().kv_indptr[g.batch->num_seqs];
            return view(g.part().kv_indices, static_cast<std::size_t>(end), g.owner);
          },
          "int32: the live blocks of all sequences, one after the other.")
      .def_property_readonly(
          "kv_last_page_len",
          [=](const Self& self) {
            const PyGroupBatch g = group_of(self);
            const auto held = g.batch->hold(kWhere);
            return view(g.part().kv_last_page_len, g.batch->num_seqs, g.owner);
          },
          "int32 ``[num_seqs]``: tokens in the last block.")
      .def_property_readonly(
          "kv_start",
          [=](const Self& self) {
            const PyGroupBatch g = group_of(self);
            const auto held = g.batch->hold(kWhere);
            return view(g.part().kv_start, g.batch->num_seqs, g.owner);
          },
          "int32 ``[num_seqs]``: first token of the live blocks behind a hole of the table; 0 "
          "without one.")
      .def_property_readonly(
          "state_slots",
          [=](const Self& self) {
            const PyGroupBatch g = group_of(self);
            const auto held = g.batch->hold(kWhere);
            return view(g.part().state_slots, g.batch->num_seqs, g.owner);
          },
          "int32 ``[num_seqs]``: the block that holds the state (ssm groups).")
      .def_property_readonly(
          "copies",
          [=](const Self& self) {
            const PyGroupBatch g = group_of(self);
            const auto held = g.batch->hold(kWhere);
            return pairs(g.part().copies);
          },
          "int32 ``[n, 2]``: block copies (from, to) to do before the step writes; a copy.");
}

}  // namespace

void register_batch(py::module_& m) {
  py::class_<PyGroupBatch> group(m, "GroupBatch", "One group's part of a batch.");
  define_group(group, [](const py::object& self) { return self.cast<PyGroupBatch>(); });
  group.def("__repr__", [](const PyGroupBatch& self) {
    return "GroupBatch(group=" + std::to_string(self.group) + ")";
  });
  seal(group, "copy the arrays that matter");

  py::class_<PyBatch> cls(m, "Batch", kDoc);
  define_group(cls, [](const py::object& self) {
    return group_of(py::reinterpret_borrow<Owned<PyBatch>>(self), 0);
  });
  cls.def(
         "__getitem__",
         [](const Owned<PyBatch>& self, const Index& group) {
           return group_of(self,
                           to_item("Batch.__getitem__", "group", group, self->batch->num_groups()));
         },
         py::arg("group"))
      .def("__len__", [](const PyBatch& self) { return self.batch->num_groups(); })
      .def_static(
          "bytes_needed",
          [](const Index& num_groups, const Index& max_seqs, const Index& max_tokens,
             const Index& max_blocks_per_seq) {
            constexpr const char* where = "Batch.bytes_needed";
            return Batch::bytes_needed(to_size(where, "num_groups", num_groups),
                                       to_size(where, "max_seqs", max_seqs),
                                       to_size(where, "max_tokens", max_tokens),
                                       to_size(where, "max_blocks_per_seq", max_blocks_per_seq));
          },
          py::arg("num_groups"), py::arg("max_seqs"), py::arg("max_tokens"),
          py::arg("max_blocks_per_seq"),
          "Bytes that the ``buffers`` of KVCacheManager.new_batch must have.")
      .def_property_readonly(
          "seq_lens",
          [](const Owned<PyBatch>& self) {
            const auto held = self->batch->hold(kWhere);
            return view(self->batch->seq_lens, self->batch->num_seqs, self);
          },
          "int32 ``[num_seqs]``: tokens held, the new ones counted.")
      .def_property_readonly(
          "query_start_loc",
          [](const Owned<PyBatch>& self) {
            const auto held = self->batch->hold(kWhere);
            return view(self->batch->query_start_loc, self->batch->num_seqs + 1, self);
          },
          "int32 ``[num_seqs + 1]``: prefix sums of new tokens a sequence.")
      .def_property_readonly(
          "positions",
          [](const Owned<PyBatch>& self) {
            const auto held = self->batch->hold(kWhere);
            return view(self->batch->positions, self->batch->num_token_rows, self);
          },
          "int32 ``[num_new_tokens]``: position of each new token in its sequence. With padding "
          "rows "
          "at least ``[num_seqs]``, 0 behind the tokens.")
      .def_property_readonly("num_seqs",
                             [](const PyBatch& self) { return scalar(self, &Batch::num_seqs); })
      .def_property_readonly(
          "num_new_tokens",
          [](const PyBatch& self) { return scalar(self, &Batch::num_new_tokens); })
      .def_property_readonly(
          "max_query_len", [](const PyBatch& self) { return scalar(self, &Batch::max_query_len); })
      .def_property_readonly("max_seq_len",
                             [](const PyBatch& self) { return scalar(self, &Batch::max_seq_len); })
      .def("__repr__", [](const PyBatch& self) {
        std::string text = "Batch(groups=" + std::to_string(self.batch->num_groups());
        try {
          const auto held = self.batch->hold(kWhere);
          text += ", num_seqs=" + std::to_string(self.batch->num_seqs) +
                  ", num_new_tokens=" + std::to_string(self.batch->num_new_tokens);
        } catch (const Error&) {
          text += ", busy";
        }
        return text + ")";
      });
  seal(cls, "copy the arrays that matter");
}

}  // namespace pagedkv::python
