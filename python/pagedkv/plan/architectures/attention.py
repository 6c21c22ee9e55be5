"""Models whose layers all attend: grouped heads, over everything before or over a window."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from pagedkv.plan.config import ModelConfig
from pagedkv.plan.layers import Attention, LayerCache

__all__ = [
    "CLASS_DEFAULTS",
    "READERS",
    "attention_shape",
    "full",
    "num_heads",
    "num_layers",
    "windows_by_layer_types",
]

Layers = list[tuple[LayerCache, ...]]

LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
HEADS = ("num_attention_heads", "n_head", "num_heads", "n_heads", "attention_heads")
HIDDEN = ("hidden_size", "n_embd", "n_embed", "d_model")
KV_HEADS = ("num_key_value_heads", "num_kv_heads", "n_head_kv", "multi_query_group_num")

# What `layer_types` calls them.
FULL = ("full_attention", "attention", "global_attention")
SLIDING = ("sliding_attention", "sliding_window_attention", "local_attention")
CHUNKED = ("chunked_attention",)


def num_layers(config: ModelConfig) -> int:
    """Layers of the model."""
    return config.number(*LAYERS)


def num_heads(config: ModelConfig) -> int:
    """Heads of queries; 0 of a model without attention."""
    return config.optional_number(*HEADS) or 0


def attention_shape(
    config: ModelConfig, window: int | None = None, kv_heads: int | None = None
) -> Attention:
    """Heads of keys and values and their size; where neither `kv_heads` nor the file says: as many
    as there are heads of queries, and the hidden size divided by those."""
    heads = config.number(*HEADS)
    if kv_heads is None:
        kv_heads = config.number(*KV_HEADS, default=heads)
    if heads % kv_heads:
        raise config.error(
            f"{heads} attention heads over {kv_heads} KV heads; expected a whole number each"
        )
    head_dim = config.optional_number("head_dim", "attention_head_dim")
    if head_dim is None:
        hidden = config.number(*HIDDEN)
        if hidden % heads:
            raise config.error(
                f"hidden_size is {hidden} over {heads} attention heads, and head_dim is missing; "
                "expected a head_dim, or a hidden_size that the heads divide"
            )
        head_dim = hidden // heads
    v_head_dim = config.optional_number("v_head_dim") or head_dim
    return Attention(kv_heads, head_dim, v_head_dim, window)


def full(config: ModelConfig) -> Layers:
    """Every layer attends to everything before it."""
    if config.has("layer_types") and set(config.texts("layer_types") or ()) - set(FULL):
        return windows_by_layer_types(config)
    return [(attention_shape(config),)] * num_layers(config)


def windows_by_layer_types(config: ModelConfig) -> Layers:
    """`layer_types` says of each layer what it is."""
    layers: Layers = []
    for index, kind in enumerate(layer_types(config, ("layer_types",))):
        if kind in FULL:
            layers.append((attention_shape(config),))
        elif kind in SLIDING:
            layers.append((attention_shape(config, config.number("sliding_window")),))
        elif kind in CHUNKED:
            config.assume("a layer of chunked attention is taken for a window of one chunk")
            layers.append((attention_shape(config, config.number("attention_chunk_size")),))
        else:
            raise config.error(
                f"layer_types[{index}] is {kind!r:.40}; expected {', '.join(FULL + SLIDING)} or "
                f"{', '.join(CHUNKED)}"
            )
    return layers


def layer_types(config: ModelConfig, names: tuple[str, ...]) -> list[str]:
    """The list, one entry a layer."""
    types = config.texts(*names)
    if types is None:
        raise config.error(f"{names[0]} is missing; expected a text a layer")
    expected = config.optional_number(*LAYERS)
    if expected is not None and len(types) != expected:
        raise config.error(
            f"{len(types)} {names[0]}; expected {expected}, one a layer (num_hidden_layers)"
        )
    return types


def _pattern(
    is_window: Callable[[ModelConfig, int], bool], size: str = "sliding_window"
) -> Callable[[ModelConfig], Layers]:
    """A reader: `layer_types` where there are any, else the layers that `is_window` tells."""

    def read(config: ModelConfig) -> Layers:
        if config.has("layer_types"):
            return windows_by_layer_types(config)
        window = config.optional_number(size)
        if window is None:
            return full(config)
        windowed, whole = (attention_shape(config, reach) for reach in (window, None))
        return [
            (windowed if is_window(config, index) else whole,)
            for index in range(num_layers(config))
        ]

    return read


def _every_nth_is_full(default: int) -> Callable[[ModelConfig], Layers]:
    def is_window(config: ModelConfig, index: int) -> bool:
        return bool((index + 1) % config.number("sliding_window_pattern", default=default))

    return _pattern(is_window)


def _qwen(config: ModelConfig) -> Layers:
    """Windows are off unless asked for, and then for the upper layers alone."""
    if config.has("layer_types") or not config.has("sliding_window"):
        return full(config)
    if not config.flag("use_sliding_window", default=False):
        return full(config)
    lowest = config.number("max_window_layers", default=28, least=0)
    return _pattern(lambda _, index: index >= lowest)(config)


def _gemma3n(config: ModelConfig) -> Layers:
    return _without_readers(config, _every_nth_is_full(5)(config), shared=15)


def _gemma4(config: ModelConfig) -> Layers:
    """Layers without a window have larger heads, perhaps fewer; the last one has no window."""
    layers = _every_nth_is_full(6)(config)
    whole = attention_shape(config)
    heads = whole.num_kv_heads
    if config.flag("attention_k_eq_v", default=False):
        heads = config.number("num_global_key_value_heads", default=heads)
    size = config.number("global_head_dim", default=512)
    large = replace(whole, num_kv_heads=heads, head_dim=size, v_head_dim=size)
    last = len(layers) - 1
    mixed: Layers = [
        layer if layer[0].window is not None and index < last else (large,)
        for index, layer in enumerate(layers)
        if isinstance(layer[0], Attention)
    ]
    return _without_readers(config, mixed, shared=0)


def _without_readers(config: ModelConfig, layers: Layers, shared: int) -> Layers:
    """The last layers read what earlier ones have stored, and store nothing."""
    shared = config.number("num_kv_shared_layers", default=shared, least=0)
    if shared >= len(layers):
        raise config.error(
            f"num_kv_shared_layers is {shared} of {len(layers)} layers; expected fewer"
        )
    return [*layers[: len(layers) - shared], *[()] * shared]


def _llama4(config: ModelConfig) -> Layers:
    """Three of four layers attend within a chunk."""
    if not config.has("layer_types"):
        config.assume("a layer of chunked attention is taken for a window of one chunk")
    return _pattern(lambda _, index: bool((index + 1) % 4), "attention_chunk_size")(config)


def _multi_head(config: ModelConfig) -> Layers:
    """Each head of queries has its own keys and values; the class has no field that says so."""
    return [(attention_shape(config, kv_heads=config.number(*HEADS)),)] * num_layers(config)


def _multi_query(config: ModelConfig) -> Layers:
    """One head of keys and values for all, unless that is switched off."""
    kv_heads = 1 if config.flag("multi_query", default=True) else config.number(*HEADS)
    return [(attention_shape(config, kv_heads=kv_heads),)] * num_layers(config)


def _falcon(config: ModelConfig) -> Layers:
    """The newer kind of decoder says how many heads of keys and values there are."""
    if config.flag("new_decoder_architecture", default=False):
        return full(config)
    return _multi_query(config)


ALL_WINDOWS = _pattern(lambda *_: True)
ALTERNATING = _pattern(lambda _, index: index % 2 == 0)

PLAIN = (
    "apertus", "arcee", "cohere", "dots1", "ernie4_5", "ernie4_5_moe", "exaone", "gemma", "glm",
    "glm4", "glm4_moe", "glm4v_text", "glm4v_moe_text", "granite", "granitemoe", "helium",
    "hunyuan_v1_dense", "hunyuan_v1_moe", "internlm2", "internlm3", "internvl_llm", "llama",
    "minimax_m2", "nemotron", "olmo", "olmo2", "olmoe", "phi", "phimoe", "seed_oss", "smollm3",
    "stablelm",
)  # fmt: skip

MULTI_HEAD = ("bloom", "codegen", "gpt2", "gpt_neox", "gptj", "opt", "persimmon", "xglm")

QWEN = (
    "qwen2", "qwen2_moe", "qwen2_vl", "qwen2_vl_text", "qwen2_5_vl", "qwen2_5_vl_text",
    "qwen2_5_omni_text", "qwen3", "qwen3_moe", "qwen3_vl_text", "qwen3_vl_moe_text",
    "qwen3_omni_moe_text",
)  # fmt: skip

READERS: Mapping[str, Callable[[ModelConfig], Layers]] = {
    **dict.fromkeys(PLAIN, full),
    **dict.fromkeys(MULTI_HEAD, _multi_head),
    **dict.fromkeys(
        ["ministral", "ministral3", "mistral", "mixtral", "phi3", "starcoder2"], ALL_WINDOWS
    ),
    **dict.fromkeys(QWEN, _qwen),
    **dict.fromkeys(["gemma2", "gpt_oss"], ALTERNATING),
    **dict.fromkeys(["gemma3", "gemma3_text"], _every_nth_is_full(6)),
    **dict.fromkeys(["gemma3n", "gemma3n_text"], _gemma3n),
    **dict.fromkeys(["gemma4", "gemma4_text"], _gemma4),
    "cohere2": _every_nth_is_full(4),
    "olmo3": _every_nth_is_full(4),
    "llama4_text": _llama4,
    "falcon": _falcon,
    "gpt_bigcode": _multi_query,
}

_LLAMA = {
    "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32,
}  # fmt: skip
_GEMMA = {
    "hidden_size": 2304, "num_hidden_layers": 26, "num_attention_heads": 8,
    "num_key_value_heads": 4, "head_dim": 256, "sliding_window": 4096,
}  # fmt: skip

CLASS_DEFAULTS: Mapping[str, Mapping[str, int]] = {
    "llama": _LLAMA,
    "mistral": {**_LLAMA, "num_key_value_heads": 8, "sliding_window": 4096},
    "gemma2": _GEMMA,
    "gemma3": _GEMMA,
    "gemma3_text": _GEMMA,
    "gemma3n_text": {
        **_GEMMA, "hidden_size": 2048, "num_hidden_layers": 35, "num_key_value_heads": 2,
        "sliding_window": 512,
    },
    "gpt_oss": {"head_dim": 64, "num_key_value_heads": 8, "sliding_window": 128},
    "gemma4_text": {**_GEMMA, "num_hidden_layers": 30, "sliding_window": 512},
    "cohere2": {"sliding_window": 4096},
    "olmo3": {"sliding_window": 4096},
    "llama4_text": {
        "num_hidden_layers": 48, "num_attention_heads": 40, "num_key_value_heads": 8,
        "head_dim": 128, "hidden_size": 5120, "attention_chunk_size": 8192,
    },
}  # fmt: skip
