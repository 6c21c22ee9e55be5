#include "pagedkv/core/manager/kv_cache_manager.hpp"

#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "arrays.hpp"
#include "batch.hpp"
#include "integer_span.hpp"
#include "long_calls.hpp"

namespace pagedkv::python {
namespace {

constexpr const char* kDoc = R"(Decides which physical block holds which tokens, for many sequences.

It deals in block ids alone and never touches keys or values. Every call takes the whole batch and is
all or nothing. A sequence has three lengths: known (token ids given), scheduled (slots handed out)
and committed (keys and values written).)";

using Manager = KVCacheManager;
/// Sequence ids, and counts and tokens: what is said of block ids holds for them.
using SeqIds = Ids;
using Integers = Ids;
using IntegersOrNone = Named<
    "collections.abc.Sequence[typing.SupportsIndex] | "
    "numpy.typing.NDArray[numpy.integer[typing.Any]] | None">;
using BatchOrNone = Named<"Batch | None">;
using Paths = Named<
    "collections.abc.Iterable[collections.abc.Sequence[typing.SupportsIndex] | "
    "numpy.typing.NDArray[numpy.integer[typing.Any]]]">;
using Moves = Named<"numpy.typing.NDArray[numpy.int64] | list[numpy.typing.NDArray[numpy.int64]]">;
using GroupsOrNone = Named<"collections.abc.Iterable[GroupSpec] | None">;
using FilledBatch = Named<"Batch">;
using BuffersOrNone = Named<"numpy.typing.NDArray[typing.Any] | None">;
using Extras = Named<"collections.abc.Iterable[tuple[int, int, bytes]]">;

std::vector<Extra> to_extras(const char* where, const py::object& extras) {
  std::vector<Extra> out;
  for (const py::handle item : extras) {
    const auto extra = py::reinterpret_borrow<py::sequence>(item);
    if (!py::isinstance<py::sequence>(item) || extra.size() != 3) {
      detail::throw_shape(where, "an extra " + py::repr(item).cast<std::string>() +
                                     "; expected (start, length, digest)");
    }
    out.push_back({to_size(where, "start", extra[0].cast<Index>()),
                   to_size(where, "length", extra[1].cast<Index>()),
                   extra[2].cast<py::bytes>().cast<std::string>()});
  }
  return out;
}

std::unique_ptr<Manager> make(const Index& num_blocks, const Index& block_size,
                              const GroupsOrNone& groups, bool prefix_caching,
                              const std::string& eviction, const std::optional<py::bytes>& hash_key,
                              bool partial_reuse, double watermark, bool null_block, bool events,
                              const Index& num_host_blocks) {
  constexpr const char* where = "KVCacheManager";
  ManagerOptions options;
  options.num_blocks = to_size(where, "num_blocks", num_blocks);
  options.block_size = to_size(where, "block_size", block_size);
  if (!groups.is_none()) {
    options.groups.clear();
    for (const py::handle group : groups) options.groups.push_back(group.cast<GroupSpec>());
  }
  options.prefix_caching = prefix_caching;
  const auto kind = parse_eviction(eviction);
  if (!kind) {
    detail::throw_unsupported(where, "eviction '" + eviction + "'; expected " + eviction_names());
  }
  options.eviction = *kind;
  if (hash_key) {
    const auto key = hash_key->cast<std::string>();
    if (key.size() != 16) {
      detail::throw_shape(where,
                          "a hash_key of " + std::to_string(key.size()) + " bytes; expected 16");
    }
    detail::HashKey words;
    std::memcpy(&words, key.data(), sizeof words);
    options.hash_key = words;
  }
  options.partial_reuse = partial_reuse;
  options.watermark = watermark;
  options.null_block = null_block;
  options.events = events;
  options.num_host_blocks = to_size(where, "num_host_blocks", num_host_blocks);
  return std::make_unique<Manager>(std::move(options));
}

SeqId to_id(const char* where, const Index& id) { return to_size(where, "seq_id", id); }

IntegerSpan<SeqId> to_ids(const char* where, const py::object& ids) {
  return {where, "seq_ids", ids};
}

template <class T>
py::array_t<T> pair_array(const void* data, std::size_t n) {
  py::array_t<T> array({static_cast<py::ssize_t>(n), py::ssize_t{2}});
  if (n != 0) std::memcpy(array.mutable_data(), data, n * 2 * sizeof(T));
  return array;
}

void add(Manager& self, const Index& seq_id, const Integers& tokens, const py::bytes& salt,
         const Extras& extras, const Index& priority, const std::optional<Index>& ttl, bool reuse,
         bool store) {
  constexpr const char* where = "KVCacheManager.add";
  IntegerSpan<TokenId> ids(where, "tokens", tokens);
  AddOptions options;
  options.salt = std::string_view(salt);
  options.extras = to_extras(where, extras);
  const auto level = try_size(priority);
  if (!level || *level > 100) {
    detail::throw_shape(where, "priority " + text(priority) + "; expected 0 to 100");
  }
  options.priority = static_cast<std::uint8_t>(*level);
  const std::size_t steps = ttl ? to_size(where, "ttl", *ttl) : 0;
  options.ttl = static_cast<std::uint32_t>(std::min<std::size_t>(steps, 0xffffffff));
  options.reuse = reuse;
  options.store = store;
  const SeqId id = to_id(where, seq_id);
  run(ids.span().size(), [&] { self.add(id, ids.span(), options); }, ids);
}

py::array_t<std::int32_t> acquire(Manager& self, const SeqIds& seq_ids) {
  auto ids = to_ids("KVCacheManager.acquire", seq_ids);
  py::array_t<std::int32_t> cached(static_cast<py::ssize_t>(ids.span().size()));
  const std::span out(cached.mutable_data(), ids.span().size());
  run(known(self, ids.span()), [&] { self.acquire(ids.span(), out); }, ids);
  return cached;
}

std::size_t fit(Manager& self, const SeqIds& seq_ids, const Integers& num_new_tokens) {
  constexpr const char* where = "KVCacheManager.fit";
  return self.fit(to_ids(where, seq_ids).span(),
                  IntegerSpan<std::int32_t>(where, "num_new_tokens", num_new_tokens).span());
}

/// Fills `out`, or the manager's own batch, by `fill(batch)` and returns it.
template <class Fill>
FilledBatch into_batch(const char* where, const py::object& out, Fill fill) {
  if (out.is_none()) {
    const auto own = fill(nullptr).shared_from_this();
    return py::reinterpret_steal<FilledBatch>(py::cast(PyBatch{own, py::none()}).release());
  }
  if (!py::isinstance<PyBatch>(out)) {
    detail::throw_shape(where, "out of type " + py::str(py::type::of(out)).cast<std::string>() +
                                   "; expected a Batch");
  }
  fill(out.cast<PyBatch&>().batch.get());
  return py::reinterpret_borrow<FilledBatch>(out);
}

FilledBatch schedule(Manager& self, const SeqIds& seq_ids, const Integers& num_new_tokens,
                     const Index& lookahead, const BatchOrNone& out,
                     const std::optional<Index>& pad_to) {
  constexpr const char* where = "KVCacheManager.schedule";
  auto ids = to_ids(where, seq_ids);
  IntegerSpan<std::int32_t> counts(where, "num_new_tokens", num_new_tokens);
  const std::size_t ahead = to_size(where, "lookahead", lookahead);
  const std::size_t rows = pad_to ? to_size(where, "pad_to", *pad_to) : 0;
  const std::size_t work = sum(counts.span()) + ids.span().size() * (16 + ahead);
  return into_batch(where, out, [&](Batch* batch) -> Batch& {
    return run(
        work,
        [&]() -> Batch& { return self.schedule(ids.span(), counts.span(), ahead, batch, rows); },
        ids, counts);
  });
}

FilledBatch step(Manager& self, const SeqIds& seq_ids, const Integers& tokens,
                 const BatchOrNone& out, const std::optional<Index>& pad_to) {
  constexpr const char* where = "KVCacheManager.step";
  auto ids = to_ids(where, seq_ids);
  IntegerSpan<TokenId> next(where, "tokens", tokens);
  const std::size_t rows = pad_to ? to_size(where, "pad_to", *pad_to) : 0;
  return into_batch(where, out, [&](Batch* batch) -> Batch& {
    return run(
        16 * ids.span().size(),
        [&]() -> Batch& { return self.step(ids.span(), next.span(), batch, rows); }, ids, next);
  });
}

void append(Manager& self, const SeqIds& seq_ids, const Integers& tokens,
            const IntegersOrNone& counts) {
  constexpr const char* where = "KVCacheManager.append";
  auto ids = to_ids(where, seq_ids);
  IntegerSpan<TokenId> next(where, "tokens", tokens);
  if (counts.is_none()) {
    run(next.span().size(), [&] { self.append(ids.span(), next.span()); }, ids, next);
    return;
  }
  IntegerSpan<std::int32_t> each(where, "counts", counts);
  if (each.span().size() != ids.span().size()) {
    detail::throw_shape(where, std::to_string(each.span().size()) + " counts; expected " +
                                   std::to_string(ids.span().size()));
  }
  run(
      next.span().size(), [&] { self.append(ids.span(), next.span(), each.span()); }, ids, next,
      each);
}

py::array_t<std::int32_t> truncate(Manager& self, const SeqIds& seq_ids,
                                   const Integers& num_tokens) {
  constexpr const char* where = "KVCacheManager.truncate";
  auto ids = to_ids(where, seq_ids);
  IntegerSpan<std::int32_t> lengths(where, "num_tokens", num_tokens);
  py::array_t<std::int32_t> reached(static_cast<py::ssize_t>(ids.span().size()));
  const std::span out(reached.mutable_data(), ids.span().size());
  run(
      known(self, ids.span()), [&] { self.truncate(ids.span(), lengths.span(), out); }, ids,
      lengths);
  return reached;
}

Moves accept(Manager& self, const SeqIds& seq_ids, const Paths& paths) {
  constexpr const char* where = "KVCacheManager.accept";
  std::vector<IntegerSpan<std::int32_t>> owned;
  for (const py::handle path : paths) {
    owned.emplace_back(where, "path", py::reinterpret_borrow<py::object>(path));
  }
  std::vector<std::span<const std::int32_t>> spans;
  for (const auto& path : owned) spans.push_back(path.span());
  const auto moves = self.accept(to_ids(where, seq_ids).span(), spans);
  py::list out;
  for (const auto& group : moves) {
    out.append(pair_array<std::int64_t>(group.data(), group.size()));
  }
  return py::reinterpret_borrow<Moves>(out.size() == 1 ? py::object(out[0]) : py::object(out));
}

std::size_t probe(Manager& self, const Integers& tokens, const py::bytes& salt,
                  const Extras& extras) {
  constexpr const char* where = "KVCacheManager.probe";
  IntegerSpan<TokenId> ids(where, "tokens", tokens);
  const auto apart = to_extras(where, extras);
  const std::string_view salt_bytes(salt);
  return run(ids.span().size(), [&] { return self.probe(ids.span(), salt_bytes, apart); }, ids);
}

PyBatch new_batch(const Manager& self, const Index& max_seqs, const Index& max_tokens,
                  const Index& max_blocks_per_seq, const BuffersOrNone& buffers) {
  constexpr const char* where = "KVCacheManager.new_batch";
  std::span<std::byte> memory;
  if (!buffers.is_none()) {
    if (!py::isinstance<py::array>(buffers)) {
      detail::throw_shape(where, "buffers that are no array; expected a writable uint8 one");
    }
    auto array = py::reinterpret_borrow<py::array>(buffers);
    if (!array.writeable() || (array.flags() & py::array::c_style) == 0) {
      detail::throw_shape(where,
                          "buffers that are read-only or not contiguous; expected a "
                          "writable C-contiguous array");
    }
    memory = {static_cast<std::byte*>(array.mutable_data()),
              static_cast<std::size_t>(array.nbytes())};
    std::memset(memory.data(), 0, memory.size());
  }
  return {std::shared_ptr<Batch>(new Batch(self.new_batch(
              to_size(where, "max_seqs", max_seqs), to_size(where, "max_tokens", max_tokens),
              to_size(where, "max_blocks_per_seq", max_blocks_per_seq), memory))),
          buffers};
}

IdArray block_ids(const Manager& self, const Index& seq_id, const Index& group) {
  constexpr const char* where = "KVCacheManager.block_ids";
  const auto ids = self.block_ids(to_id(where, seq_id),
                                  to_slot(where, "group", group, self.options().groups.size()));
  return IdArray(static_cast<py::ssize_t>(ids.size()), ids.data());
}

}  // namespace

