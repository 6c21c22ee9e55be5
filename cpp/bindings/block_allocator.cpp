#include "pagedkv/core/block_allocator.hpp"

#include <memory>

#include "arrays.hpp"

namespace pagedkv::python {
namespace {

constexpr const char* kDoc = R"(Hands out block ids ``0 .. capacity - 1`` and counts who holds them.

An id that was given back is handed out before a fresh one, last in first out; fresh ids come 0
first. Every id that comes back is checked for range and liveness. One id costs O(1), n cost O(n).)";

BlockId to_id(const char* where, const BlockAllocator& self, const Index& id) {
  const std::size_t slot = to_slot(where, "block id", id, self.capacity());
  if (slot >= self.capacity()) raise_invalid_slot(where, "block id", id, self.capacity());
  return static_cast<BlockId>(slot);
}

IdArray allocate_n(BlockAllocator& self, const Index& n) {
  const std::size_t count = to_size("BlockAllocator.allocate_n", "n", n);
  if (count > self.free_count()) {  // before an array of that size is made
    detail::throw_exhausted("BlockAllocator.allocate_n", count, self.free_count());
  }
  IdArray ids(static_cast<py::ssize_t>(count));
  // Ids are below 2^31: the signed and the unsigned type have the same bits.
  self.allocate_n({reinterpret_cast<BlockId*>(ids.mutable_data()), count});
  return ids;
}

/// One id rather than several; an array has `__index__` too, whatever its size.
bool is_one_id(const IdOrIds& ids) {
  return py::isinstance<Index>(ids) && !py::isinstance<py::array>(ids);
}

void free(BlockAllocator& self, const IdOrIds& ids) {
  constexpr const char* where = "BlockAllocator.free";
  if (is_one_id(ids)) {
    self.free(to_id(where, self, py::reinterpret_borrow<Index>(ids)));
    return;
  }
  self.free(BlockIds(where, ids, self.capacity()).span());
}

void acquire(BlockAllocator& self, const IdOrIds& ids) {
  constexpr const char* where = "BlockAllocator.acquire";
  if (is_one_id(ids)) {
    self.acquire(to_id(where, self, py::reinterpret_borrow<Index>(ids)));
    return;
  }
  self.acquire(BlockIds(where, ids, self.capacity()).span());
}

/// Any integer may be asked about; one that is no index is not live.
bool is_live(const BlockAllocator& self, const Index& id) {
  const auto slot = try_size(id);
  return slot && self.is_live(*slot);
}

std::string repr(const BlockAllocator& self) {
  return "BlockAllocator(capacity=" + std::to_string(self.capacity()) +
         ", in_use=" + std::to_string(self.in_use()) + ")";
}

}  // namespace

void register_block_allocator(py::module_& m) {
  py::class_<BlockAllocator, std::shared_ptr<BlockAllocator>> cls(m, "BlockAllocator", kDoc);
  cls.def(
         py::init([](const Index& capacity) {
           return std::make_shared<BlockAllocator>(to_size("BlockAllocator", "capacity", capacity));
         }),
         py::arg("capacity"), "A pool of ``capacity`` ids (0 to 2**31 - 1), all free.")
      .def("allocate", &BlockAllocator::allocate,
           "One block, held once. Raises PoolExhaustedError when none is free. O(1).")
      .def("allocate_n", &allocate_n, py::arg("n"),
           "int32 ids ``[n]``, each held once: all or none. Raises PoolExhaustedError.")
      .def("acquire", &acquire, py::arg("ids"),
           "Holds each id once more (one id, or a list or array of them): all or none. Raises "
           "InvalidSlotError for an id that is out of range or not live.")
      .def("free", &free, py::arg("ids"),
           "Gives one hold of each id back (one id, or a list or array of them): all or none. "
           "Raises InvalidSlotError for an id that is out of range, not live, or named more often "
           "than it is held; nothing has changed then.")
      .def(
          "ref_count",
          [](const BlockAllocator& self, const Index& id) {
            return self.ref_count(to_id("BlockAllocator.ref_count", self, id));
          },
          py::arg("id"), "How often the id is held; 0 when it is free.")
      .def("is_live", &is_live, py::arg("id"), "Whether anybody holds the id; any integer will do.")
      .def("__contains__", &is_live, py::arg("id"))
      .def("__repr__", &repr)
      .def_property_readonly("free_count", &BlockAllocator::free_count, "Blocks that nobody holds.")
      .def_property_readonly("in_use", &BlockAllocator::in_use, "Blocks that somebody holds.")
      .def_property_readonly("capacity", &BlockAllocator::capacity, "All blocks.")
      .def_property_readonly("peak_in_use", &BlockAllocator::peak_in_use,
                             "Most blocks that were ever held at once.");
  seal(cls, "it hands out the ids of one process; make a new one");
}

}  // namespace pagedkv::python
