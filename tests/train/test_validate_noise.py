"""Settings of the noise measurement that cannot work, and those that may surprise."""

import pytest

from rlvr_jax.train.config import ConfigError, set_field
from rlvr_jax.train.validate import validate
from rlvr_jax.train.validate_noise import can_decompose, noise_warnings


def changed(config, fields):
    for path, value in fields.items():
        set_field(config, path, value)
    return config


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"noise.naive_minibatches": 1},
            "noise.naive_minibatches=1 has no spread; use 2 or more, or 0 for no gns/naive",
        ),
        (
            {"noise.keep_sketches": True, "batch.n_rollouts": 3},
            "with noise.decompose=True and batch.n_rollouts=3 there is none: use noise.decompose=True and "
            "batch.n_rollouts=4 or more",
        ),
        ({"noise.keep_sketches": True, "noise.decompose": False}, "with noise.decompose=False and batch.n_rollouts=4"),
        ({"noise.method": "tap"}, "noise.method='tap' is not one of ('taps', 'vmap')"),
        ({"noise.sketch_width": 1}, "noise.sketch_width=1 must be at least 2"),
    ],
)
def test_what_cannot_work_is_refused_with_its_fix(tiny_config, fields, message):
    with pytest.raises(ConfigError) as caught:
        validate(changed(tiny_config, fields))
    assert len(caught.value.problems) == 1
    assert message in caught.value.problems[0]


@pytest.mark.parametrize(
    "fields",
    [
        {"noise.every_updates": 0, "noise.naive_minibatches": 1},
        {"noise.every_updates": 0, "noise.keep_sketches": True, "batch.n_rollouts": 2},
        {"noise.naive_minibatches": 0, "batch.n_prompts": 1},  # one prompt has no equal parts
    ],
)
def test_what_is_not_measured_is_not_refused(tiny_config, fields):
    validate(changed(tiny_config, fields))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"batch.n_rollouts": 3}, "batch.n_rollouts=3: the noise is measured, but not split"),
        ({"sampling.max_rounds": 2}, "that of the filtered batch"),
        ({"algo.truncated": "mask"}, "with fewer than 4 it says nothing of the split"),
    ],
)
def test_what_may_surprise_is_said_only_when_noise_is_measured(tiny_config, fields, words):
    warnings = noise_warnings(changed(tiny_config, fields))
    assert len(warnings) == 1
    assert words in warnings[0]
    assert noise_warnings(changed(tiny_config, {"noise.every_updates": 0})) == []


def test_nothing_is_said_of_a_plain_measurement(tiny_config):
    assert noise_warnings(tiny_config) == []


@pytest.mark.parametrize(
    ("decompose", "n_rollouts", "expected"), [(True, 4, True), (True, 3, False), (False, 8, False)]
)
def test_a_split_needs_four_rollouts(tiny_config, decompose, n_rollouts, expected):
    fields = {"noise.decompose": decompose, "batch.n_rollouts": n_rollouts}
    assert can_decompose(changed(tiny_config, fields)) is expected
