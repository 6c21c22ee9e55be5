"""Models with recurrent states: Mamba, Mamba-2, gated delta nets, linear attention, short
convolutions; most beside layers that attend."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pagedkv.plan.architectures.attention import (
    FULL,
    SLIDING,
    attention_shape,
    layer_types,
    num_layers,
)
from pagedkv.plan.architectures.latent import latent_shape
from pagedkv.plan.config import ModelConfig
from pagedkv.plan.layers import Attention, LayerCache, State

__all__ = ["CLASS_DEFAULTS", "READERS"]

Layers = list[tuple[LayerCache, ...]]

RECURRENT = ("mamba", "mamba2", "linear_attention", "conv", "recurrent")
NOTHING = ("mlp", "moe")
BOTH = ("hybrid",)


def mamba(config: ModelConfig, channels: int | None = None) -> State:
    """Mamba: a state of `d_state` values for each inner channel."""
    if channels is None:
        expand = config.number("mamba_expand", "expand", default=2)
        channels = expand * config.number("hidden_size", "d_model")
    return State(
        "Mamba",
        channels,
        1,
        config.number("mamba_d_state", "state_size", default=16),
        head_channels=channels,
        d_conv=config.number("mamba_d_conv", "conv_kernel", default=4),
    )


def mamba2(config: ModelConfig) -> State:
    """Mamba-2: heads, whose B and C groups of heads share."""
    heads = config.number("mamba_n_heads", "mamba_num_heads", "n_mamba_heads", "num_heads")
    inner = config.optional_number("mamba_d_ssm")
    head_dim = None
    for name in ("mamba_d_head", "mamba_head_dim", "mamba_headdim"):
        if config.values.get(name) not in (None, "auto"):
            head_dim = config.number(name)
            break
    if head_dim is None and config.model_type == "mamba2":
        head_dim = config.number("head_dim")
    if head_dim is None:
        if inner is None:
            expand = config.number("mamba_expand", "expand", default=2)
            inner = expand * config.number("hidden_size")
        if inner % heads:
            raise config.error(
                f"{inner} inner channels over {heads} heads of Mamba; expected heads that divide"
            )
        head_dim = inner // heads
    d_state = config.number("mamba_d_state", "ssm_state_size", "state_size")
    groups = config.number("mamba_n_groups", "mamba_ngroups", "n_groups", default=1)
    return State(
        "Mamba-2",
        heads,
        head_dim,
        d_state,
        head_channels=heads * head_dim,
        group_channels=2 * groups * d_state,
        num_groups=groups,
        d_conv=config.number("mamba_d_conv", "conv_kernel", default=4),
    )


def delta_net(config: ModelConfig) -> State:
    """A gated delta net: a matrix of keys by values for each head of values."""
    key_heads = config.number("linear_num_key_heads")
    value_heads = config.number("linear_num_value_heads")
    key_dim = config.number("linear_key_head_dim")
    value_dim = config.number("linear_value_head_dim")
    return State(
        "gated delta net",
        value_heads,
        value_dim,
        key_dim,
        head_channels=value_heads * value_dim,
        group_channels=2 * key_heads * key_dim,
        num_groups=key_heads,
        d_conv=config.number("linear_conv_kernel_dim"),
    )


def short_convolution(config: ModelConfig) -> State:
    """A gated convolution: the last inputs of each channel, and nothing else."""
    kernel = config.number("conv_L_cache", least=2)
    return State("convolution", config.number("hidden_size"), 1, kernel - 1)


def lightning(config: ModelConfig) -> State:
    """Linear attention: a matrix of keys by values for each head."""
    shape = attention_shape(config)
    heads = config.number("num_attention_heads")
    return State("linear attention", heads, shape.head_dim, shape.head_dim)


def _attention(config: ModelConfig, kind: str) -> Attention:
    window = config.number("sliding_window") if kind in SLIDING else None
    return attention_shape(config, window)


def _mamba(config: ModelConfig) -> Layers:
    """Nothing but states; here `intermediate_size` is the number of inner channels."""
    return [(mamba(config, config.optional_number("intermediate_size")),)] * num_layers(config)


def _by_types(config: ModelConfig, types: list[str], state: State, field: str) -> Layers:
    """What each entry of the list keeps."""
    layers: Layers = []
    for index, kind in enumerate(types):
        if kind in RECURRENT:
            layers.append((state,))
        elif kind in FULL + SLIDING:
            layers.append((_attention(config, kind),))
        elif kind in BOTH:
            layers.append((attention_shape(config), state))
        elif kind in NOTHING:
            layers.append(())
        else:
            known = ", ".join(FULL + SLIDING + RECURRENT + BOTH + NOTHING)
            raise config.error(f"{field}[{index}] is {kind!r:.40}; expected one of {known}")
    return layers


def _types(config: ModelConfig) -> list[str] | None:
    """The list of layers under whichever name the file has it."""
    for name in ("layer_types", "layers_block_type"):
        if config.has(name):
            return layer_types(config, (name,))
    return None


def _jamba(config: ModelConfig) -> Layers:
    types = _types(config)
    if types is None:
        period = config.number("attn_layer_period", default=8)
        offset = config.number("attn_layer_offset", default=4, least=0)
        if offset >= period:
            raise config.error(
                f"attn_layer_offset is {offset} of attn_layer_period {period}; expected less"
            )
        types = [
            "attention" if index % period == offset else "mamba"
            for index in range(num_layers(config))
        ]
    return _by_types(config, types, mamba(config), "layers_block_type")


def _check_layers(config: ModelConfig, field: str, indices: list[int], layers: range) -> None:
    for index in indices:
        if index not in layers:
            raise config.error(f"{field} has {index}; expected {layers[0]} to {layers[-1]}")


def _by_indices(config: ModelConfig, state: State, *names: str) -> Layers:
    """Layers of the list attend, the others are recurrent."""
    count = num_layers(config)
    indices = config.numbers(*names)
    if indices is None:
        raise config.error(f"{names[0]} is missing; expected the layers that attend")
    _check_layers(config, names[0], indices, range(count))
    types = ["attention" if index in set(indices) else "mamba" for index in range(count)]
    return _by_types(config, types, state, names[0])


def _bamba(config: ModelConfig) -> Layers:
    types = _types(config)
    if types is None:
        return _by_indices(config, mamba2(config), "attn_layer_indices")
    return _by_types(config, types, mamba2(config), "layer_types")


def _falcon_h1(config: ModelConfig) -> Layers:
    """Attention and a state side by side in every layer."""
    return [(attention_shape(config), mamba2(config))] * num_layers(config)


def _nemotron_h(config: ModelConfig) -> Layers:
    types, field = _types(config), "layers_block_type"
    if types is None:
        field = "hybrid_override_pattern"
        letters = {"M": "mamba", "*": "attention", "-": "mlp", "E": "moe"}
        pattern = config.text(field)
        if unknown := sorted(set(pattern) - set(letters)):
            raise config.error(
                f"{field} has {unknown[0]!r}; expected {', '.join(letters)} for Mamba, attention, "
                "MLP and experts"
            )
        types = [letters[letter] for letter in pattern]
        count = config.optional_number("num_hidden_layers")
        if count is not None and count != len(types):
            raise config.error(
                f"{field} has {len(types)} layers; expected num_hidden_layers, {count}"
            )
    return _by_types(config, types, mamba2(config), field)


def _zamba2(config: ModelConfig) -> Layers:
    """A shared block attends over the hidden size twice, beside the state of some layers."""
    types = _types(config)
    if types is None:
        indices = config.numbers("hybrid_layer_ids")
        if indices is None:
            raise config.error(
                "layers_block_type is missing; expected it, or hybrid_layer_ids, which say the "
                "layers that attend"
            )
        layers = range(num_layers(config))
        _check_layers(config, "hybrid_layer_ids", indices, layers)
        types = ["hybrid" if index in set(indices) else "mamba" for index in layers]
    heads = config.number("num_attention_heads")
    kv_heads = config.number("num_key_value_heads", default=heads)
    size = config.number("attention_hidden_size", default=2 * config.number("hidden_size"))
    head_dim = config.number("attention_head_dim", default=size // heads)
    shared, state = Attention(kv_heads, head_dim, head_dim), mamba2(config)
    known = {"hybrid": (shared, state), "mamba": (state,), "linear_attention": (state,)}
    for index, kind in enumerate(types):
        if kind not in known:
            raise config.error(
                f"layers_block_type[{index}] is {kind!r:.40}; expected one of {', '.join(known)}"
            )
    return [known[kind] for kind in types]


def _qwen_next(config: ModelConfig) -> Layers:
    types = _types(config)
    if types is None:
        interval = config.number("full_attention_interval", default=4)
        types = [
            "linear_attention" if (index + 1) % interval else "full_attention"
            for index in range(num_layers(config))
        ]
    return _by_types(config, types, delta_net(config), "layer_types")


def _kimi_linear(config: ModelConfig) -> Layers:
    """Latent attention in some layers, counted from 1, a delta net with gates in the others."""
    linear = config.part("linear_attn_config")
    if linear is None:
        raise config.error("linear_attn_config is missing; expected the layers that attend")
    heads, head_dim = linear.number("num_heads"), linear.number("head_dim")
    state = State(
        "delta net",
        heads,
        head_dim,
        head_dim,
        head_channels=3 * heads * head_dim,
        d_conv=linear.number("short_conv_kernel_size"),
    )
    attending = linear.numbers("full_attn_layers")
    if attending is None:
        raise linear.error("full_attn_layers is missing; expected the layers that attend")
    layers = range(1, num_layers(config) + 1)
    _check_layers(linear, "full_attn_layers", attending, layers)
    return [(latent_shape(config),) if index in attending else (state,) for index in layers]


def _minimax(config: ModelConfig) -> Layers:
    types, kinds = _types(config), config.numbers("attn_type_list")
    if types is None:
        if kinds is None:
            raise config.error("attn_type_list is missing; expected 0 (linear) or 1 a layer")
        if len(kinds) != num_layers(config) or set(kinds) - {0, 1}:
            raise config.error("attn_type_list; expected 0 (linear) or 1 (full), one a layer")
        types = ["full_attention" if kind else "linear_attention" for kind in kinds]
    return _by_types(config, types, lightning(config), "layer_types")


def _lfm2(config: ModelConfig) -> Layers:
    types, state = _types(config), short_convolution(config)
    if types is None:
        return _by_indices(config, state, "full_attn_idxs")
    return _by_types(config, types, state, "layer_types")


READERS: Mapping[str, Callable[[ModelConfig], Layers]] = {
    "bamba": _bamba,
    "falcon_h1": _falcon_h1,
    "falcon_mamba": _mamba,
    "granitemoehybrid": _bamba,
    "jamba": _jamba,
    "kimi_linear": _kimi_linear,
    "lfm2": _lfm2,
    "lfm2_moe": _lfm2,
    "mamba": _mamba,
    "mamba2": lambda config: [(mamba2(config),)] * num_layers(config),
    "minimax": _minimax,
    "minimax_m1": _minimax,
    "minimax_text_01": _minimax,
    "nemotron_h": _nemotron_h,
    "qwen3_5_moe_text": _qwen_next,
    "qwen3_5_text": _qwen_next,
    "qwen3_next": _qwen_next,
    "zamba2": _zamba2,
}

CLASS_DEFAULTS: Mapping[str, Mapping[str, int]] = {
    "lfm2": {"conv_L_cache": 3, "num_key_value_heads": 8},
    "mamba2": {"num_heads": 128, "head_dim": 64, "state_size": 128, "n_groups": 8},
    "nemotron_h": {
        "mamba_num_heads": 128, "mamba_head_dim": 64, "ssm_state_size": 128, "n_groups": 8,
        "conv_kernel": 4, "head_dim": 128, "num_key_value_heads": 8,
    },
    "qwen3_next": {
        "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_value_head_dim": 128,
        "linear_num_key_heads": 16, "linear_num_value_heads": 32, "head_dim": 256,
        "num_key_value_heads": 2,
    },
}  # fmt: skip
