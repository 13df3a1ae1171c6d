"""Settings of an adapter that cannot work, and those that may surprise."""

import pytest

from rlvr_jax.train.assemble import assemble
from rlvr_jax.train.config import ConfigError, set_field
from rlvr_jax.train.validate import validate
from rlvr_jax.train.validate_lora import lora_warnings


def changed(config, fields):
    for path, value in fields.items():
        set_field(config, path, value)
    return config


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("lora.rank", 0, "lora.rank=0 must be at least 1"),
        ("lora.alpha", 0.0, "lora.alpha=0.0 must be above 0"),
        ("lora.alpha", -1.0, "lora.alpha=-1.0 must be above 0"),
        ("lora.peak_lr", -1e-4, "lora.peak_lr=-0.0001 must be at least 0"),
        ("lora.targets", (), "lora.targets=() leaves nothing to adapt; name some of query, key, value, out, gate"),
        ("lora.targets", ("query", "head"), "names 'head'; known are query, key, value, out, gate, up, down"),
        ("lora.targets", ("up", "up"), "lora.targets=('up', 'up') names a matrix twice"),
        ("lora.rank", 4.0, "lora.rank=4.0 must be a whole number"),
    ],
)
@pytest.mark.parametrize("enabled", [False, True])
def test_what_no_model_could_have_is_refused_in_one_message(tiny_config, field, value, message, enabled):
    with pytest.raises(ConfigError) as caught:
        validate(changed(tiny_config, {"lora.enabled": enabled, field: value}))
    assert len(caught.value.problems) == 1
    assert message in caught.value.problems[0]


def test_a_rank_beyond_the_smaller_side_of_a_matrix_is_refused_with_what_would_fit(tiny_config):
    # width 16; 2 heads of 8, so queries are 16 wide and keys and values 8; mlp 32
    with pytest.raises(ConfigError) as caught:
        assemble(changed(tiny_config, {"lora.enabled": True, "lora.rank": 9}))
    assert caught.value.problems == [
        "lora.rank=9 is more than the smaller side of 'key' (8), 'value' (8), where thin factors save nothing; use "
        "lora.rank=8 or less, or lora.targets=('query', 'out', 'gate', 'up', 'down') without them"
    ]
    with pytest.raises(ConfigError) as caught:
        assemble(changed(tiny_config, {"lora.targets": ("query",), "lora.rank": 17}))
    assert caught.value.problems == [
        "lora.rank=17 is more than the smaller side of 'query' (16), where thin factors save nothing; use "
        "lora.rank=16 or less"
    ]
    for fields in ({"lora.rank": 16}, {"lora.targets": ("value",), "lora.rank": 8}, {"lora.enabled": False}):
        assemble(changed(tiny_config, fields))


def test_the_plan_counts_what_is_there_and_what_is_trained(tiny_config):
    whole = assemble(tiny_config).plan
    assert whole.n_trained_parameters == whole.n_parameters
    # 3 per row and column of both layers: value 16 + 8, down 32 + 16
    fields = {"lora.enabled": True, "lora.rank": 3, "lora.targets": ("value", "down")}
    adapted = assemble(changed(tiny_config, fields)).plan
    assert adapted.n_trained_parameters == 2 * 3 * (24 + 48)
    assert adapted.n_parameters == whole.n_parameters + 2 * 3 * (24 + 48)


def test_an_adapters_rate_is_its_own_or_ten_times_that_of_full_weights(tiny_config):
    assert (tiny_config.peak_lr, tiny_config.peak_lr_text) == (1e-3, "optimizer.peak_lr=0.001")
    changed(tiny_config, {"lora.enabled": True})
    assert (tiny_config.peak_lr, tiny_config.peak_lr_text) == (1e-2, "lora.peak_lr=0.01")
    changed(tiny_config, {"lora.peak_lr": 0.03})
    assert (tiny_config.peak_lr, tiny_config.peak_lr_text) == (0.03, "lora.peak_lr=0.03")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"lora.enabled": True}, None),
        ({"lora.enabled": True, "lora.peak_lr": 5e-3}, None),
        ({"lora.enabled": True, "lora.peak_lr": 4e-3}, "lora.peak_lr=0.004 is 4 times optimizer.peak_lr=0.001"),
        ({"lora.enabled": True, "lora.peak_lr": 1e-3}, "use about 10 times, or lora.peak_lr=0 for that"),
        ({}, None),
        ({"lora.rank": 4, "lora.alpha": 8.0}, "lora.rank and lora.alpha do nothing while lora.enabled=False"),
    ],
)
def test_warnings_name_the_rate_that_learns_nothing_and_settings_that_do_nothing(tiny_config, fields, words):
    warnings = lora_warnings(changed(tiny_config, fields))
    if words is None:
        assert warnings == []
    else:
        (warning,) = warnings
        assert words in warning
