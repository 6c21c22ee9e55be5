// pagedkv.ops: what moves keys and values.

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "operands.hpp"
#include "target/operations.hpp"

namespace pagedkv::python {
namespace {

/// Keys and values that are written to, and their scales, as given.
struct Caches {
  Tensor k_tensor, v_tensor;
  CacheView k, v;
  Scale k_scale, v_scale;

  Caches(const Site& where, const AnyObject& k_cache, const AnyObject& v_cache,
         const AnyObject& k_factor, const AnyObject& v_factor, const py::str& layout,
         const DTypeLikeOrNone& dtype)
      : k_tensor(where, "k_cache", k_cache),
        v_tensor(where, "v_cache", v_cache),
        k(to_cache(k_tensor, to_layout(where, layout), to_named(where, dtype))),
        v(to_cache(v_tensor, to_layout(where, layout), to_named(where, dtype))),
        k_scale(where, "k_scale", k_factor, k),
        v_scale(where, "v_scale", v_factor, v) {}

  /// Scales of one number a slot are computed by a write.
  void expect_writable() const {
    k_tensor.expect_writable();
    v_tensor.expect_writable();
    for (const Scale* scale : {&k_scale, &v_scale}) {
      if (scale->view().per_token()) scale->tensor()->expect_writable();
    }
  }
};

void write_kv(const AnyObject& k, const AnyObject& v, const AnyObject& k_cache,
              const AnyObject& v_cache, const AnyObject& slot_mapping, const AnyObject& k_scale,
              const AnyObject& v_scale, const py::str& layout, const DTypeLikeOrNone& dtype) {
  const Site where("ops.write_kv");
  const Caches caches(where, k_cache, v_cache, k_scale, v_scale, layout, dtype);
  caches.expect_writable();
  const Tensor keys(where, "k", k), values(where, "v", v);
  WriteKvCall call;
  call.k_cache = caches.k;
  call.v_cache = caches.v;
  call.k = to_cache_rows(keys, caches.k);
  call.v = to_cache_rows(values, caches.v);
  call.k_scale = caches.k_scale.view();
  call.v_scale = caches.v_scale.view();
  const target::Slots slots(where, slot_mapping, call.k.num_tokens);
  call.slot_mapping = slots.data();
  target::write_kv(where, call);
}

void mla_write(const AnyObject& ckv, const AnyObject& kpe, const AnyObject& ckv_cache,
               const AnyObject& kpe_cache, const AnyObject& slot_mapping,
               const DTypeLikeOrNone& dtype) {
  const Site where("ops.mla_write");
  const auto named = to_named(where, dtype);
  const Tensor latent(where, "ckv", ckv), rotary(where, "kpe", kpe);
  const Tensor latents(where, "ckv_cache", ckv_cache), rotaries(where, "kpe_cache", kpe_cache);
  latents.expect_writable();
  rotaries.expect_writable();
  MlaWriteCall call;
  call.ckv_cache = to_latent_cache(latents, named);
  call.kpe_cache = to_latent_cache(rotaries, named);
  call.ckv = to_cache_rows(latent, call.ckv_cache, true);
  call.kpe = to_cache_rows(rotary, call.kpe_cache, true);
  const target::Slots slots(where, slot_mapping, call.ckv.num_tokens);
  call.slot_mapping = slots.data();
  target::write_kv(where, as_write_kv(call));
}

/// The caller's array for a result, or a new one like `cache`'s.
struct GatheredRows {
  std::optional<Tensor> given;
  py::object array;
  RowsView view;