void register_kv_cache_manager(py::module_& m) {
  py::class_<Manager> cls(m, "KVCacheManager", kDoc);
  cls.def(py::init(&make), py::arg("num_blocks"), py::arg("block_size") = 16,
          py::arg("groups") = py::none(), py::kw_only(), py::arg("prefix_caching") = true,
          py::arg("eviction") = "lru", py::arg("hash_key") = py::none(),
          py::arg("partial_reuse") = true, py::arg("watermark") = 0.0,
          py::arg("null_block") = false, py::arg("events") = false, py::arg("num_host_blocks") = 0)
      .def("add", &add, py::arg("seq_id"), py::arg("tokens"), py::kw_only(),
           py::arg("salt") = py::bytes(), py::arg("extras") = py::tuple(), py::arg("priority") = 0,
           py::arg("ttl") = py::none(), py::arg("reuse") = true, py::arg("store") = true,
           "Registers a sequence and its tokens; takes no block.")
      .def(
          "acquire", &acquire, py::arg("seq_ids"),
          "Admits sequences that hold nothing: holds what the prefix index has of them and returns "
          "how many tokens that is, int32 ``[n]``.")
      .def("fit", &fit, py::arg("seq_ids"), py::arg("num_new_tokens"),
           "How many of these, from the front, schedule would take now; changes nothing.")
      .def("schedule", &schedule, py::arg("seq_ids"), py::arg("num_new_tokens"), py::kw_only(),
           py::arg("lookahead") = 0, py::arg("out") = py::none(), py::arg("pad_to") = py::none(),
           "Slots for the next tokens of each sequence: all or nothing. Raises PoolExhaustedError.")
      .def(
          "commit",
          [](Manager& self, const SeqIds& seq_ids, const Integers& num_tokens) {
            constexpr const char* where = "KVCacheManager.commit";
            auto ids = to_ids(where, seq_ids);
            IntegerSpan<std::int32_t> counts(where, "num_tokens", num_tokens);
            run(sum(counts.span()), [&] { self.commit(ids.span(), counts.span()); }, ids, counts);
          },
          py::arg("seq_ids"), py::arg("num_tokens"),
          "Keys and values of this many more tokens are written.")
      .def("append", &append, py::arg("seq_ids"), py::arg("tokens"), py::arg("counts") = py::none(),
           "Token ids are now known: one a sequence, or ``counts[i]`` of sequence i.")
      .def("step", &step, py::arg("seq_ids"), py::arg("tokens"), py::kw_only(),
           py::arg("out") = py::none(), py::arg("pad_to") = py::none(),
           "The decode loop in one call: commit 1, append 1, schedule 1.")
      .def("truncate", &truncate, py::arg("seq_ids"), py::arg("num_tokens"),
           "Back to these lengths; returns the lengths reached, int32 ``[n]``.")
      .def("accept", &accept, py::arg("seq_ids"), py::arg("paths"),
           "Tree drafts: the accepted paths become contiguous. Returns slot moves, int64 "
           "``[n, 2]``, of each group where there are several.")
      .def(
          "fork",
          [](Manager& self, const Index& seq_id, const Index& new_id) {
            constexpr const char* where = "KVCacheManager.fork";
            const SeqId id = to_id(where, seq_id), copy = to_id(where, new_id);
            run(known(self, {&id, 1}), [&] { self.fork(id, copy); });
          },
          py::arg("seq_id"), py::arg("new_id"), "A copy that shares every committed block.")
      .def(
          "preempt",
          [](Manager& self, const SeqIds& seq_ids) {
            auto ids = to_ids("KVCacheManager.preempt", seq_ids);
            run(known(self, ids.span()), [&] { self.preempt(ids.span()); }, ids);
          },
          py::arg("seq_ids"), "Gives blocks back and keeps the tokens; acquire resumes.")
      .def(
          "free",
          [](Manager& self, const SeqIds& seq_ids) {
            auto ids = to_ids("KVCacheManager.free", seq_ids);
            run(known(self, ids.span()), [&] { self.free(ids.span()); }, ids);
          },
          py::arg("seq_ids"), "Ends sequences; committed blocks stay findable until evicted.")
      .def(
          "hold",
          [](Manager& self, const Index& seq_id, const Index& num_tokens) {
            constexpr const char* where = "KVCacheManager.hold";
            return self.hold(to_id(where, seq_id), to_size(where, "num_tokens", num_tokens));
          },
          py::arg("seq_id"), py::arg("num_tokens"),
          "A lease: the blocks of these tokens outlive free() until release(lease).")
      .def(
          "release",
          [](Manager& self, const Index& lease) {
            self.release(to_size("KVCacheManager.release", "lease", lease));
          },
          py::arg("lease"))
      .def(
          "swap_out",
          [](Manager& self, const SeqIds& seq_ids) {
            auto ids = to_ids("KVCacheManager.swap_out", seq_ids);
            const auto copies =
                run(known(self, ids.span()), [&] { return self.swap_out(ids.span()); }, ids);
            return pair_array<std::int32_t>(copies.data(), copies.size());
          },
          py::arg("seq_ids"), "Pairs (block, host block) to copy, int32 ``[n, 2]``.")
      .def(
          "swap_in",
          [](Manager& self, const SeqIds& seq_ids) {
            auto ids = to_ids("KVCacheManager.swap_in", seq_ids);
            const auto copies =
                run(known(self, ids.span()), [&] { return self.swap_in(ids.span()); }, ids);
            return pair_array<std::int32_t>(copies.data(), copies.size());
          },
          py::arg("seq_ids"), "Pairs (host block, block) to copy, int32 ``[n, 2]``.")
      .def("probe", &probe, py::arg("tokens"), py::kw_only(), py::arg("salt") = py::bytes(),
           py::arg("extras") = py::tuple(), "Tokens that acquire would find; changes nothing.")
      .def(
          "pin",
          [](Manager& self, const Index& seq_id) { self.pin(to_id("KVCacheManager.pin", seq_id)); },
          py::arg("seq_id"), "Keeps what is committed from eviction until unpin.")
      .def(
          "unpin",
          [](Manager& self, const Index& seq_id) {
            self.unpin(to_id("KVCacheManager.unpin", seq_id));
          },
          py::arg("seq_id"))
      .def(
          "evict",
          [](Manager& self, const Index& n) {
            const std::size_t most = to_size("KVCacheManager.evict", "n", n);
            const std::size_t work = 64 * std::min(most, self.options().num_blocks);
            return run(work, [&] { return self.evict(most); });
          },
          py::arg("n"), "Evicts up to n cached blocks; returns how many went.")
      .def(
          "reset", [](Manager& self) { run(whole_pool(self), [&] { self.reset(); }); },
          "Empties the prefix index; PoolError while blocks are held.")
      .def(
          "compact",
          [](Manager& self) {
            const auto copies = run(whole_pool(self), [&] { return self.compact(); });
            return pair_array<std::int32_t>(copies.data(), copies.size());
          },
          "Packs live blocks to the front; pairs (from, to) to copy, int32 ``[n, 2]``.")
      .def(
          "set_salt_limit",
          [](Manager& self, const py::bytes& salt, const std::optional<Index>& max_blocks) {
            std::optional<std::size_t> most;
            if (max_blocks) {
              most = to_size("KVCacheManager.set_salt_limit", "max_blocks", *max_blocks);
            }
            const std::string_view bytes(salt);
            run(whole_pool(self), [&] { self.set_salt_limit(bytes, most); });
          },
          py::arg("salt"), py::arg("max_blocks"), "At most this many cached blocks of a salt.")
      .def(
          "new_batch", &new_batch, py::arg("max_seqs"), py::arg("max_tokens"),
          py::arg("max_blocks_per_seq"), py::arg("buffers") = py::none(),
          "A batch to pass as ``out``, in its own memory or in ``buffers`` (pinned, for instance).")
      .def(
          "num_tokens",
          [](const Manager& self, const Index& id) {
            return self.num_tokens(to_id("KVCacheManager.num_tokens", id));
          },
          py::arg("seq_id"), "Tokens known.")
      .def(
          "num_scheduled",
          [](const Manager& self, const Index& id) {
            return self.num_scheduled(to_id("KVCacheManager.num_scheduled", id));
          },
          py::arg("seq_id"))
      .def(
          "num_committed",
          [](const Manager& self, const Index& id) {
            return self.num_committed(to_id("KVCacheManager.num_committed", id));
          },
          py::arg("seq_id"))
      .def(
          "num_cached",
          [](const Manager& self, const Index& id) {
            return self.num_cached(to_id("KVCacheManager.num_cached", id));
          },
          py::arg("seq_id"), "Tokens that the last acquire found.")
      .def("block_ids", &block_ids, py::arg("seq_id"), py::arg("group") = 0,
           "A group's table, int32, -1 in holes; a copy.")
      .def(
          "__contains__",
          [](const Manager& self, const Index& id) {
            const auto size = try_size(id);
            return size && self.contains(*size);
          },
          py::arg("seq_id"))
      .def("__len__", &Manager::num_sequences)
      .def("__bool__", [](const Manager&) { return true; })
      .def_property_readonly("num_free_blocks", &Manager::num_free_blocks)
      .def_property_readonly("usage", &Manager::usage, "Share of blocks held, in [0, 1].")
      .def_property_readonly("memory_bytes", &Manager::memory_bytes,
                             "Bytes of the books: blocks, index, eviction.")
      .def("stats", &Manager::stats, "Counters over all salts.")
      .def(
          "salt_stats",
          [](const Manager& self, const py::bytes& salt) {
            return self.salt_stats(std::string_view(salt));
          },
          py::arg("salt"), "Counters of one salt alone.")
      .def("take_events", &Manager::take_events,
           "What entered and left the prefix index since the last call, in order.")
      .def(
          "check", [](const Manager& self) { run(whole_pool(self), [&] { self.check(); }); },
          "Checks every invariant; raises on the first broken one.")
      .def("__repr__", [](const Manager& self) {
        std::string text =
            "KVCacheManager(num_blocks=" + std::to_string(self.options().num_blocks) + ", ";
        try {
          const ManagerStats stats = self.stats();
          text += "sequences=" + std::to_string(stats.num_sequences) +
                  ", free=" + std::to_string(stats.num_free_blocks);
        } catch (const Error&) {
          text += "busy";
        }
        return text + ")";
      });
  seal(cls, "it hands out the ids of one process; make a new one");
}

}  // namespace pagedkv::python
