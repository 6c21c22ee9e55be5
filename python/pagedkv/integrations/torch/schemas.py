"""What each of ``torch.ops.pagedkv`` takes, gives and writes to, in torch's words.

An operation that can give different things has an overload for each: torch wants to know the number
of results, and what is written to. A scale is a tensor, or in its place a number, ``..._value``.
"""

__all__ = ["SCHEMAS"]

_TABLES = "Tensor block_tables, Tensor seq_lens"
_SCALES = (
    "Tensor? k_scale=None, Tensor? v_scale=None, "
    "float? k_scale_value=None, float? v_scale_value=None"
)
# Scales of one number a slot are computed by a write; which they are, only the shape tells.
_WRITTEN_SCALES = (
    "Tensor(s!)? k_scale=None, Tensor(t!)? v_scale=None, "
    "float? k_scale_value=None, float? v_scale_value=None"
)
_CACHES = 'str layout="HND", str? dtype=None'
_WRITE_TO = "Tensor(a!) k_cache, Tensor(b!) v_cache, Tensor slot_mapping"

_ATTENTION = (
    f"Tensor q, Tensor k_cache, Tensor v_cache, {_TABLES}, *, Tensor? query_start_loc=None, "
    "float? scale=None, bool causal=True, SymInt? window=None, SymInt sink_tokens=0, "
    "Tensor? sink_logits=None, float? softcap=None, Tensor? alibi_slopes=None, "
    f"Tensor? tree_mask=None, {_SCALES}, {_CACHES}, bool batch_invariant=False, bool exact=False"
)
_MLA = (
    f"Tensor q_nope, Tensor q_pe, Tensor ckv_cache, Tensor kpe_cache, {_TABLES}, *, float scale, "
    "Tensor? query_start_loc=None, str? dtype=None"
)
_GATHER = f"Tensor k_cache, Tensor v_cache, {_TABLES}, *, {_SCALES}, {_CACHES}, str? out_dtype=None"
_ROPE = (
    f"Tensor k, Tensor v, Tensor positions, Tensor cos_sin_cache, {_WRITE_TO}, *, "
    "bool interleaved=False, Tensor? q_norm_weight=None, Tensor? k_norm_weight=None, "
    f"float norm_eps=1e-06, {_WRITTEN_SCALES}, {_CACHES}"
)
_MERGE = "Tensor o_a, Tensor lse_a, Tensor o_b, Tensor lse_b"

SCHEMAS = (
    f"write_kv(Tensor k, Tensor v, {_WRITE_TO}, *, {_WRITTEN_SCALES}, {_CACHES}) -> ()",
    "mla_write(Tensor ckv, Tensor kpe, Tensor(a!) ckv_cache, Tensor(b!) kpe_cache, "
    "Tensor slot_mapping, *, str? dtype=None) -> ()",
    f"rope_write_kv(Tensor q, {_ROPE}) -> Tensor",
    f"rope_write_kv.out(Tensor q, {_ROPE}, Tensor(o!) out) -> ()",
    f"rope_write_kv.keys({_ROPE}) -> ()",
    f"gather_kv({_GATHER}, SymInt? num_tokens=None) -> (Tensor, Tensor)",
    f"gather_kv.out({_GATHER}, Tensor(o!) k_out, Tensor(p!) v_out) -> ()",
    "copy_blocks(Tensor(a!)[] caches, Tensor src_dst) -> ()",
    'move_slots(Tensor(a!)[] caches, Tensor slot_moves, *, str layout="HND") -> ()',
    "move_slots.scales(Tensor(a!)[] caches, Tensor slot_moves, *, Tensor(b!)[] scales, "
    'str layout="HND") -> ()',
    "swap_blocks(Tensor src_cache, Tensor(a!) dst_cache, Tensor src_dst) -> ()",
    f"paged_attention({_ATTENTION}) -> Tensor",
    f"paged_attention.lse({_ATTENTION}) -> (Tensor, Tensor)",
    f"paged_attention.out({_ATTENTION}, Tensor(o!) out) -> ()",
    f"paged_attention.out_lse({_ATTENTION}, Tensor(o!) out) -> Tensor",
    f"mla_decode({_MLA}) -> Tensor",
    f"mla_decode.lse({_MLA}) -> (Tensor, Tensor)",
    f"mla_decode.out({_MLA}, Tensor(o!) out) -> ()",
    f"mla_decode.out_lse({_MLA}, Tensor(o!) out) -> Tensor",
    f"merge_attention_states({_MERGE}) -> (Tensor, Tensor)",
    f"merge_attention_states.out({_MERGE}, *, Tensor(o!) out, Tensor(p!) lse_out) -> ()",
)
