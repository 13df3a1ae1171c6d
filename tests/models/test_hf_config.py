"""config.json files of published models: what they mean, and which are refused."""

import json
import math
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from hf_cases import CONFIGS

from rlvr_jax.models.hf_config import exported_config, hf_model, hf_model_of_spec, read_hf_model, source_dtype
from rlvr_jax.models.presets import PRESETS
from rlvr_jax.models.rope import RopeScaling
from rlvr_jax.models.spec import ModelSpec

LLAMA = {
    "model_type": "llama", "vocab_size": 32, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2,
    "num_attention_heads": 6, "max_position_embeddings": 128,
}  # fmt: skip
QWEN2 = LLAMA | {"model_type": "qwen2", "num_key_value_heads": 2}


def rope_of(**fields):
    spec = hf_model(LLAMA | fields).spec
    return spec.rope_theta, spec.rope_scaling


def test_sizes_are_read_and_absent_fields_have_the_families_defaults():
    assert hf_model(LLAMA).spec == ModelSpec(
        vocab_size=32, width=24, n_layers=2, n_heads=6, n_kv_heads=6, head_width=4, mlp_width=40,
        rope_theta=10_000.0, norm_eps=1e-6, has_tied_head=False, has_attention_bias=False,
    )  # fmt: skip
    assert hf_model(LLAMA).max_positions == 128
    small = {"num_attention_heads": 32, "hidden_size": 64}
    qwen3 = hf_model(LLAMA | small | {"model_type": "qwen3"}).spec
    assert (qwen3.head_width, qwen3.n_kv_heads, qwen3.qk_norm, qwen3.has_attention_bias) == (
        128,
        32,
        "each_head",
        False,
    )
    qwen2 = hf_model(LLAMA | small | {"model_type": "qwen2", "num_key_value_heads": None}).spec
    assert (qwen2.head_width, qwen2.n_kv_heads, qwen2.qk_norm, qwen2.has_attention_bias) == (2, 32, "none", True)
    olmo2 = hf_model(LLAMA | {"model_type": "olmo2"}).spec
    assert (olmo2.norm_eps, olmo2.qk_norm, olmo2.has_post_norm) == (1e-5, "all_heads", True)
    assert hf_model({"model_type": "llama"}).spec.width == 4096


def test_rotary_settings_mean_the_same_in_both_spellings():
    llama3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    expected = (500.0, RopeScaling("llama3", 8.0, 64, low_freq_factor=1.0, high_freq_factor=4.0))
    assert rope_of(rope_theta=500, rope_scaling={"rope_type": "llama3", **llama3}) == expected
    assert rope_of(rope_theta=500.0, rope_scaling={"type": "llama3", **llama3}) == expected
    assert rope_of(rope_parameters={"rope_type": "llama3", "rope_theta": 500.0, **llama3}) == expected
    assert rope_of(rope_theta=7.0, rope_parameters={"rope_theta": 500.0}) == (500.0, None)  # the inner one counts
    assert rope_of(rope_scaling=None, rope_theta=7.0) == rope_of(rope_scaling={"type": "default"}, rope_theta=7.0)
    assert rope_of(rope_scaling={"type": "linear", "factor": 2}) == (10_000.0, RopeScaling("linear", 2.0))


def test_the_length_a_model_was_first_trained_at_is_its_longest_unless_named():
    llama3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    assert rope_of(rope_scaling=llama3)[1].original_length == 128
    named = llama3 | {"original_max_position_embeddings": 64}
    assert rope_of(rope_scaling=named)[1].original_length == 64
    assert rope_of(rope_scaling=named, original_max_position_embeddings=32)[1].original_length == 32


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, 0.1 * math.log(4) + 1),
        ({"attention_factor": 1.5}, 1.5),
        ({"mscale": 2.0}, 0.1 * math.log(4) + 1),  # alone it says nothing
        ({"mscale": 2.0, "mscale_all_dim": 1.0}, (0.2 * math.log(4) + 1) / (0.1 * math.log(4) + 1)),
        ({"factor": 0.5}, 1.0),
    ],
)
def test_yarn_lengthens_queries_and_keys_by_the_papers_factor_unless_another_is_named(fields, expected):
    _, scaling = rope_of(rope_scaling={"rope_type": "yarn", "factor": 4.0} | fields)
    assert scaling.attention_factor == pytest.approx(expected)
    assert (scaling.beta_fast, scaling.beta_slow, scaling.is_range_rounded) == (32.0, 1.0, True)


