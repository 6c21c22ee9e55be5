// What a manager is made from and what it tells: groups, statistics, events.

#include <optional>
#include <string>

#include "arrays.hpp"
#include "pagedkv/core/manager/options.hpp"

namespace pagedkv::python {
namespace {

using Counts = py::typing::Dict<py::str, py::int_>;
using AnyDict = py::typing::Dict<py::str, py::object>;
using EventKind = Named<"typing.Literal['stored', 'removed']">;

void register_groups(py::module_& m) {
  py::class_<GroupSpec> base(m, "GroupSpec", "Layers that share one block table.");
  base.def_readonly("block_size", &GroupSpec::block_size, "Tokens a block; 0: the manager's own.")
      .def("__repr__", [](const GroupSpec& self) -> std::string {
        const std::string size =
            self.block_size == 0 ? "" : ", block_size=" + std::to_string(self.block_size);
        switch (self.kind) {
          case GroupKind::full_attention:
            return self.block_size == 0 ? "FullAttention()"
                                        : "FullAttention(" + size.substr(2) + ")";
          case GroupKind::sliding_window:
            return "SlidingWindow(window=" + std::to_string(self.window) +
                   ", sink_tokens=" + std::to_string(self.sink_tokens) + size + ")";
          case GroupKind::ssm:
            return "Ssm(checkpoint_interval=" + std::to_string(self.checkpoint_interval) + size +
                   ")";
        }
        return "";
      });
  const auto sized = [](const char* where, const std::optional<Index>& size) {
    return size ? to_size(where, "block_size", *size) : 0;
  };
  m.def(
      "FullAttention",
      [=](const std::optional<Index>& block_size) {
        return GroupSpec::full_attention(sized("FullAttention", block_size));
      },
      py::kw_only(), py::arg("block_size") = py::none(), "Layers that see every token before.");
  m.def(
      "SlidingWindow",
      [=](const Index& window, const Index& sink_tokens, const std::optional<Index>& block_size) {
        constexpr const char* where = "SlidingWindow";
        return GroupSpec::sliding_window(to_size(where, "window", window),
                                         to_size(where, "sink_tokens", sink_tokens),
                                         sized(where, block_size));
      },
      py::arg("window"), py::arg("sink_tokens") = 0, py::kw_only(),
      py::arg("block_size") = py::none(),
      "Layers that see the last ``window`` tokens, their own counted, and the first "
      "``sink_tokens``. Blocks outside are given back.");
  m.def(
      "Ssm",
      [=](const Index& checkpoint_interval, const std::optional<Index>& block_size) {
        return GroupSpec::ssm(to_size("Ssm", "checkpoint_interval", checkpoint_interval),
                              sized("Ssm", block_size));
      },
      py::arg("checkpoint_interval"), py::kw_only(), py::arg("block_size") = py::none(),
      "Layers with a recurrent state: one block a sequence, and one for each state that is kept "
      "for reuse, where a commit ends on a multiple of ``checkpoint_interval`` tokens.");
  copies_are_itself(base);
  seal(base, "call its maker again");
}

Counts miss_reasons(const ReuseCounts& counts) {
  Counts misses;
  for (std::size_t i = 0; i < kNumMissReasons; ++i) {
    misses[py::str(std::string(miss_reason_name(static_cast<MissReason>(i))))] = counts.misses[i];
  }
  return misses;
}

/// Defines what a class of statistics says of reuse; `counts_of(self)` gives that part of it.
template <class T, class CountsOf>
void define_reuse(py::class_<T>& cls, CountsOf counts_of) {
  cls.def_property_readonly(
         "queries", [=](const T& self) { return counts_of(self).queries; },
         "Sequences that asked by acquire.")
      .def_property_readonly(
          "queried_tokens", [=](const T& self) { return counts_of(self).queried_tokens; },
          "Tokens that they knew, less the last of each.")
      .def_property_readonly(
          "hit_tokens", [=](const T& self) { return counts_of(self).hit_tokens; },
          "Of these, found.")
      .def_property_readonly(
          "hit_rate", [=](const T& self) { return counts_of(self).hit_rate(); },
          "hit_tokens / queried_tokens; 0.0 for none.")
      .def_property_readonly(
          "miss_reasons", [=](const T& self) { return miss_reasons(counts_of(self)); },
          "Queries that fell short by a block or more, by the first reason.");
}

/// `to_dict` and `__repr__` from the properties that the class has, in this order.
template <class T>
void define_fields(py::class_<T>& cls, const char* class_name,
                   std::initializer_list<const char*> fields) {
  const std::vector<const char*> names(fields);
  cls.def(
      "to_dict",
      [=](const py::object& self) {
        AnyDict out;
        for (const char* name : names) out[name] = self.attr(name);
        return out;
      },
      "The same as a dictionary.");
  cls.def("__repr__", [=](const py::object& self) {
    std::string text = class_name;
    char before = '(';
    for (const char* name : names) {
      text += before == '(' ? "(" : ", ";
      before = ',';
      text += std::string(name) + "=" + py::repr(self.attr(name)).cast<std::string>();
    }
    return text + ")";
  });
}

void register_stats(py::module_& m) {
  py::class_<ReuseCounts> reuse(m, "ReuseStats", "Counters of prefix reuse.");
  define_reuse(reuse, [](const ReuseCounts& self) -> const ReuseCounts& { return self; });
  define_equality(reuse);
  define_fields(reuse, "ReuseStats",
                {"queries", "queried_tokens", "hit_tokens", "hit_rate", "miss_reasons"});
  copies_are_itself(reuse);
  seal(reuse, "take to_dict()");

  py::class_<ManagerStats> cls(m, "Stats", "Counters of a KVCacheManager.");
  define_reuse(cls, [](const ManagerStats& self) -> const ReuseCounts& { return self.reuse; });
  cls.def_readonly("num_sequences", &ManagerStats::num_sequences)
      .def_readonly("num_blocks", &ManagerStats::num_blocks,
                    "Blocks that are handed out at all; a null block is not.")
      .def_readonly("num_free_blocks", &ManagerStats::num_free_blocks,
                    "Blocks that schedule could take.")
      .def_readonly("num_cached_blocks", &ManagerStats::num_cached_blocks,
                    "Blocks in the prefix index, in use or not.")
      .def_readonly("evictions", &ManagerStats::evictions)
      .def_readonly("preemptions", &ManagerStats::preemptions)
      .def_readonly("block_copies", &ManagerStats::block_copies)
      .def_readonly("steps", &ManagerStats::steps, "Calls of schedule and step that succeeded.");
  define_equality(cls);
  define_fields(cls, "Stats",
                {"queries", "queried_tokens", "hit_tokens", "hit_rate", "miss_reasons",
                 "num_sequences", "num_blocks", "num_free_blocks", "num_cached_blocks", "evictions",
                 "preemptions", "block_copies", "steps"});
  copies_are_itself(cls);
  seal(cls, "take to_dict()");
}

py::bytes digest(const std::array<std::uint8_t, 32>& hash) {
  return {reinterpret_cast<const char*>(hash.data()), hash.size()};
}

const char* kind_name(CacheEvent::Kind kind) {
  return kind == CacheEvent::Kind::stored ? "stored" : "removed";
}

void register_events(py::module_& m) {
  py::class_<CacheEvent> cls(m, "CacheEvent", "A block entered or left the prefix index.");
  cls.def_property_readonly(
         "kind",
         [](const CacheEvent& self) {
           return py::reinterpret_borrow<EventKind>(py::str(kind_name(self.kind)));
         },
         "'stored' or 'removed'.")
      .def_readonly("group", &CacheEvent::group)
      .def_property_readonly(
          "hash", [](const CacheEvent& self) { return digest(self.hash); },
          "SHA-256 of the whole prefix, 32 bytes.")
      .def_property_readonly(
          "parent_hash", [](const CacheEvent& self) { return digest(self.parent_hash); },
          "Of the prefix one block shorter; the salt's for the first block.")
      .def_property_readonly(
          "tokens",
          [](const CacheEvent& self) {
            return IdArray(static_cast<py::ssize_t>(self.tokens.size()), self.tokens.data());
          },
          "int32: tokens of the block; a copy.")
      .def("__repr__", [](const CacheEvent& self) {
        return std::string("CacheEvent(kind='") + kind_name(self.kind) +
               "', group=" + std::to_string(self.group) +
               ", hash=" + digest(self.hash).attr("hex")().cast<std::string>() + ")";
      });
  define_equality(cls);
  copies_are_itself(cls);
  seal(cls, "take what matters of it");
}

}  // namespace

void register_manager_types(py::module_& m) {
  register_groups(m);
  register_stats(m);
  register_events(m);
}

}  // namespace pagedkv::python