  GatheredRows(const Site& where, const char* argument, const AnyObject& out, const Tensor& like,
               const CacheView& cache, const std::optional<DType>& dtype, std::int64_t num_tokens) {
    const DType type = dtype.value_or(cache.dtype);
    if (out.is_none()) {
      const std::int64_t size = type == DType::int4 ? cache.head_dim / 2 : cache.head_dim;
      // Raw integers stay what they are shown as.
      auto [made, data] = like.make_like({num_tokens, cache.num_heads, size},
                                         type == cache.dtype ? std::nullopt : std::optional(type));
      array = std::move(made);
      view = rows_view(data, type, num_tokens, cache.num_heads, cache.head_dim);
      return;
    }
    given.emplace(where, argument, out);
    given->expect_writable();
    view = to_cache_rows(*given, cache);
    array = out;
    if (dtype && view.dtype != *dtype) {
      given->refuse(" of " + std::string(dtype_name(view.dtype)),
                    std::string(dtype_name(*dtype)) + ", which out_dtype names");
    }
  }
};

std::pair<AnyTensor, AnyTensor> gather_kv(
    const AnyObject& k_cache, const AnyObject& v_cache, const AnyObject& block_tables,
    const AnyObject& seq_lens, const AnyObject& k_scale, const AnyObject& v_scale,
    const py::str& layout, const DTypeLikeOrNone& dtype, const DTypeLikeOrNone& out_dtype,
    const std::optional<std::pair<AnyObject, AnyObject>>& out) {
  const Site where("ops.gather_kv");
  const Caches caches(where, k_cache, v_cache, k_scale, v_scale, layout, dtype);
  const auto wanted = to_named(where, out_dtype);
  target::Sequences sequences(where, block_tables, seq_lens);
  GatherKvCall call;
  call.k_cache = caches.k;
  call.v_cache = caches.v;
  call.k_scale = caches.k_scale.view();
  call.v_scale = caches.v_scale.view();
  sequences.bind(call);
  const AnyObject none = py::reinterpret_borrow<AnyObject>(py::none());
  const std::int64_t num_tokens = out ? 0 : sequences.num_tokens();
  const GatheredRows keys(where, "out[0]", out ? out->first : none, caches.k_tensor, caches.k,
                          wanted, num_tokens);
  const GatheredRows values(where, "out[1]", out ? out->second : none, caches.v_tensor, caches.v,
                            wanted, num_tokens);
  call.k = keys.view;
  call.v = values.view;
  target::gather_kv(where, call);
  return {py::reinterpret_borrow<AnyTensor>(keys.array),
          py::reinterpret_borrow<AnyTensor>(values.array)};
}

/// An array of blocks, of any elements, as bytes: `[num_blocks, ...]` of 2 to 4 dimensions. Of 3,
/// they are a block's slots, or its heads and slots where an element is a `factor`.
CacheView to_bytes(const Tensor& tensor, Layout layout, bool factor) {
  if (tensor.ndim() < 2) tensor.refuse(" of shape " + tensor.shape_text(), "2 to 4 dimensions");
  tensor.expect_rows();
  const auto bytes = static_cast<std::int64_t>(tensor.type().bytes);
  const std::size_t last = tensor.ndim() - 1;
  CacheView view;
  view.data = tensor.data();
  view.dtype = DType::int8;
  view.num_blocks = tensor.size(0);
  view.block_stride = tensor.stride(0);
  view.head_dim = factor ? bytes : tensor.size(last) * bytes;
  view.head_stride = view.token_stride = view.head_dim;
  if (factor && tensor.ndim() != 3) {
    tensor.refuse(" of shape " + tensor.shape_text(), "(num_blocks, num_kv_heads, block_size)");
  }
  const bool hnd = factor || layout == Layout::hnd;
  if (factor || tensor.ndim() == 4) {
    view.num_heads = tensor.size(hnd ? 1 : 2);
    view.head_stride = tensor.stride(hnd ? 1 : 2);
    view.block_size = tensor.size(hnd ? 2 : 1);
    view.token_stride = tensor.stride(hnd ? 2 : 1);
  } else if (tensor.ndim() == 3) {
    view.block_size = tensor.size(1);
    view.token_stride = tensor.stride(1);
  }
  return view;
}

/// The caches, and scales of one number a slot, each as bytes.
std::vector<CacheView> to_views(const Site& where, const AnyObject& caches, const AnyObject& scales,
                                Layout layout, std::vector<Tensor>& tensors) {
  std::vector<CacheView> views;
  for (const py::handle cache : caches) {
    const Tensor& tensor = tensors.emplace_back(where, "a cache", cache);
    tensor.expect_writable();
    views.push_back(to_bytes(tensor, layout, false));
  }
  for (const py::handle scale : scales) {
    const Tensor& tensor = tensors.emplace_back(where, "a scale", scale);
    tensor.expect_writable();
    views.push_back(to_bytes(tensor, layout, true));
  }
  return views;
}

void copy_blocks(const AnyObject& caches, const AnyObject& src_dst) {
  const Site where("ops.copy_blocks");
  std::vector<Tensor> tensors;
  const py::tuple no_scales;
  const auto views =
      to_views(where, caches, py::reinterpret_borrow<AnyObject>(no_scales), Layout::hnd, tensors);
  const target::Pairs pairs(where, "src_dst", src_dst);
  target::copy_blocks(where, views, pairs);
}

void move_slots(const AnyObject& caches, const AnyObject& slot_moves, const AnyObject& scales,
                const py::str& layout) {
  const Site where("ops.move_slots");
  std::vector<Tensor> tensors;
  const auto views = to_views(where, caches, scales, to_layout(where, layout), tensors);
  const target::Pairs pairs(where, "slot_moves", slot_moves);
  target::move_slots(where, views, pairs);
}

void swap_blocks(const AnyObject& src_cache, const AnyObject& dst_cache, const AnyObject& src_dst) {
  const Site where("ops.swap_blocks");
  const Tensor from(where, "src_cache", src_cache, Place::either);
  const Tensor to(where, "dst_cache", dst_cache, Place::either);
  if (from.type() != to.type()) {
    to.refuse(" of " + to.type().name(), from.type().name() + ", as src_cache");
  }
  to.expect_writable();
  const HostPairs pairs(where, "src_dst", src_dst);
  target::swap_blocks(where, to_bytes(from, Layout::hnd, false), to_bytes(to, Layout::hnd, false),
                      pairs);
}

/// float weights `[head_dim]`; no data for None.
RowsView to_weights(const Site& where, const char* argument, const AnyObject& value,
                    std::optional<Tensor>& tensor) {
  RowsView view;
  if (value.is_none()) return view;
  tensor.emplace(where, argument, value);
  tensor->expect_dims(1, "(head_dim,)");
  tensor->expect_rows();
  view = rows_view(tensor->data(), tensor->dtype(std::nullopt), 1, 1, tensor->size(0));
  return view;
}

AnyTensor rope_write_kv(const AnyObject& q, const AnyObject& k, const AnyObject& v,
                        const AnyObject& positions, const AnyObject& cos_sin_cache,
                        const AnyObject& k_cache, const AnyObject& v_cache,
                        const AnyObject& slot_mapping, bool interleaved,
                        const AnyObject& q_norm_weight, const AnyObject& k_norm_weight,
                        double norm_eps, const AnyObject& k_scale, const AnyObject& v_scale,
                        const py::str& layout, const DTypeLikeOrNone& dtype, const AnyObject& out) {
  const Site where("ops.rope_write_kv");
  const Caches caches(where, k_cache, v_cache, k_scale, v_scale, layout, dtype);
  caches.expect_writable();
  const auto named = to_named(where, dtype);
  const Tensor keys(where, "k", k), values(where, "v", v);
  RopeWriteKvCall call;
  call.k_cache = caches.k;
  call.v_cache = caches.v;
  call.k_scale = caches.k_scale.view();
  call.v_scale = caches.v_scale.view();
  call.k = to_rows(keys, named);
  call.v = to_cache_rows(values, caches.v);
  const target::Slots slots(where, slot_mapping, call.k.num_tokens);
  call.slot_mapping = slots.data();
  const target::Positions places(where, positions, call.k.num_tokens);
  places.bind(call);
  const Tensor angles(where, "cos_sin_cache", cos_sin_cache);
  angles.expect_dims(2, "(max_position, rotary_dim)");
  angles.expect_rows();
  if (angles.type() != ElementType{'f', 4}) angles.refuse(" of " + angles.type().name(), "float32");
  call.cos_sin_cache = reinterpret_cast<const float*>(angles.data());
  call.cos_sin_stride = angles.stride(0) / 4;
  call.max_position = angles.size(0);
  call.rotary_dim = angles.size(1);
  call.interleaved = interleaved;
  call.norm_eps = norm_eps;
  std::optional<Tensor> q_weight, k_weight, queries, given;
  call.q_norm_weight = to_weights(where, "q_norm_weight", q_norm_weight, q_weight);
  call.k_norm_weight = to_weights(where, "k_norm_weight", k_norm_weight, k_weight);
  py::object rotated = py::none();
  call.q.num_heads = 0;
  if (!q.is_none()) {
    queries.emplace(where, "q", q);
    call.q = to_rows(*queries, named);
    if (out.is_none()) {
      auto [made, data] =
          queries->make_like({call.q.num_tokens, call.q.num_heads, call.q.head_dim});
      call.q_out =
          rows_view(data, call.q.dtype, call.q.num_tokens, call.q.num_heads, call.q.head_dim);
      rotated = std::move(made);
    } else {
      given.emplace(where, "out", out);
      given->expect_writable();
      call.q_out = to_rows(*given, named);
      rotated = out;
    }
  }
  target::rope_write_kv(where, call);
  return py::reinterpret_borrow<AnyTensor>(rotated);
}

LseView to_lse(const Tensor& tensor, const RowsView& rows) {
  tensor.expect_dims(2, "(num_tokens, num_q_heads)");
  if (tensor.type() != ElementType{'f', 4}) tensor.refuse(" of " + tensor.type().name(), "float32");
  if (tensor.size(0) != rows.num_tokens || tensor.size(1) != rows.num_heads) {
    tensor.refuse(" of shape " + tensor.shape_text(), "(" + std::to_string(rows.num_tokens) + ", " +
                                                          std::to_string(rows.num_heads) + ")");
  }
  tensor.expect_aligned();
  return {reinterpret_cast<float*>(tensor.data()), tensor.stride(0) / 4, tensor.stride(1) / 4};
}

std::pair<AnyTensor, AnyTensor> merge_attention_states(
    const AnyObject& o_a, const AnyObject& lse_a, const AnyObject& o_b, const AnyObject& lse_b,
    const std::optional<std::pair<AnyObject, AnyObject>>& out) {
  const Site where("ops.merge_attention_states");
  const Tensor a(where, "o_a", o_a), b(where, "o_b", o_b);
  const Tensor weight_a(where, "lse_a", lse_a), weight_b(where, "lse_b", lse_b);
  MergeStatesCall call;
  call.o_a = to_rows(a, std::nullopt);
  call.o_b = to_rows(b, std::nullopt);
  call.lse_a = to_lse(weight_a, call.o_a);
  call.lse_b = to_lse(weight_b, call.o_b);
  std::optional<Tensor> given, given_lse;
  py::object merged, merged_lse;
  if (out) {
    given.emplace(where, "out[0]", out->first);
    given_lse.emplace(where, "out[1]", out->second);
    given->expect_writable();
    given_lse->expect_writable();
    call.o = to_rows(*given, std::nullopt);
    call.lse = to_lse(*given_lse, call.o);
    merged = out->first;
    merged_lse = out->second;
  } else {
    const RowsView& like = call.o_a;
    auto [made, data] = a.make_like({like.num_tokens, like.num_heads, like.head_dim});
    auto [made_lse, lse] = a.make_like({like.num_tokens, like.num_heads}, DType::float32);
    call.o = rows_view(data, like.dtype, like.num_tokens, like.num_heads, like.head_dim);
    call.lse = {reinterpret_cast<float*>(lse), like.num_heads, 1};
    merged = std::move(made);
    merged_lse = std::move(made_lse);
  }
  target::merge_attention_states(where, call);
  return {py::reinterpret_borrow<AnyTensor>(merged), py::reinterpret_borrow<AnyTensor>(merged_lse)};
}

}  // namespace

void register_ops_data(py::module_& m) {
  m.def("write_kv", &write_kv, py::arg("k"), py::arg("v"), py::arg("k_cache"), py::arg("v_cache"),
        py::arg("slot_mapping"), py::kw_only(), py::arg("k_scale") = py::none(),
        py::arg("v_scale") = py::none(), py::arg("layout") = "HND", py::arg("dtype") = py::none(),
        "See pagedkv.ops.write_kv.");
  m.def("mla_write", &mla_write, py::arg("ckv"), py::arg("kpe"), py::arg("ckv_cache"),
        py::arg("kpe_cache"), py::arg("slot_mapping"), py::kw_only(), py::arg("dtype") = py::none(),
        "See pagedkv.ops.mla_write.");
  m.def("gather_kv", &gather_kv, py::arg("k_cache"), py::arg("v_cache"), py::arg("block_tables"),
        py::arg("seq_lens"), py::kw_only(), py::arg("k_scale") = py::none(),
        py::arg("v_scale") = py::none(), py::arg("layout") = "HND", py::arg("dtype") = py::none(),
        py::arg("out_dtype") = py::none(), py::arg("out") = py::none(),
        "See pagedkv.ops.gather_kv.");
  m.def("copy_blocks", &copy_blocks, py::arg("caches"), py::arg("src_dst"),
        "See pagedkv.ops.copy_blocks.");
  m.def("move_slots", &move_slots, py::arg("caches"), py::arg("slot_moves"), py::kw_only(),
        py::arg("scales") = py::tuple(), py::arg("layout") = "HND", "See pagedkv.ops.move_slots.");
  m.def("swap_blocks", &swap_blocks, py::arg("src_cache"), py::arg("dst_cache"), py::arg("src_dst"),
        "See pagedkv.ops.swap_blocks.");
  m.def("rope_write_kv", &rope_write_kv, py::arg("q"), py::arg("k"), py::arg("v"),
        py::arg("positions"), py::arg("cos_sin_cache"), py::arg("k_cache"), py::arg("v_cache"),
        py::arg("slot_mapping"), py::kw_only(), py::arg("interleaved") = false,
        py::arg("q_norm_weight") = py::none(), py::arg("k_norm_weight") = py::none(),
        py::arg("norm_eps") = 1e-6, py::arg("k_scale") = py::none(),
        py::arg("v_scale") = py::none(), py::arg("layout") = "HND", py::arg("dtype") = py::none(),
        py::arg("out") = py::none(), "See pagedkv.ops.rope_write_kv.");
  m.def("merge_attention_states", &merge_attention_states, py::arg("o_a"), py::arg("lse_a"),
        py::arg("o_b"), py::arg("lse_b"), py::kw_only(), py::arg("out") = py::none(),
        "See pagedkv.ops.merge_attention_states.");
}

}  // namespace pagedkv::python
