"""The planner's reading of a configuration is what transformers' own caches hold.

Small random models of every kind take a prompt; each layer's keys, values and states are compared
with what the plan says that the layer keeps. transformers keeps one column more of a convolution
than is read, and `window - 1` tokens of a window between steps.
"""

from __future__ import annotations

import pytest
from support.models import CONFIGS, SMALL

from pagedkv.plan import PlanError, known_model_types, read_architecture
from pagedkv.plan.architectures import CLASS_DEFAULTS
from pagedkv.plan.layers import Attention, State

torch = pytest.importorskip("torch", reason="torch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

PROMPT = 20

# Latent rows are expanded to heads in transformers' cache, so there is nothing to compare.
COMPARED = sorted(set(SMALL) - {"deepseek"})


def caches(fields):
    model_type = fields["model_type"]
    others = {name: value for name, value in fields.items() if name != "model_type"}
    config = transformers.AutoConfig.for_model(model_type, **others)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        out = model((torch.arange(1, PROMPT + 1) % 64)[None], use_cache=True)
    found = getattr(out, "past_key_values", None)
    return (out.cache_params if found is None else found).layers


def sizes(states):
    return [tuple(state.shape[1:]) for state in states.values() if state is not None]


def count(shape):
    product = 1
    for size in shape:
        product *= size
    return product


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", COMPARED)
def test_every_layer_keeps_what_transformers_keeps(name):
    planned = read_architecture(SMALL[name]).layers
    layers = caches(SMALL[name])
    assert len(planned) == len(layers)
    for kept, layer in zip(planned, layers, strict=True):
        attention = [cache for cache in kept if isinstance(cache, Attention)]
        states = [cache for cache in kept if isinstance(cache, State)]
        keys = getattr(layer, "keys", None)
        assert bool(attention) == (keys is not None and keys.numel() > 0)
        for cache in attention:
            tokens = PROMPT if cache.window is None else cache.window - 1
            assert tuple(layer.keys.shape[1:]) == (cache.num_kv_heads, tokens, cache.head_dim)
            assert tuple(layer.values.shape[1:]) == (cache.num_kv_heads, tokens, cache.v_head_dim)
        convolutions = sizes(getattr(layer, "conv_states", {}))
        recurrent = sizes(getattr(layer, "recurrent_states", {}))
        assert bool(states) == bool(convolutions)
        for state in states:
            ((channels, columns),) = convolutions
            if not recurrent:  # a short convolution is all that there is
                assert (state.num_heads, state.d_state) == (channels, columns - 1)
                continue
            assert (state.conv_dim, state.d_conv) == (channels, columns)
            (shape,) = recurrent
            assert state.num_heads * state.head_dim * state.d_state == count(shape)


@pytest.mark.parametrize("model_type", sorted(CLASS_DEFAULTS))
def test_defaults_are_those_of_transformers_classes(model_type):
    name = {"gemma3": "gemma3_text"}.get(model_type, model_type)
    config = transformers.AutoConfig.for_model(name)
    for field, value in CLASS_DEFAULTS[model_type].items():
        # Of the class: an object of layers that differ does not give what they differ in.
        assert getattr(type(config), field) == value, field


# A default configuration that no model could be made of: no list of layers, no size of a head.
INCOMPLETE = {
    "bamba": "attn_layer_indices is missing",
    "glm4_moe": "head_dim is missing",
    "glm4v_moe_text": "head_dim is missing",
    "kimi_linear": "linear_attn_config is missing",
    "lfm2_moe": "full_attn_idxs is missing",
    "qwen3_omni_moe_text": "head_dim is missing",
}


@pytest.mark.parametrize(
    "model_type", sorted(set(known_model_types()) & set(transformers.CONFIG_MAPPING))
)
def test_the_default_configuration_of_every_known_class_is_read(model_type):
    fields = transformers.CONFIG_MAPPING[model_type]().to_dict()
    if model_type in INCOMPLETE:
        with pytest.raises(PlanError, match=INCOMPLETE[model_type]):
            read_architecture(fields)
    else:
        assert any(read_architecture(fields).layers)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name", ["gemma-2-9b", "gemma-3-27b", "gpt-oss-20b", "qwen3-next-80b-a3b", "jamba-v0.1"]
)
def test_layers_of_published_models_are_what_transformers_reads(name):
    config = transformers.AutoConfig.from_pretrained(CONFIGS / f"{name}.json")
    config = config.get_text_config()
    planned = read_architecture(CONFIGS / f"{name}.json").layers
    window = getattr(config, "sliding_window", None)
    reach = {"full_attention": None, "sliding_attention": window, "linear_attention": "state"}
    found = [getattr(cache, "window", "state") for (cache,) in planned]
    assert found == [reach[kind] for kind in config.layer_types]
