#include "pagedkv/core/block_table.hpp"

#include "arrays.hpp"

namespace pagedkv::python {
namespace {

constexpr const char* kDoc = R"(Logical to physical: for each layer the block ids of its tokens.

It refers to blocks, it does not own them; the same id may stand in it more than once.)";

std::size_t to_layer(const char* where, const BlockTable& self, const Index& layer) {
  return to_slot(where, "layer", layer, self.num_layers());
}

void append_block(BlockTable& self, const Index& layer, const Index& id) {
  constexpr const char* where = "BlockTable.append_block";
  // Every int32 of 0 and more, as the core has it.
  constexpr std::size_t size = BlockAllocator::kMaxCapacity + 1;
  const std::size_t block = to_slot(where, "block id", id, size);
  if (block >= size) raise_invalid_slot(where, "block id", id, size);
  self.append_block(to_layer(where, self, layer), static_cast<BlockId>(block));
}

std::optional<BlockId> get_block(const BlockTable& self, const Index& layer, const Index& logical) {
  constexpr const char* where = "BlockTable.get_block";
  const std::size_t row = to_layer(where, self, layer);
  const std::size_t size = row < self.num_layers() ? self.num_blocks(row) : 0;
  return self.get_block(row, to_slot(where, "logical block", logical, size));
}

IdArray row(const BlockTable& self, const Index& layer) {
  return to_id_array(
      self.blocks(to_item("BlockTable.__getitem__", "layer", layer, self.num_layers())));
}

IdArray as_array(const BlockTable& self) {
  IdArray table(
      {static_cast<py::ssize_t>(self.num_layers()), static_cast<py::ssize_t>(self.max_blocks())});
  self.write_array({table.mutable_data(), static_cast<std::size_t>(table.size())});
  return table;
}

std::string repr(const BlockTable& self) {
  return "BlockTable(num_layers=" + std::to_string(self.num_layers()) +
         ", block_size=" + std::to_string(self.block_size()) +
         ", max_blocks=" + std::to_string(self.max_blocks()) + ")";
}

}  // namespace

void register_block_table(py::module_& m) {
  py::class_<BlockTable> cls(m, "BlockTable", kDoc);
  cls.def(py::init([](const Index& num_layers, const Index& block_size) {
            return BlockTable(to_size("BlockTable", "num_layers", num_layers),
                              to_size("BlockTable", "block_size", block_size));
          }),
          py::arg("num_layers"), py::arg("block_size"),
          "Empty lists for ``num_layers`` layers. Raises ShapeError for a block_size of 0.")
      .def("append_block", &append_block, py::arg("layer"), py::arg("id"),
           "Appends a block id to a layer. Raises InvalidSlotError for a layer out of range.")
      .def("get_block", &get_block, py::arg("layer"), py::arg("logical"),
           "The id of a layer's block number ``logical``, or None past its end.")
      .def(
          "num_blocks",
          [](const BlockTable& self, const Index& layer) {
            return self.num_blocks(to_layer("BlockTable.num_blocks", self, layer));
          },
          py::arg("layer"), "Blocks of a layer.")
      .def(
          "token_capacity",
          [](const BlockTable& self, const Index& layer) {
            return self.token_capacity(to_layer("BlockTable.token_capacity", self, layer));
          },
          py::arg("layer"), "Tokens that a layer's blocks have room for.")
      .def(
          "truncate",
          [](BlockTable& self, const Index& layer, const Index& num_tokens) {
            constexpr const char* where = "BlockTable.truncate";
            return to_id_array(self.truncate(to_layer(where, self, layer),
                                             to_size(where, "num_tokens", num_tokens)));
          },
          py::arg("layer"), py::arg("num_tokens"),
          "Keeps the blocks that the first ``num_tokens`` tokens need and returns the int32 ids of "
          "the others, in logical order, for the caller to free.")
      .def("as_array", &as_array,
           "The table as int32 ``[num_layers, max_blocks]``, rows padded with -1; a copy.")
      .def("__getitem__", &row, py::arg("layer"),
           "A layer's ids as an int32 array, a copy; -1 is the last layer.")
      .def("__len__", &BlockTable::num_layers)
      .def("__copy__", [](const BlockTable& self) { return BlockTable(self); })
      .def(
          "__deepcopy__", [](const BlockTable& self, const AnyObject&) { return BlockTable(self); },
          py::arg("memo"))
      .def("__repr__", &repr)
      .def_property_readonly("num_layers", &BlockTable::num_layers)
      .def_property_readonly("block_size", &BlockTable::block_size, "Tokens a block.");
  define_equality(cls);
  define_iteration<IdArray>(cls);
  seal(cls, "save as_array() instead, copy with copy.copy()");
}

}  // namespace pagedkv::python