def test_yarn_without_a_factor_stretches_from_the_first_length_to_the_longest():
    yarn = {"rope_type": "yarn", "factor": None, "original_max_position_embeddings": 32, "truncate": False}
    _, scaling = rope_of(rope_scaling=yarn)
    assert (scaling.factor, scaling.original_length, scaling.is_range_rounded) == (4.0, 32, False)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"model_type": "gpt2"},
            r"model_type='gpt2' is not supported; use a model of one of llama, qwen2, qwen3, olmo2",
        ),
        ({"model_type": None}, r"model_type=None is not supported"),
        ({"hidden_act": "gelu"}, r"hidden_act='gelu': only silu is supported"),
        ({"attention_bias": True}, r"attention_bias=true also biases the output projection"),
        ({"mlp_bias": True}, r"mlp_bias=true is not supported"),
        ({"quantization_config": {"bits": 4}}, r"quantised weights are not supported"),
        ({"auto_map": {"AutoModelForCausalLM": "x.Y"}}, r"code of its own, which is never run"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, r"layer_types has 'sliding_attention'"),
        ({"layer_types": 2}, r"layer_types=2 must be a list"),
        ({"auto_map": 2}, r"auto_map=2 must be an object of fields"),
        ({"model_type": ["llama"]}, r"model_type=\['llama'\] is not supported"),
        ({"rope_theta": 1.0, "rope_scaling": {"type": "yarn", "factor": 2.0}}, r"rope_theta=1.0 must be above 1"),
        ({"partial_rotary_factor": 0.5}, r"partial_rotary_factor=0.5 is not supported"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, r"partial_rotary_factor=0.5 is not supported"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, r"rope type 'dynamic' is not supported"),
        ({"rope_scaling": {"rope_type": "longrope"}}, r"rope type 'longrope' is not supported"),
        ({"rope_scaling": {"type": "linear"}}, r"factor=None must be a number above 0"),
        ({"rope_scaling": {"type": "linear", "factor": -1.0}}, r"factor=-1.0 must be a number above 0"),
        (
            {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": {"rope_theta": 1.0}},
            r"rope_scaling=.* and rope_parameters=.* differ; keep one",
        ),
        ({"rope_parameters": {"full_attention": {"rope_theta": 2.0}}}, r"differ between kinds of layers"),
        ({"rope_scaling": "yarn"}, r"rope_scaling='yarn' must be an object of fields"),
        ({"rope_theta": True}, r"rope_theta=True must be a number above 0"),
        ({"num_key_value_heads": 4}, r"num_attention_heads=6 is not a multiple of num_key_value_heads=4"),
        ({"hidden_size": 25}, r"hidden_size=25 is not a multiple of num_attention_heads=6; set head_dim"),
        ({"head_dim": 3}, r"heads of width 3 cannot be turned"),
        ({"num_hidden_layers": 2.0}, r"num_hidden_layers=2.0 must be a whole number above 0"),
        ({"tie_word_embeddings": "yes"}, r"tie_word_embeddings='yes' must be true or false"),
    ],
)
def test_what_would_be_another_network_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        hf_model(LLAMA | fields)


def test_all_that_makes_it_another_network_is_said_at_once():
    with pytest.raises(ValueError, match=r"hidden_act.*mlp_bias"):
        hf_model(LLAMA | {"hidden_act": "relu", "mlp_bias": True})


@pytest.mark.parametrize("family", ["qwen3", "olmo2"])
def test_biases_of_the_output_projection_are_refused_in_other_families_too(family):
    with pytest.raises(ValueError, match="attention_bias=true"):
        hf_model(LLAMA | {"model_type": family, "attention_bias": True, "num_key_value_heads": 6})


def test_a_sliding_window_is_refused_only_where_a_layer_uses_it():
    # published Qwen configs name a window that they do not use
    assert hf_model(QWEN2 | {"sliding_window": 32, "use_sliding_window": False, "max_window_layers": 1})
    assert hf_model(QWEN2 | {"sliding_window": 32, "use_sliding_window": True, "max_window_layers": 2})
    with pytest.raises(ValueError, match="use_sliding_window=true from layer 1 of 2 on"):
        hf_model(QWEN2 | {"sliding_window": 32, "use_sliding_window": True, "max_window_layers": 1})
    assert hf_model(QWEN2 | {"layer_types": ["full_attention"] * 2, "use_sliding_window": False})


@pytest.mark.parametrize("config", [*CONFIGS.values(), *(preset.config for preset in PRESETS.values())])
def test_a_config_made_of_a_spec_means_that_spec(config):
    model = hf_model(config)
    made = hf_model_of_spec(model.spec, max_positions=model.max_positions, token_ids={"eos_token_id": 2})
    assert made.family == model.family
    assert hf_model(json.loads(json.dumps(made.config))) == model
    assert made.config["eos_token_id"] == 2


def test_a_spec_that_no_family_has_is_refused():
    spec = ModelSpec(**(hf_model(QWEN2).spec.__dict__ | {"qk_norm": "each_head"}))
    with pytest.raises(ValueError, match=r"has_attention_bias=True with qk_norm='each_head' and has_post_norm=False"):
        hf_model_of_spec(spec, max_positions=64, token_ids={})


def test_an_exported_config_keeps_every_field_and_says_the_dtype_that_is_saved():
    config = LLAMA | {"something_else": [1], "torch_dtype": "bfloat16"}
    assert exported_config(hf_model(config), dtype="float32") == config | {"torch_dtype": "float32"}
    newer = LLAMA | {"dtype": "bfloat16"}
    assert exported_config(hf_model(newer), dtype="float16") == newer | {"dtype": "float16"}
    assert exported_config(hf_model(LLAMA), dtype="float32") == LLAMA | {"torch_dtype": "float32"}
    named = [source_dtype(hf_model(fields)) for fields in (config, newer, LLAMA, LLAMA | {"dtype": "auto"})]
    assert named == ["bfloat16", "bfloat16", "float32", "float32"]


def test_a_folder_without_a_readable_config_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"has no config.json; name the folder of a model"):
        read_hf_model(tmp_path)
    for content, message in (("{", "is not JSON"), ("[]", "holds list, not an object"), ("{}", "model_type=None")):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(ValueError, match=message):
            read_hf_model(tmp_path)
    (tmp_path / "config.json").write_bytes(b"\xff")
    with pytest.raises(ValueError, match="is not JSON"):
        read_hf_model(tmp_path)
