// pagedkv.ops: attention.

#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "operands.hpp"
#include "target/operations.hpp"

namespace pagedkv::python {
namespace {

/// The array for results: the caller's, or a new one of the caller's kind. And the LSE.
class Results {
 public:
  Results(const Site& where, const AnyObject& out, bool return_lse, const Tensor& q,
          const std::optional<DType>& named, AttentionCall& call) {
    if (out.is_none()) {
      auto [array, data] =
          q.make_like({call.q.num_tokens, call.q.num_heads, call.v_cache.head_dim});
      call.out =
          rows_view(data, call.q.dtype, call.q.num_tokens, call.q.num_heads, call.v_cache.head_dim);
      out_ = std::move(array);
    } else {
      given_.emplace(where, "out", out);
      given_->expect_writable();
      call.out = to_rows(*given_, named);
      out_ = out;
    }
    if (!return_lse) return;
    auto [array, data] = q.make_like({call.q.num_tokens, call.q.num_heads}, DType::float32);
    call.lse = reinterpret_cast<float*>(data);
    lse_ = std::move(array);
  }

  [[nodiscard]] AnyTensor objects() const {
    if (!lse_) return py::reinterpret_borrow<AnyTensor>(out_);
    return py::reinterpret_borrow<AnyTensor>(py::make_tuple(out_, lse_));
  }

