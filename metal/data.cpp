// The operations that move keys and values, and merge results.

#include <cstring>
#include <vector>

#include "metal/dispatches.hpp"
#include "metal/operations.hpp"

namespace pagedkv::metal {

using namespace detail_dispatches;

namespace {

/// Elements that a thread moves at a time between rows and a cache: as many as are aligned.
std::uint32_t vector_of(const RowsView& rows, const CacheView& cache) {
  const std::size_t row = dtype_bits(rows.dtype) / 8, element = dtype_bits(cache.dtype) / 8;
  for (const std::uint32_t width : {8U, 4U}) {
    const bool fits = rows.head_dim % width == 0 && width * std::max(row, element) <= 16 &&
                      aligned(width * row, rows) && aligned(width * element, cache);
    if (fits) return width;
  }
  return 1;
}

/// What write_rows and gather_rows share.
kernels::MoveParams move_params(const char* where, const RowsView& view, const CacheView& blocks,
                                Dispatch& dispatch) {
  dispatch.set(Constant::row_type, element_type(where, "rows", view.dtype));
  dispatch.set(Constant::cache_type, element_type(where, "a cache", blocks.dtype));
  dispatch.set(Constant::vector, vector_of(view, blocks));
  dispatch.set(Constant::block_size, narrow(where, "block_size", blocks.block_size));
  kernels::MoveParams params{};
  params.rows = rows(view);
  params.cache = cache(blocks);
  params.num_slots = blocks.num_blocks * blocks.block_size;
  params.num_tokens = narrow(where, "num_tokens", view.num_tokens);
  params.num_heads = narrow(where, "num_kv_heads", view.num_heads);
  params.head_dim = narrow(where, "head_dim", view.head_dim);
  params.num_blocks = narrow(where, "num_blocks", blocks.num_blocks);
  const std::uint32_t parts = narrow(where, "a token's elements", view.num_heads * view.head_dim) /
                              dispatch[Constant::vector];
  cover(dispatch, parts, params.num_tokens);
  return params;
}

/// A dispatch with its parameters, which it points to.
template <class Params>
struct Prepared {
  explicit Prepared(const char* kernel) : dispatch(kernel) {}
  Dispatch dispatch;
  Params params{};
};

void prepare_write(const char* where, const RowsView& view, const CacheView& blocks,
                   Prepared<kernels::MoveParams>& to) {
  to.params = move_params(where, view, blocks, to.dispatch);
}

void run_write(const RowsView& view, const CacheView& blocks, const std::int64_t* slots,
               Queue& queue, Prepared<kernels::MoveParams>& write) {
  if (view.num_tokens == 0) return;
  Dispatch& dispatch = write.dispatch;
  dispatch.add_params(write.params);
  dispatch.add_array(view.data);
  dispatch.add_array(blocks.data);
  dispatch.add_array(slots);
  dispatch.add_array(queue.error_word());
  queue.dispatch(dispatch);
}

}  // namespace

void write_kv(const WriteKvCall& call, Queue& queue, const char* where) {
  check_write_kv_arrays(where, call);
  Prepared<kernels::MoveParams> k("write_rows"), v("write_rows");
  prepare_write(where, call.k, call.k_cache, k);
  prepare_write(where, call.v, call.v_cache, v);
  run_write(call.k, call.k_cache, call.slot_mapping, queue, k);
  run_write(call.v, call.v_cache, call.slot_mapping, queue, v);
  queue.commit();
}

namespace {

using Rope = Prepared<kernels::RopeParams>;

/// Rows that are normed and rotated, of queries or keys.
void prepare_rope(const char* where, const RopeWriteKvCall& call, const RowsView& view,
                  const RowsView& weight, DType to, Rope& rope) {
  Dispatch& dispatch = rope.dispatch;
  kernels::RopeParams& p = rope.params;
  dispatch.set(Constant::row_type, element_type(where, "rows", view.dtype));
  dispatch.set(Constant::cache_type, element_type(where, "results", to));
  dispatch.set(Constant::block_size, narrow(where, "block_size", call.k_cache.block_size));
  p.rows = rows(view);
  p.num_slots = call.k_cache.num_blocks * call.k_cache.block_size;
  p.max_position = call.max_position;
  p.cos_sin_stride = call.cos_sin_stride;
  p.num_tokens = narrow(where, "num_tokens", view.num_tokens);
  p.num_heads = narrow(where, "heads", view.num_heads);
  p.head_dim = narrow(where, "head_dim", view.head_dim);
  p.rotary_dim = narrow(where, "rotary_dim", call.rotary_dim);
  p.positions_are_int32 = call.positions_int32 != nullptr ? 1 : 0;
  p.interleaved = call.interleaved ? 1 : 0;
  p.norm = weight.data != nullptr ? 1 : 0;
  if (weight.data != nullptr) p.weight_type = element_type(where, "norm weights", weight.dtype);
  p.norm_eps = static_cast<float>(call.norm_eps);
  cover_rows(dispatch, p.num_heads, p.num_tokens);
}

void run_rope(const RopeWriteKvCall& call, const RowsView& view, const RowsView& weight, void* to,
              Queue& queue, Rope& rope) {
  Dispatch& dispatch = rope.dispatch;
  dispatch.add_params(rope.params);
  dispatch.add_array(view.data);
  dispatch.add_array(to);
  dispatch.add_array(call.slot_mapping);
  dispatch.add_array(call.positions != nullptr ? static_cast<const void*>(call.positions)
                                               : call.positions_int32);
  dispatch.add_array(call.cos_sin_cache);
  dispatch.add_array(weight.data);
  dispatch.add_array(queue.error_word());
  queue.dispatch(dispatch);
}

}  // namespace

void rope_write_kv(const RopeWriteKvCall& call, Queue& queue, const char* where) {
  check_rope_write_kv_arrays(where, call);
  const bool queries = call.q.num_heads != 0 && call.q.data != nullptr;
  Rope q("rope_rows"), k("rope_rows");
  if (queries) {
    prepare_rope(where, call, call.q, call.q_norm_weight, call.q_out.dtype, q);
    q.params.to_rows = rows(call.q_out);
  }
  prepare_rope(where, call, call.k, call.k_norm_weight, call.k_cache.dtype, k);
  k.params.to_cache = cache(call.k_cache);
  k.dispatch.set(Constant::to_cache, 1);
  Prepared<kernels::MoveParams> v("write_rows");
  prepare_write(where, call.v, call.v_cache, v);
  if (call.k.num_tokens == 0) return;
  if (queries) run_rope(call, call.q, call.q_norm_weight, call.q_out.data, queue, q);
  run_rope(call, call.k, call.k_norm_weight, call.k_cache.data, queue, k);
  run_write(call.v, call.v_cache, call.slot_mapping, queue, v);
  queue.commit();
}

void gather_kv(const GatherKvCall& call, Queue& queue, const char* where) {
  check_gather_kv_arrays(where, call, call.k.num_tokens);
  if (call.num_seqs != 0 && call.k.num_tokens != 0 && call.block_tables == nullptr) {
    detail::throw_shape(where, "no block_tables; expected a row a sequence");
  }
  Dispatch find("gather_starts");
  Prepared<kernels::MoveParams> k("gather_rows"), v("gather_rows");
  kernels::StartsParams starts_params{};
  starts_params.num_rows = call.k.num_tokens;
  starts_params.num_seqs = narrow(where, "num_seqs", call.num_seqs);
  starts_params.max_blocks = narrow(where, "max_blocks", call.max_blocks);
  k.params = move_params(where, call.k, call.k_cache, k.dispatch);
  v.params = move_params(where, call.v, call.v_cache, v.dispatch);
  if (call.num_seqs == 0) return;

  void* const starts =
      queue.workspace((static_cast<std::size_t>(call.num_seqs) + 1) * sizeof(std::int64_t));
  find.set(Constant::block_size, call.k_cache.block_size);
  find.add_params(starts_params);
  find.add_array(call.seq_lens);
  find.add_array(starts);
  find.add_array(queue.error_word());
  find.threads = {kernels::kSimdWidth, 1, 1};
  queue.dispatch(find);
  for (auto* const gather : {&k, &v}) {
    if (call.k.num_tokens == 0) break;
    const bool keys = gather == &k;
    gather->params.num_seqs = starts_params.num_seqs;
    gather->params.block_table_stride = call.block_table_stride;
    gather->dispatch.add_params(gather->params);
    gather->dispatch.add_array(keys ? call.k_cache.data : call.v_cache.data);
    gather->dispatch.add_array(keys ? call.k.data : call.v.data);
    gather->dispatch.add_array(call.block_tables);
    gather->dispatch.add_array(starts);
    gather->dispatch.add_array(queue.error_word());
    queue.dispatch(gather->dispatch);
  }
  queue.commit();
}

namespace {

/// What a pair of a copy names.
enum class Copied { blocks, slots };

/// Copies of one cache, or from one to another.
void run_copy(const CacheView& source, const CacheView& target, Copied copied,
              const IndexPairs& pairs, bool in_order, Queue& queue, const char* where) {
  const auto row_bytes = static_cast<std::int64_t>(source.row_bytes());
  std::int64_t unit = 16;
  while (unit > 1 && (row_bytes % unit != 0 || !aligned(static_cast<std::size_t>(unit), source) ||
                      !aligned(static_cast<std::size_t>(unit), target))) {
    unit /= 2;
  }
  kernels::CopyParams params{};
  params.from = cache(source);
  params.to = cache(target);
  const bool slots = copied == Copied::slots;
  params.from_end = source.num_blocks * (slots ? source.block_size : 1);
  params.to_end = target.num_blocks * (slots ? target.block_size : 1);
  params.num_pairs = pairs.count;
  params.pairs_of_thread = in_order ? narrow(where, "pairs", pairs.count) : 1;
  params.num_heads = narrow(where, "heads", source.num_heads);
  params.slots = slots ? 1 : narrow(where, "block_size", source.block_size);
  params.row_units = narrow(where, "a row's bytes", row_bytes / unit);

  Dispatch dispatch("copy_indexed");
  dispatch.set(Constant::block_size, narrow(where, "block_size", source.block_size));
  dispatch.set(Constant::unit_bytes, unit);
  dispatch.add_params(params);
  dispatch.add_array(source.data);
  dispatch.add_array(target.data);
  dispatch.add({pairs.data,
                pairs.on_device ? 0 : static_cast<std::size_t>(pairs.count) * sizeof(IndexPair)});
  dispatch.add_array(queue.error_word());
  const std::int64_t units =
      row_bytes / unit * params.num_heads * static_cast<std::int64_t>(params.slots);
  cover(dispatch, narrow(where, "a block's units", units),
        in_order ? 1 : narrow(where, "pairs", pairs.count));
  queue.dispatch(dispatch);
}

static_assert(sizeof(IndexPair) == 16);

std::vector<IndexPair> host_pairs(const IndexPairs& pairs) {
  std::vector<IndexPair> copied(pairs.on_device ? 0 : static_cast<std::size_t>(pairs.count));
  if (!copied.empty()) std::memcpy(copied.data(), pairs.data, copied.size() * sizeof(IndexPair));
  return copied;
}

void check_count(const char* where, const IndexPairs& pairs) {
  if (pairs.count < 0 || (pairs.data == nullptr && pairs.count != 0)) {
    detail::throw_shape(where, std::to_string(pairs.count) + " pairs" +
                                   (pairs.data == nullptr ? " without data" : "") +
                                   "; expected [count, 2]");
  }
}

/// Whether pairs must be done one after the other: those of the device are not known.
bool in_order(const IndexPairs& pairs, std::span<const IndexPair> on_host, bool one_cache) {
  return pairs.on_device || !independent(on_host, one_cache);
}

}  // namespace

void copy_blocks(std::span<const CacheView> caches, const IndexPairs& pairs, Queue& queue,
                 const char* where) {
  check_count(where, pairs);
  const std::vector<IndexPair> on_host = host_pairs(pairs);
  check_copy_blocks(where, caches, on_host);
  if (pairs.count == 0) return;
  const bool ordered = in_order(pairs, on_host, true);
  for (const CacheView& cache : caches) {
    run_copy(cache, cache, Copied::blocks, pairs, ordered, queue, where);
  }
  queue.commit();
}

void move_slots(std::span<const CacheView> caches, const IndexPairs& pairs, Queue& queue,
                const char* where) {
  check_count(where, pairs);
  const std::vector<IndexPair> on_host = host_pairs(pairs);
  check_move_slots(where, caches, on_host);
  if (pairs.count == 0) return;
  const bool ordered = in_order(pairs, on_host, true);
  for (const CacheView& cache : caches) {
    run_copy(cache, cache, Copied::slots, pairs, ordered, queue, where);
  }
  queue.commit();
}

void swap_blocks(const CacheView& source, const CacheView& target, std::span<const IndexPair> pairs,
                 Queue& queue, const char* where) {
  check_swap_blocks(where, source, target, pairs);
  if (pairs.empty()) return;
  if (queue.owns(source.data) && queue.owns(target.data)) {
    const IndexPairs on_host{&pairs[0].from, static_cast<std::int64_t>(pairs.size()), false};
    run_copy(source, target, Copied::blocks, on_host, in_order(on_host, pairs, false), queue,
             where);
    queue.commit();
    return;
  }
  // The processor reads and writes the same memory as the device.
  queue.wait();
  for (const IndexPair& pair : pairs) {
    for (std::int64_t head = 0; head < source.num_heads; ++head) {
      for (std::int64_t slot = 0; slot < source.block_size; ++slot) {
        std::memcpy(target.row(pair.to, head, slot), source.row(pair.from, head, slot),
                    source.row_bytes());
      }
    }
  }
}

void merge_attention_states(const MergeStatesCall& call, Queue& queue, const char* where) {
  check_merge_states(where, call);
  Dispatch dispatch("merge_states");
  dispatch.set(Constant::row_type, element_type(where, "results", call.o.dtype));
  kernels::MergeParams params{};
  params.a = rows(call.o_a);
  params.b = rows(call.o_b);
  params.to = rows(call.o);
  params.lse_a = rows(call.lse_a);
  params.lse_b = rows(call.lse_b);
  params.lse = rows(call.lse);
  params.num_tokens = narrow(where, "num_tokens", call.o.num_tokens);
  params.num_heads = narrow(where, "heads", call.o.num_heads);
  params.head_dim = narrow(where, "head_dim", call.o.head_dim);
  params.wants_lse = call.lse.data != nullptr ? 1 : 0;
  if (params.num_tokens == 0 || params.num_heads == 0 || params.head_dim == 0) return;
  cover_rows(dispatch, params.num_heads, params.num_tokens);
  dispatch.add_params(params);
  dispatch.add_array(call.o_a.data);
  dispatch.add_array(call.lse_a.data);
  dispatch.add_array(call.o_b.data);
  dispatch.add_array(call.lse_b.data);
  dispatch.add_array(call.o.data);
  dispatch.add_array(call.lse.data);
  queue.dispatch(dispatch);
  queue.commit();
}

void check(Queue& queue, const char* where) {
  queue.wait();
  const std::uint32_t found = *queue.error_word();
  *queue.error_word() = 0;
  if ((found & kernels::kBadIndex) != 0) {
    throw InvalidSlotError(
        detail::located(where,
                        "a slot, block id or position that is out of range on the device; expected "
                        "those of the arrays (what it names was left out)"),
        InvalidSlotError::kNoSlot);
  }
  if ((found & kernels::kBadShape) != 0) {
    detail::throw_shape(where,
                        "lengths on the device that do not go with the arrays; expected new tokens "
                        "that are in q and no more than seq_lens, and seq_lens that block_tables "
                        "have room for (what they name was left out)");
  }
}

}  // namespace pagedkv::metal