 private:
  std::optional<Tensor> given_;
  py::object out_, lse_;
};

/// Tokens that a query sees, 0 for all: what no length reaches is no window.
std::int64_t to_window(const Site& where, const std::optional<Index>& window) {
  if (!window) return 0;
  const std::size_t tokens = to_size(where, "window", *window);
  if (tokens == 0) pagedkv::detail::throw_shape(where, "window is 0; expected 1 or more, or None");
  return tokens > std::numeric_limits<std::int32_t>::max() ? 0 : static_cast<std::int64_t>(tokens);
}

std::int64_t to_sink_tokens(const Site& where, const Index& sink_tokens) {
  const std::size_t tokens = to_size(where, "sink_tokens", sink_tokens);
  constexpr std::size_t most = std::numeric_limits<std::int32_t>::max();
  return static_cast<std::int64_t>(std::min(tokens, most));
}

float to_softcap(const Site& where, const std::optional<double>& softcap) {
  if (!softcap) return 0;
  const auto cap = static_cast<float>(*softcap);
  if (!(cap > 0) || !std::isfinite(cap)) {
    pagedkv::detail::throw_shape(where, "softcap is " + std::to_string(*softcap) +
                                            "; expected a finite number above 0, or None");
  }
  return cap;
}

/// `[num_tokens, max_query_len]`
void bind_tree_mask(const Tensor& mask, const target::Sequences& sequences, AttentionCall& call) {
  mask.expect_dims(2, "(num_tokens, max_query_len)");
  mask.expect_rows();
  if (mask.type().bytes != 1 || (mask.type().kind != 'u' && mask.type().kind != '?')) {
    mask.refuse(" of " + mask.type().name(), "uint8 or bool");
  }
  const std::int64_t most = sequences.least_mask_width(call);
  if (mask.size(0) != call.q.num_tokens || mask.size(1) < most) {
    mask.refuse(" of shape " + mask.shape_text(), "(" + std::to_string(call.q.num_tokens) + ", " +
                                                      std::to_string(most) + " or more)");
  }
  call.tree_mask = reinterpret_cast<const std::uint8_t*>(mask.data());
  call.tree_mask_stride = mask.stride(0);
}

AnyTensor paged_attention(const AnyObject& q, const AnyObject& k_cache, const AnyObject& v_cache,
                          const AnyObject& block_tables, const AnyObject& seq_lens,
                          const AnyObject& query_start_loc, std::optional<double> scale,
                          bool causal, const std::optional<Index>& window, const Index& sink_tokens,
                          const AnyObject& sink_logits, std::optional<double> softcap,
                          const AnyObject& alibi_slopes, const AnyObject& tree_mask,
                          const AnyObject& k_scale, const AnyObject& v_scale, const py::str& layout,
                          const DTypeLikeOrNone& dtype, bool batch_invariant, bool exact,
                          const AnyObject& out, bool return_lse) {
  const Site where("ops.paged_attention");
  const Layout order = to_layout(where, layout);
  const auto named = to_named(where, dtype);
  const Tensor queries(where, "q", q), keys(where, "k_cache", k_cache),
      values(where, "v_cache", v_cache);
  AttentionCall call;
  call.q = to_rows(queries, named);
  call.k_cache = to_cache(keys, order, named);
  call.v_cache = to_cache(values, order, named);
  target::Sequences sequences(where, block_tables, seq_lens);
  sequences.start_at(query_start_loc);
  sequences.bind(call);

  call.scale = scale
                   ? *scale
                   : 1 / std::sqrt(static_cast<double>(std::max<std::int64_t>(call.q.head_dim, 1)));
  call.causal = causal;
  call.window = to_window(where, window);
  call.sink_tokens = to_sink_tokens(where, sink_tokens);
  call.softcap = to_softcap(where, softcap);
  call.exact = exact;
  const target::Floats logits(where, "sink_logits", sink_logits, call.q.num_heads);
  const target::Floats slopes(where, "alibi_slopes", alibi_slopes, call.q.num_heads);
  call.sink_logits = logits.data();
  call.alibi_slopes = slopes.data();
  std::optional<Tensor> mask;
  if (!tree_mask.is_none()) {
    bind_tree_mask(mask.emplace(where, "tree_mask", tree_mask), sequences, call);
  }
  const Scale k_factor(where, "k_scale", k_scale, call.k_cache);
  const Scale v_factor(where, "v_scale", v_scale, call.v_cache);
  call.k_scale = k_factor.view();
  call.v_scale = v_factor.view();
  const Results results(where, out, return_lse, queries, named, call);
  target::attend(where, call, batch_invariant);
  return results.objects();
}

AnyTensor mla_decode(const AnyObject& q_nope, const AnyObject& q_pe, const AnyObject& ckv_cache,
                     const AnyObject& kpe_cache, const AnyObject& block_tables,
                     const AnyObject& seq_lens, const AnyObject& query_start_loc, double scale,
                     const DTypeLikeOrNone& dtype, const AnyObject& out, bool return_lse) {
  const Site where("ops.mla_decode");
  const auto named = to_named(where, dtype);
  const Tensor queries(where, "q_nope", q_nope), rope(where, "q_pe", q_pe);
  const Tensor keys(where, "ckv_cache", ckv_cache), rope_keys(where, "kpe_cache", kpe_cache);
  AttentionCall call;
  call.q = to_rows(queries, named);
  call.q_rope = to_rows(rope, named);
  call.k_cache = call.v_cache = to_latent_cache(keys, named);
  call.k_rope_cache = to_latent_cache(rope_keys, named);
  if (call.k_rope_cache.head_dim == 0) rope_keys.refuse(" with no elements", "at least 8 a token");
  target::Sequences sequences(where, block_tables, seq_lens);
  sequences.start_at(query_start_loc);
  sequences.bind(call);
  call.scale = scale;
  const Results results(where, out, return_lse, queries, named, call);
  target::attend(where, call, false);
  return results.objects();
}

}  // namespace

void register_ops_attention(py::module_& m) {
  m.def("paged_attention", &paged_attention, py::arg("q"), py::arg("k_cache"), py::arg("v_cache"),
        py::arg("block_tables"), py::arg("seq_lens"), py::kw_only(),
        py::arg("query_start_loc") = py::none(), py::arg("scale") = py::none(),
        py::arg("causal") = true, py::arg("window") = py::none(), py::arg("sink_tokens") = 0,
        py::arg("sink_logits") = py::none(), py::arg("softcap") = py::none(),
        py::arg("alibi_slopes") = py::none(), py::arg("tree_mask") = py::none(),
        py::arg("k_scale") = py::none(), py::arg("v_scale") = py::none(), py::arg("layout") = "HND",
        py::arg("dtype") = py::none(), py::arg("batch_invariant") = false, py::arg("exact") = false,
        py::arg("out") = py::none(), py::arg("return_lse") = false,
        "See pagedkv.ops.paged_attention.");
  m.def("mla_decode", &mla_decode, py::arg("q_nope"), py::arg("q_pe"), py::arg("ckv_cache"),
        py::arg("kpe_cache"), py::arg("block_tables"), py::arg("seq_lens"), py::kw_only(),
        py::arg("query_start_loc") = py::none(), py::arg("scale"), py::arg("dtype") = py::none(),
        py::arg("out") = py::none(), py::arg("return_lse") = false, "See pagedkv.ops.mla_decode.");
}

}  // namespace pagedkv::python
